// SPDX-License-Identifier: GPL-2.0-only
//! Repair mode by itself, with no CRIU: the selftest of the kernel series, and the library's tests.

use std::time::Duration;

use anyhow::Result;

use super::Scenario;
use crate::{
    artefacts::{Needs, COMPANION_TESTS, SELFTESTS, YNL},
    guest::Guest,
    lab::{Lab, Plan},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-repair",
    about: "the selftest of the kernel series and the library's tests against repair mode",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Tests,
        dest: false,
        wire: Wire {
            delay: Duration::ZERO,
            loss: 0,
        },
    },
    run,
};

/// How long a set of tests may take, scaled.
const SECONDS: f64 = 180.0;

/// A policy for SELinux, and the one test that wants it.
const POLICY: &str = include_str!("labels.cil");
const LABELS: &str = "kinds::labels_of_an_association";

pub(super) fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    labelled(&mut lab.peer, outcome, tell)?;
    on(&mut lab.source, outcome, tell)
}

/// Labels of associations, on a host that booted with SELinux.
fn labelled(host: &mut Guest, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    host.put("/run/labels.cil", 0o644, POLICY.as_bytes())?;
    host.sh(
        "cd /run && secilc -c 33 -o policy -f contexts labels.cil && \
         mount -t selinuxfs none /sys/fs/selinux && dd if=policy of=/sys/fs/selinux/load bs=1M",
    )?;
    let command = format!("{COMPANION_TESTS} --include-ignored --exact {LABELS}");
    let count = tests(host, outcome, "label_tests", &command, "test ")?;
    tell.step(&format!("{}: {count} label_tests passed", host.name));
    Ok(())
}

/// Runs all tests on one host.
pub(super) fn on(host: &mut Guest, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let library = format!("{COMPANION_TESTS} --include-ignored --test-threads 1");
    let selftests = format!("e=0; for t in {SELFTESTS}/*; do $t || e=$?; done; exit $e");
    let spec = format!(
        "mkdir -p /var/tmp/linux && cd /var/tmp/linux && tar -xf {YNL} && \
         python3 tools/testing/selftests/net/sctp_repair_ynl.py"
    );
    for (figure, command, passed) in [
        ("selftests", &selftests, "ok "),
        ("ynl_tests", &spec, "ok "),
        ("library_tests", &library, "test "),
    ] {
        let count = tests(host, outcome, figure, command, passed)?;
        tell.step(&format!("{}: {count} {figure} passed", host.name));
    }
    Ok(())
}

/// Runs one set of tests and counts the lines of those that passed.
fn tests(
    guest: &mut Guest,
    outcome: &mut Outcome,
    figure: &str,
    command: &str,
    line: &str,
) -> Result<usize> {
    let log = format!("/var/tmp/{figure}.log");
    let out = guest.run_within(
        &["sh", "-c", &format!("({command}) > {log} 2>&1")],
        &[],
        SECONDS,
    )?;
    let text = String::from_utf8_lossy(&guest.get(&log)?).into_owned();
    let failed =
        |l: &&str| l.starts_with("not ok") || l.ends_with("FAILED") || l.contains("panicked");
    let count = text
        .lines()
        .filter(|l| l.starts_with(line) && !l.starts_with("test result"))
        .filter(|l| !l.ends_with("FAILED") && !l.contains("# SKIP"))
        .count();
    // A test that was skipped has shown nothing, but for the half of one family.
    let skipped = text
        .lines()
        .filter(|l| l.contains("# SKIP") && !l.contains("forges IPv4 packets only"));
    let skipped: Vec<&str> = skipped.collect();
    outcome.require(skipped.is_empty(), || {
        format!("{figure}: skipped: {}", skipped.join("; "))
    });
    outcome.figure(figure, count);
    outcome.require(out.code == 0 && count > 0, || {
        let failures: Vec<&str> = text.lines().filter(failed).collect();
        format!("{figure}: ended with {}: {}", out.code, failures.join("; "))
    });
    Ok(count)
}
