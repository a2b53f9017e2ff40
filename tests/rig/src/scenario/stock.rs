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
    lab::{Lab, Plan},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-stock",
    about: "16 associations on a stock kernel, nobody moves",
    in_all: true,
    plan: Plan { needs: Needs::Workloads, dest: false, wire: Wire { delay: Duration::from_millis(1), loss: 0 } },
    run,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talk = mme::start(lab)?;
    tell.step("16 associations are up, half of them IPv6");
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let began = SystemTime::now();
    thread::sleep(Duration::from_secs(5));
    let after = mme::settle(lab, &talk)?;
    let wire = lab.wire(mme::PORT, began, SystemTime::now())?;
    mme::judge(&before, &after, outcome);
    outcome.figure("sctp_packets", wire.in_window);
    outcome.zero("init_packets", wire.init);
    outcome.zero("abort_packets", wire.abort);
    outcome.zero("shutdown_packets", wire.shutdown);
    outcome.zero("changed_tags", wire.changed_tags);
    outcome.require(wire.in_window > 100, || "the capture is all but empty".into());
    Ok(())
}
