// SPDX-License-Identifier: GPL-2.0-only
//! Most of the memory goes ahead while the server works; its sockets stay untouched until the last dump.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Result};

use super::{
    mme::{self, Talk},
    Scenario,
};
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan, IMAGES},
    migrate::{self, Move},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

const PLAN: Plan = Plan {
    needs: Needs::Everything,
    dest: true,
    wire: Wire {
        delay: Duration::from_millis(2),
        loss: 0,
    },
};

/// Where `criu page-server` listens.
const PORT: &str = "9001";

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-predump",
    about: "two pre-dumps go ahead while the server works, then it moves",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: |lab, outcome, tell| run(lab, false, outcome, tell),
};

pub(super) const PAGE_SERVER: Scenario = Scenario {
    name: "sctp-page-server",
    about: "the same, with all memory sent to `criu page-server` on the destination",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: |lab, outcome, tell| run(lab, true, outcome, tell),
};

fn run(lab: &mut Lab, server: bool, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talk = mme::start(lab)?;
    thread::sleep(Duration::from_secs(2));
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let began = SystemTime::now();

    lab.dest()?
        .sh(&format!("rm -rf {IMAGES}; mkdir {IMAGES}"))?;
    for (round, parent) in [(1, None), (2, Some("../pre1"))] {
        pre_dump(lab, &talk, round, parent, server, outcome, tell)?;
    }

    let address = lab.dest()?.address();
    let remote = ["--page-server", "--address", &address, "--port", PORT];
    let mut options = vec!["--track-mem", "--prev-images-dir", "pre2"];
    if server {
        options.extend(remote);
        page_server(lab.dest()?, IMAGES, Some("pre2"))?;
    }
    let what = Move {
        pid: talk.server,
        addresses: &mme::addresses(),
        files: &[],
        serves_on: false,
    };
    migrate::migrate_rest(lab, &what, &options, outcome, tell)?;
    let first = pages(lab.dest()?, &format!("{IMAGES}/pre1"))?;
    let last = pages(lab.dest()?, IMAGES)?;
    outcome.figure("first_pages_bytes", first);
    outcome.figure("last_pages_bytes", last);
    outcome.require(last < first, || {
        format!("the last dump holds {last} bytes of memory, the first pre-dump {first}")
    });
    if server {
        let left = pages(&mut lab.source, IMAGES)?;
        outcome.require(left == 0, || {
            format!("{left} bytes of memory were written on the source")
        });
    }

    thread::sleep(Duration::from_secs(4));
    let after = mme::settle(lab, &talk)?;
    let wire = lab.wire(mme::PORT, began, SystemTime::now())?;
    mme::judge(&before, &after, outcome);
    wire.judge(outcome);
    outcome.require(wire.senders == 2, || {
        format!("{} hosts sent as the service, not 2", wire.senders)
    });
    Ok(())
}

/// One pre-dump into a folder below the last dump's, and its way to the destination.
fn pre_dump(
    lab: &mut Lab,
    talk: &Talk,
    round: u32,
    parent: Option<&str>,
    server: bool,
    outcome: &mut Outcome,
    tell: &Narrator,
) -> Result<()> {
    let dir = format!("{IMAGES}/pre{round}");
    lab.source.sh(&format!("mkdir -p {dir}"))?;
    let pid = talk.server.to_string();
    let mut argv = vec!["criu", "pre-dump", "-t", &pid, "-D", &dir, "--track-mem"];
    argv.extend(["-v4", "-o", "pre-dump.log"]);
    if let Some(parent) = parent {
        argv.extend(["--prev-images-dir", parent]);
    }
    let address = lab.dest()?.address();
    if server {
        lab.dest()?.sh(&format!("mkdir -p {dir}"))?;
        page_server(lab.dest()?, &dir, parent)?;
        argv.extend(["--page-server", "--address", &address, "--port", PORT]);
    }
    let out = lab.source.run(&argv)?;
    migrate::must("source", "criu pre-dump", &out)?;
    outcome.figure(&format!("pre_dump{round}_ms"), out.elapsed_ms);
    let ours = lab
        .source
        .sh(&format!("ls {dir}; grep -ia telecr {dir}/pre-dump.log"))?;
    ensure!(
        !ours.contains("telecr-sctp-") && !ours.contains("exchanged"),
        "pre-dump touched the sockets: {ours}"
    );
    mme::runs_on(lab, talk)?;
    let bytes = pages(if server { lab.dest()? } else { &mut lab.source }, &dir)?;
    ensure!(bytes > 0, "pre-dump {round} holds no memory");
    if !server {
        migrate::copy(lab, &[&dir])?;
    }
    tell.step(&format!(
        "source: criu pre-dump {round}, {} ms, {bytes} bytes of memory; the server works on",
        out.elapsed_ms
    ));
    Ok(())
}

/// Starts `criu page-server`, which ends after one dump.
fn page_server(guest: &mut Guest, dir: &str, parent: Option<&str>) -> Result<()> {
    let mut argv = vec!["criu", "page-server", "-d", "-D", dir, "--port", PORT];
    argv.extend(["-v4", "-o", "page-server.log"]);
    if let Some(parent) = parent {
        argv.extend(["--prev-images-dir", parent]);
    }
    let out = guest.run(&argv)?;
    migrate::must("dest", "criu page-server", &out)
}

/// Bytes of memory in the images of a folder.
fn pages(guest: &mut Guest, dir: &str) -> Result<u64> {
    let sum = guest.sh(&format!(
        "cat /dev/null $(find {dir} -maxdepth 1 -name 'pages-*.img') | wc -c"
    ))?;
    Ok(sum.trim().parse()?)
}
