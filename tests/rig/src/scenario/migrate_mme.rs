// SPDX-License-Identifier: GPL-2.0-only
//! The main job: an MME-like server moves while 16 eNBs keep talking. `demo` is the same, for a person to watch.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Result;

use super::{
    mme::{self, Talk},
    Scenario,
};
use crate::{
    artefacts::Needs,
    lab::{Lab, Plan},
    migrate::{self, Move},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

/// A wire with some length, so that there is always something under way when the dump begins.
const WIRE: Wire = Wire {
    delay: Duration::from_millis(2),
    loss: 0,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-migrate-mme",
    about: "an MME-like server moves while 16 eNBs keep talking",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: true,
        wire: WIRE,
    },
    run,
};

pub(super) const LOSSY: Scenario = Scenario {
    name: "sctp-migrate-lossy",
    about: "the same while the network loses one packet in a hundred",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: true,
        wire: Wire {
            delay: Duration::from_millis(5),
            loss: 10,
        },
    },
    run,
};

pub(super) const MANY: Scenario = Scenario {
    name: "sctp-migrate-many",
    about: "the same with all associations on one one-to-many socket, each with two addresses on either side",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: true,
        wire: WIRE,
    },
    run: many,
};

pub(super) const DEMO: Scenario = Scenario {
    name: "demo",
    about: "an MME moves from one machine to another, and its 16 eNBs do not notice",
    in_all: false,
    keep: true,
    plan: Plan {
        needs: Needs::Everything,
        dest: true,
        wire: WIRE,
    },
    run: demo,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talk = mme::start(lab)?;
    tell.step("peer:   16 associations to the server, half of them IPv6, 20 messages a second each way on each");
    moves(lab, &talk, outcome, tell)
}

fn many(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talk = mme::start_with(lab, mme::Sockets::One)?;
    tell.step("peer:   16 associations of two paths each to one socket, 20 messages a second each way on each");
    moves(lab, &talk, outcome, tell)
}

fn moves(lab: &mut Lab, talk: &Talk, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talking = SystemTime::now();
    thread::sleep(Duration::from_secs(3));
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let what = Move {
        pid: talk.server,
        addresses: &mme::addresses(),
        files: &[],
        serves_on: false,
    };
    let window = migrate::migrate(lab, &what, outcome, tell)?;
    thread::sleep(Duration::from_secs(4));
    let after = mme::settle(lab, talk)?;
    tell.step("peer:   both sides stopped and compared what they sent with what arrived");
    let wire = lab.wire(mme::PORT, window.began, SystemTime::now())?;
    let since = SystemTime::now()
        .duration_since(talking)
        .unwrap_or_default();
    outcome.figure("talked_s", since.as_secs());
    mme::judge(&before, &after, outcome);
    wire.judge(outcome);
    outcome.require(wire.senders == 2, || {
        format!("{} hosts sent as the service, not 2", wire.senders)
    });
    Ok(())
}

fn demo(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    run(lab, outcome, tell)?;
    table(outcome, tell);
    Ok(())
}

/// The figures, for a person.
fn table(outcome: &Outcome, tell: &Narrator) {
    let rows = [
        ("associations", "associations", ""),
        ("messages exchanged", "messages", ""),
        ("lost", "lost", ""),
        ("duplicated", "duplicated", ""),
        ("reordered", "reordered", ""),
        ("INIT packets since the dump", "init_packets", ""),
        ("ABORT packets since the dump", "abort_packets", ""),
        ("SHUTDOWN packets since the dump", "shutdown_packets", ""),
        ("verification tags changed", "changed_tags", ""),
        ("dump", "dump_ms", " ms"),
        ("transfer", "transfer_ms", " ms"),
        ("restore", "restore_ms", " ms"),
        ("image", "image_bytes", " bytes"),
        ("longest silence the peer saw", "peer_gap_ms", " ms"),
    ];
    tell.heading("");
    for (words, name, unit) in rows {
        let value = outcome
            .get(name)
            .map_or_else(|| "?".to_string(), ToString::to_string);
        tell.heading(&format!("  {words:34}{value:>10}{unit}"));
    }
    tell.heading("");
}
