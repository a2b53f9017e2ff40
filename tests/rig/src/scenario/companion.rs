// SPDX-License-Identifier: GPL-2.0-only
//! Sources whose `sctp.ko` will not do. A loaded `sctp` cannot be unloaded, so each has a guest of its own.

use std::{thread, time::Duration};

use anyhow::{Context, Result};

use super::{
    bad_input::refused,
    mme::{self, Talk},
    Scenario,
};
use crate::{
    artefacts::{Needs, GUEST_MODULES},
    guest::Guest,
    lab::{Lab, Plan},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-companion",
    about:
        "a source without the kernel companion, and one with an older companion, refuse and run on",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Unloaded,
        dest: true,
        wire: Wire {
            delay: Duration::from_millis(2),
            loss: 0,
        },
    },
    run,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let old = "/var/tmp/old.ko";
    older_module(&mut lab.source, old)?;
    with_module(
        lab,
        &format!("insmod {old}"),
        "module older than the tool",
        outcome,
        tell,
    )?;
    lab.swap()?;
    with_module(lab, "modprobe sctp", "no companion module", outcome, tell)
}

/// A server on a source with another `sctp.ko`: its dump must be refused, and it must run on.
fn with_module(
    lab: &mut Lab,
    load: &str,
    what: &str,
    outcome: &mut Outcome,
    tell: &Narrator,
) -> Result<()> {
    lab.source.sh(load)?;
    let talk = mme::start(lab)?;
    refused(
        &mut lab.source,
        what,
        &["sctp.ko", "module", "companion"],
        outcome,
        tell,
        |guest| migrate::dump(guest, talk.server, &[]),
    )?;
    mme::runs_on(lab, &talk).with_context(|| format!("after: {what}"))?;
    end(lab, &talk)
}

/// Ends both programs and takes the addresses off every host.
fn end(lab: &mut Lab, talk: &Talk) -> Result<()> {
    lab.peer.signal(talk.peer, libc::SIGTERM)?;
    lab.peer.wait(talk.peer, 10.0)?;
    thread::sleep(Duration::from_secs(1));
    let clear = format!(
        "({}) 2>/dev/null || true",
        migrate::addresses("del", &mme::addresses())
    );
    lab.source
        .sh("pkill mme-server || true; while pidof mme-server; do sleep 0.1; done")?;
    lab.source.sh(&clear)?;
    lab.dest()?.sh("pkill mme-server || true")?;
    lab.dest()?.sh(&clear)?;
    Ok(())
}

/// Makes a module that says it is of feature level 0: the number follows the family's name.
fn older_module(guest: &mut Guest, to: &str) -> Result<()> {
    let mut module = guest.get(&format!("{GUEST_MODULES}/sctp.ko"))?;
    let mut family = b"sctp_repair".to_vec();
    family.resize(16, 0);
    family.push(1);
    let at = module
        .windows(family.len())
        .position(|w| w == family)
        .context("no such family in sctp.ko")?;
    if let Some(version) = module.get_mut(at + 16) {
        *version = 0;
    }
    guest.put(to, 0o644, &module)
}
