# SPDX-License-Identifier: GPL-2.0-only
#
# make demo     the main job, narrated
# make test     everything CI checks
# make install  DESTDIR=... PREFIX=/usr
# make deb      Debian packages, into target/deb
# make bench-gtp   rates of tunnel tables beside a bare read and an acknowledged loop
# make soak     200 seeds of associations that move at any instant (make test: 20)
# make bench-sctp  cost per association beside CRIU's TCP, throughput beside the stock module

VERSION   := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
PREFIX    ?= /usr
DESTDIR   ?=
KERNELS   := 6.1 6.12 7.2
RELEASE   := target/release
DKMS_SRC  := $(DESTDIR)$(PREFIX)/src/telecr-sctp-$(VERSION)
# bash reads SHELL-independent pipefail scripts; recipes here are one-liners.
SHELL     := /bin/bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: all demo test setup fmt lint unit kernel rig soak bench-gtp bench-sctp install programs install-cli install-dkms deb clean help

all: setup
	cargo build --release --workspace --locked

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup:
	@scripts/setup

demo: setup
	@cargo rig demo

test: fmt lint unit kernel rig

fmt: setup
	cargo fmt --all --check
	shellcheck scripts/setup scripts/deb .ci/run kernel-patches/kp kernel-patches/dkms/prepare

lint: setup
	cargo clippy --workspace --all-targets --locked -- -D warnings

unit: setup
	cargo test --workspace --locked

kernel: setup
	@for k in $(KERNELS); do kernel-patches/kp check $$k; done

rig: setup
	cargo rig all

bench-gtp: setup
	cargo rig bench-gtp

# A fresh guest for every 40 seeds.
soak: setup
	@for seed in 1 41 81 121 161; do TELECR_SOAK_SEED=$$seed TELECR_SOAK_SEEDS=40 cargo rig sctp-soak; done

bench-sctp: setup
	cargo rig bench-sctp

install: install-cli install-dkms

# Not the whole workspace: the rig has its own way to build its agent, and makes packages while it runs.
programs: setup
	cargo build --release --locked --package telecr --package telecr_plugin

# What `make` has built: root may have no Rust.
install-cli:
	@test -x $(RELEASE)/telecr -a -e $(RELEASE)/libtelecr_plugin.so || \
		{ echo "nothing to install yet; run: make" >&2; exit 1; }
	install -D -m 755 $(RELEASE)/telecr $(DESTDIR)$(PREFIX)/bin/telecr
	install -D -m 644 $(RELEASE)/libtelecr_plugin.so $(DESTDIR)$(PREFIX)/lib/criu/telecr_plugin.so
	install -d $(DESTDIR)$(PREFIX)/libexec/telecr
	ln -sfn ../../bin/telecr $(DESTDIR)$(PREFIX)/libexec/telecr/netavark
	install -D -m 644 podman/50-telecr.conf $(DESTDIR)/etc/containers/containers.conf.d/50-telecr.conf
	$(RELEASE)/telecr generate man $(DESTDIR)$(PREFIX)/share/man/man1
	$(RELEASE)/telecr generate completions $(DESTDIR)$(PREFIX)/share

install-dkms:
	kernel-patches/kp dkms $(KERNELS) $(VERSION) $(DKMS_SRC)

deb: programs
	@scripts/setup deb
	@scripts/deb $(VERSION)

clean:
	cargo clean
