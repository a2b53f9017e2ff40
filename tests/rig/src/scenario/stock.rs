// SPDX-License-Identifier: GPL-2.0-only
//! The rig itself, with nothing of telecr in it: what the other scenarios find is not the rig's doing.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Result;

use super::{mme, Scenario};
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-stock",
    about: "16 associations on a stock kernel, nobody moves",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Workloads,
        dest: false,
        wire: Wire {
            delay: Duration::from_millis(1),
            loss: 0,
        },
    },
    run,
};

pub(super) const PATCHED: Scenario = Scenario {
    name: "sctp-patched",
    about: "the same on the patched sctp.ko, with repair mode unused",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Patched,
        dest: false,
        wire: Wire {
            delay: Duration::from_millis(1),
            loss: 0,
        },
    },
    run,
};

/// Does CRIU work in the guests, with a process that has no sockets?
fn plain_criu(guest: &mut Guest) -> Result<()> {
    let pid = guest.spawn(&["sleep", "600"], "/dev/null")?;
    let dumped = migrate::dump(guest, pid, &[])?;
    migrate::must("source", "criu dump of sleep", &dumped)?;
    let restored = migrate::restore(guest)?;
    migrate::must("source", "criu restore of sleep", &restored)?;
    guest.signal(pid, libc::SIGKILL)
}

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    plain_criu(&mut lab.source)?;
    tell.step("CRIU dumps and restores a plain process");
    let talk = mme::start(lab)?;
    tell.step("16 associations are up, half of them IPv6");
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let began = SystemTime::now();
    thread::sleep(Duration::from_secs(5));
    let after = mme::settle(lab, &talk)?;
    let wire = lab.wire(mme::PORT, began, SystemTime::now())?;
    mme::judge(&before, &after, outcome);
    wire.judge(outcome);
    Ok(())
}
