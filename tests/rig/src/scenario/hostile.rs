// SPDX-License-Identifier: GPL-2.0-only
//! Repair mode under hostile timing and hostile input, all in one guest.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::Scenario;
use crate::{
    artefacts::{Needs, HOSTILE_TESTS},
    guest::Guest,
    lab::{Lab, Plan},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

const PLAN: Plan = Plan {
    needs: Needs::Tests,
    dest: false,
    wire: Wire {
        delay: Duration::ZERO,
        loss: 0,
    },
};

pub(super) const SOAK: Scenario = Scenario {
    name: "sctp-soak",
    about: "random associations under traffic on a bad wire move at any instant",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: |lab, outcome, tell| run(lab, outcome, tell, "soak", "SOAK "),
};

pub(super) const FUZZ: Scenario = Scenario {
    name: "sctp-fuzz",
    about: "netlink messages that are almost right leave the kernel whole",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: |lab, outcome, tell| run(lab, outcome, tell, "fuzz", "FUZZ "),
};

/// What the tests take from the environment of the rig.
const SETTINGS: [&str; 7] = [
    "TELECR_SOAK_SEED",
    "TELECR_SOAK_SEEDS",
    "TELECR_SOAK_AT_ONCE",
    "TELECR_SOAK_STILL",
    "TELECR_FUZZ_SEED",
    "TELECR_FUZZ_MESSAGES",
    "TELECR_FUZZ_TRACE",
];

/// Runs one test. Its lines that begin with `mark` hold the figures as JSON, and the faults.
fn run(
    lab: &mut Lab,
    outcome: &mut Outcome,
    tell: &Narrator,
    test: &str,
    mark: &str,
) -> Result<()> {
    let log = format!("/var/tmp/{test}.log");
    let settings: String = SETTINGS
        .iter()
        .filter_map(|name| {
            env::var(name)
                .ok()
                .map(|value| format!("{name}='{value}' "))
        })
        .collect();
    let command = format!(
        "modprobe -qa veth sch_netem; export LC_ALL=C {settings}; exec {HOSTILE_TESTS} --exact {test} --include-ignored --nocapture > {log} 2>&1"
    );
    let guest = &mut lab.source;
    let pid = guest.spawn(&["sh", "-c", &command], "/dev/null")?;
    let read = |guest: &mut Guest| -> Result<String> {
        Ok(String::from_utf8_lossy(&guest.get(&log)?).into_owned())
    };
    let (mut code, mut told) = (None, Instant::now());
    let ended = guest.until(&format!("{test} to end"), SECONDS, |guest| {
        thread::sleep(Duration::from_millis(500));
        if told.elapsed() > BETWEEN {
            told = Instant::now();
            tell.step(read(guest)?.lines().last().unwrap_or("nothing yet"));
        }
        code = guest.ended(pid)?;
        Ok(code.is_some())
    });
    let text = read(guest)?;
    ended.with_context(|| tail(&text))?;
    let code = code.context("no exit code")?;
    // The first word may stand behind "test fuzz ... ".
    let said = || text.lines().filter_map(|l| Some(l.split_once(mark)?.1));
    let figures = said()
        .find_map(|l| serde_json::from_str::<Map<String, Value>>(l).ok())
        .with_context(|| {
            format!(
                "{test} ended with {code} and told no figures: {}",
                tail(&text)
            )
        })?;
    for (name, value) in figures {
        outcome.figure(&name, value);
    }
    outcome.require(code == 0, || {
        format!("{test} ended with {code}: {}", tail(&text))
    });
    tell.step(&format!("{test} ended with {code}"));
    Ok(())
}

/// A guest lives a little longer, so that its logs are there to be read.
const SECONDS: f64 = 500.0;
/// Between two words on how far it is.
const BETWEEN: Duration = Duration::from_secs(20);

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
