// SPDX-License-Identifier: GPL-2.0-only
//! The kernels other than Debian 13's: their companion by itself, and a service that moves from one to the next.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{anyhow, Context, Result};

use super::{mme, repair, Scenario};
use crate::{
    artefacts::Needs,
    image::Kind,
    lab::{Lab, Plan},
    migrate::{self, Move},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const OLD: Scenario = Scenario {
    name: "sctp-repair-6.1",
    about: "sctp-repair on Debian 12's kernel",
    in_all: false,
    keep: false,
    plan: alone(Kind::Debian12),
    run: repair::run,
};

pub(super) const NEW: Scenario = Scenario {
    name: "sctp-repair-7.2",
    about: "sctp-repair on Debian sid's kernel",
    in_all: false,
    keep: false,
    plan: alone(Kind::Sid),
    run: repair::run,
};

pub(super) const BOTH: Scenario = Scenario {
    name: "sctp-kernels",
    about: "sctp-repair on Debian 12's kernel and on Debian sid's, side by side",
    in_all: true,
    keep: false,
    plan: alone_with(Needs::TestsOnOthers),
    run: both,
};

pub(super) const CROSS: Scenario = Scenario {
    name: "sctp-cross-kernel",
    about: "an MME-like server moves from Linux 6.1 to 6.12, to 7.2 and back to 6.12 while 16 eNBs keep talking",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Kernels,
        dest: true,
        wire: Wire {
            delay: Duration::from_millis(2),
            loss: 0,
        },
    },
    run: cross,
};

const fn alone(kind: Kind) -> Plan {
    alone_with(Needs::TestsOn(kind))
}

const fn alone_with(needs: Needs) -> Plan {
    Plan {
        needs,
        dest: false,
        wire: Wire {
            delay: Duration::ZERO,
            loss: 0,
        },
    }
}

fn both(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    thread::scope(|scope| {
        let runs = lab.hosts()?.map(|host| {
            let name = host.name.clone();
            let run = scope.spawn(move || {
                let mut part = Outcome::default();
                repair::on(host, &mut part, tell).map(|()| part)
            });
            (name, run)
        });
        for (name, run) in runs {
            let part = run.join().map_err(|_| anyhow!("{name}: panicked"))?;
            outcome.part(&name, part.context(name.clone())?);
        }
        Ok(())
    })
}

fn cross(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talk = mme::start(lab)?;
    tell.step("peer:   16 associations to the server, half of them IPv6, 20 messages a second each way on each");
    thread::sleep(Duration::from_secs(3));
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let began = SystemTime::now();
    for (n, next) in ["linux-6.12", "linux-7.2", "linux-6.12"].iter().enumerate() {
        if n > 0 {
            lab.on_to(next)?;
        }
        let mut hop = Outcome::default();
        hop.figure("from", lab.source.sh("uname -r")?.trim());
        hop.figure("to", lab.dest()?.sh("uname -r")?.trim());
        let what = Move {
            pid: talk.server,
            addresses: &mme::addresses(),
            files: &[],
            serves_on: false,
        };
        let window = migrate::migrate(lab, &what, &mut hop, tell)?;
        thread::sleep(Duration::from_secs(3));
        let now = mme::snapshot(&mut lab.peer, talk.peer)?;
        hop.figure("established", now.established);
        let wire = lab.wire(mme::PORT, window.began, SystemTime::now())?;
        hop.figure("gap_ms", wire.gap_ms);
        wire.judge(&mut hop);
        hop.require(wire.senders == 2, || {
            format!("{} hosts sent as the service, not 2", wire.senders)
        });
        outcome.part(&format!("hop_{}", n + 1), hop);
    }
    let after = mme::settle(lab, &talk)?;
    tell.step("peer:   both sides stopped and compared what they sent with what arrived");
    mme::judge(&before, &after, outcome);
    lab.wire(mme::PORT, began, SystemTime::now())?
        .judge(outcome);
    Ok(())
}
