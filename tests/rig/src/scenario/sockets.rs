// SPDX-License-Identifier: GPL-2.0-only
//! Sockets of every sort in one process tree, dumped and restored in place.

use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::Scenario;
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan, IMAGES, PEER4, SERVICE4, SERVICE4_NET},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

const PORT: u16 = 7100;
const REPORT: &str = "/var/tmp/zoo";

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-sockets",
    about: "listening, bound, fresh, shared, watched and not yet accepted sockets keep all that a program can see",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: false,
        wire: Wire { delay: Duration::from_millis(1), loss: 0 },
    },
    run,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    lab.source.sh(&migrate::addresses("add", &[SERVICE4_NET]))?;
    let service = format!("{SERVICE4}:{PORT}");
    let keeper = lab
        .source
        .spawn(&["socket-zoo", "keep", &service, REPORT], "/dev/null")?;
    says(&mut lab.source, "listening")?;
    let visitor = [
        "socket-zoo",
        "visit",
        &format!("{PEER4}:41000"),
        &service,
        REPORT,
    ];
    let visitor = lab.peer.spawn(&visitor, "/var/tmp/visit.log")?;
    says(&mut lab.source, "ready")?;
    says(&mut lab.peer, "ready")?;
    tell.step("source: a process with SCTP sockets of every sort, and a child that shares one");

    let began = SystemTime::now();
    lab.source.sh(&migrate::lock(&[SERVICE4]))?;
    let out = migrate::dump(&mut lab.source, keeper, &[])?;
    migrate::must("source", "criu dump", &out)?;
    outcome.figure("dump_ms", out.elapsed_ms);
    shows(&mut lab.source, outcome, &format!("telecr show {IMAGES}"))?;
    let out = migrate::restore(&mut lab.source)?;
    migrate::must("source", "criu restore", &out)?;
    outcome.figure("restore_ms", out.elapsed_ms);
    tell.step("source: dumped and restored in place");
    shows(&mut lab.source, outcome, "telecr sctp list")?;

    for (guest, pid) in [(&mut lab.source, keeper), (&mut lab.peer, visitor)] {
        guest.signal(pid, libc::SIGUSR1)?;
        guest.until("a verdict", 40.0, |g| Ok(report(g)? != "ready"))?;
        let verdict = report(guest)?;
        for fault in verdict.lines().filter(|v| *v != "ok") {
            outcome.fault(format!("{}: {fault}", guest.name));
        }
    }
    let wire = lab.wire(PORT, began, SystemTime::now())?;
    outcome.zero("init_packets", wire.init);
    outcome.zero("abort_packets", wire.abort);
    outcome.zero("shutdown_packets", wire.shutdown);
    outcome.zero("changed_tags", wire.changed_tags);
    Ok(())
}

/// A command that must print the listener and an association, as a table and as JSON.
fn shows(guest: &mut Guest, outcome: &mut Outcome, command: &str) -> Result<()> {
    let table = guest.sh(command)?;
    for word in [
        "LISTEN",
        &format!("{SERVICE4}:{PORT}"),
        &format!("{PEER4}:41000"),
    ] {
        outcome.require(table.contains(word), || {
            format!("`{command}` does not print {word}:\n{table}")
        });
    }
    let json = guest.sh(&format!("{command} --json"))?;
    let parsed: serde_json::Result<Vec<serde_json::Value>> = serde_json::from_str(&json);
    outcome.require(parsed.is_ok_and(|list| list.len() > 2), || {
        format!("`{command} --json` prints no list of sockets")
    });
    Ok(())
}

fn report(guest: &mut Guest) -> Result<String> {
    Ok(String::from_utf8_lossy(&guest.get(REPORT).unwrap_or_default()).into_owned())
}

fn says(guest: &mut Guest, word: &str) -> Result<()> {
    guest.until(&format!("socket-zoo to be {word}"), 30.0, |g| {
        Ok(report(g)? == word)
    })
}
