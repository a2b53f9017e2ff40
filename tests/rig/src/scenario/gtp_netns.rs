// SPDX-License-Identifier: GPL-2.0-only
//! An SPGW in a network namespace of its own, in the three ways that CRIU knows to move one.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::{
    bad_input, gtp,
    spgw::{self, ADDRESSES, SGI4},
    Scenario,
};
use crate::{
    artefacts::Needs,
    guest::{Guest, Output},
    lab::{Lab, Plan, IMAGES, SERVICE4},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "gtp-migrate-netns",
    about: "an SPGW moves with its network namespace: external, empty, and dumped by CRIU",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: true,
        wire: Wire {
            delay: Duration::from_millis(1),
            loss: 0,
        },
    },
    run,
};

const TUNNELS: u32 = 200;
const BEFORE: &str = "/var/tmp/before.img";
const BELOW: &str = "nsenter --net=/run/netns/epc";
const SCRIPT: &str = "/var/tmp/setup-namespaces";

/// Who cares for the network namespace on restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is there already, as podman does it.
    External,
    /// CRIU makes an empty one, and a script fills it, as docker does it.
    Empty,
    /// CRIU dumps and restores all that is in it.
    Dumped,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Empty => "empty",
            Self::Dumped => "dumped",
        }
    }
}

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    bridge(&mut lab.source, 1)?;
    bridge(lab.dest()?, 2)?;
    // The driver's netlink family gets another number here than on the destination.
    lab.dest()?.sh("modprobe gtp")?;
    lab.source
        .sh("modprobe gtp; for n in 1 2; do modprobe -r gtp; modprobe gtp; done")?;
    for way in [Way::External, Way::Empty, Way::Dumped] {
        moves(lab, way, outcome, tell)?;
    }
    Ok(())
}

/// Puts the guest's own address on a bridge, as hosts of containers have it.
fn bridge(guest: &mut Guest, number: u8) -> Result<()> {
    guest
        .sh(&format!(
            "modprobe bridge; modprobe veth; ip link add br0 type bridge; ip address flush dev eth0; \
             ip link set eth0 master br0; ip link set br0 up; ip address add 10.45.0.{number}/24 dev br0"
        ))
        .map(drop)
}

/// Commands that plug a new link into the namespace that `netns` tells of.
fn plug(netns: &str) -> String {
    format!(
        "ip link add veth-epc type veth peer name eth0 netns {netns}; ip link set veth-epc master br0 up"
    )
}

/// Commands that make a host of the namespace, after `first`.
fn settle(below: &str, first: &str) -> String {
    let own = migrate::addresses("add", &ADDRESSES);
    format!(
        "{below} sh -ec \"{first} ip link set lo up; ip link set eth0 up; {own}; \
         arping -q -U -c 1 -I eth0 {SERVICE4}; arping -q -U -c 1 -I eth0 {SGI4}\""
    )
}

fn lock() -> String {
    format!("{};", migrate::lock(&ADDRESSES))
}

fn moves(lab: &mut Lab, way: Way, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    lab.source.sh(&format!(
        "ip netns add epc; {}; {}",
        plug("epc"),
        settle(BELOW, "")
    ))?;
    let net = spgw::start_in(lab, BELOW, TUNNELS, &[])?;
    lab.source
        .sh(&format!("{BELOW} telecr gtp dump {BEFORE}"))?;
    let inode = lab.source.sh("stat -L -c %i /run/netns/epc")?;
    let external = format!("net[{}]:epc", inode.trim());
    let options: &[&str] = match way {
        Way::External => &["--external", &external],
        Way::Empty => &["--empty-ns", "net"],
        Way::Dumped => &[],
    };
    lab.source.sh(&format!("rm -rf {IMAGES}; mkdir {IMAGES}"))?;
    let out = migrate::dump(&mut lab.source, net.spgw, options)?;
    migrate::must("source", "criu dump", &out)?;
    migrate::transfer(lab, &[BEFORE])?;
    lab.source
        .sh("ip link delete veth-epc; ip netns delete epc")?;

    let dest = lab.dest()?;
    match way {
        Way::External => dest.sh(&format!(
            "ip netns add epc; {}; {}",
            plug("epc"),
            settle(BELOW, &lock())
        ))?,
        Way::Empty => dest.sh(&format!(
            "cat > {SCRIPT} <<'E'\n#!/bin/sh\nset -e\n[ $CRTOOLS_SCRIPT_ACTION = setup-namespaces ] || exit 0\n\
             ip netns attach epc $CRTOOLS_INIT_PID\n{}\n{}\nE\nchmod +x {SCRIPT}",
            plug("epc"),
            settle(BELOW, &lock())
        ))?,
        Way::Dumped => String::new(),
    };
    if way == Way::External {
        bad_input::refused(
            dest,
            "another number of the netlink family",
            &["2 of them make it"],
            outcome,
            tell,
            |guest| restore(guest, way),
        )?;
        dest.sh("for n in 1 2; do modprobe -r gtp; modprobe gtp; done")?;
    }
    let out = restore(dest, way)?;
    migrate::must("dest", "criu restore", &out)?;
    outcome.figure(&format!("restore_ms_{}", way.name()), out.elapsed_ms);
    let below = format!("nsenter -t {} -n", net.spgw);
    if way == Way::Dumped {
        dest.sh(&format!("{below} arping -q -U -c 1 -I eth0 {SERVICE4}; {below} arping -q -U -c 1 -I eth0 {SGI4}"))?;
    }
    let known = gtp::command(dest, "count")?;
    ensure!(known == TUNNELS.to_string(), "the SPGW answers {known:?}");
    let after = spgw::all_served(&mut lab.peer, &net)?;
    outcome.zero(&format!("refused_{}", way.name()), after.refused);
    outcome.zero(&format!("duplicated_{}", way.name()), after.duplicated);
    outcome.zero(&format!("astray_{}", way.name()), after.astray);
    outcome.zero(
        &format!("changed_ports_{}", way.name()),
        after.changed_ports,
    );
    let dest = lab.dest()?;
    gtp::same(dest, &below, BEFORE)?;
    ensure!(
        gtp::command(dest, "add 20000")? == "ok",
        "no tunnel was added"
    );
    tell.step(&format!(
        "network namespace {}: the SPGW has moved, every UE is served, nothing differs",
        way.name()
    ));
    lab.peer.signal(net.ran, libc::SIGTERM)?;
    lab.peer.wait(net.ran, 10.0)?;
    lab.dest()?.sh(&format!(
        "kill -9 {}; ip link delete veth-epc; ip netns delete epc 2>/dev/null || true",
        net.spgw
    ))?;
    // Nothing of the first life may be left on the source.
    lab.source.until("the source to be empty", 10.0, |g| {
        Ok(g.sh("pgrep -x telecr-departed || true")?.is_empty())
    })
}

fn restore(guest: &mut Guest, way: Way) -> Result<Output> {
    let options = match way {
        Way::External => "--inherit-fd fd[9]:epc 9</run/netns/epc".to_owned(),
        Way::Empty => format!("--empty-ns net --action-script {SCRIPT}"),
        Way::Dumped => "--external veth[eth0]:veth-epc@br0".to_owned(),
    };
    let script = format!("criu restore -d -D {IMAGES} -v4 -o restore.log {options}");
    guest.run(&["sh", "-c", &script])
}
