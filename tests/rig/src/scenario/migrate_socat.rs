// SPDX-License-Identifier: GPL-2.0-only
//! A program nobody here wrote: Debian's `socat` receives a file and moves in the middle of it.

use std::time::{Duration, SystemTime};

use anyhow::{ensure, Context, Result};

use super::Scenario;
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan, PEER4, SERVICE4, SERVICE4_NET},
    migrate::{self, Move},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

const PORT: u16 = 7000;
const MIB: u64 = 64;
const SENT: &str = "/var/tmp/sent";
const RECEIVED: &str = "/var/tmp/received";

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-migrate-socat",
    about: "Debian's socat moves while it receives a file of 64 MiB",
    in_all: true,
    keep: false,
    // With 20 ms there and back and SCTP's default buffers the file takes some ten seconds.
    plan: Plan {
        needs: Needs::Everything,
        dest: true,
        wire: Wire {
            delay: Duration::from_millis(10),
            loss: 0,
        },
    },
    run,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    lab.peer
        .sh(&format!("head -c {MIB}M /dev/urandom > {SENT}"))?;
    let sum = sha256(&mut lab.peer, SENT)?;
    lab.source.sh(&migrate::addresses("add", &[SERVICE4_NET]))?;
    let listen = format!("SCTP4-LISTEN:{PORT},bind={SERVICE4}");
    let server = lab.source.spawn(
        &["socat", "-u", &listen, &format!("CREATE:{RECEIVED}")],
        "/dev/null",
    )?;
    lab.source.until("socat to listen", 10.0, |g| {
        Ok(g.run(&["ss", "-HSln"])?.stdout.contains("7000"))
    })?;
    let connect = format!("SCTP4-CONNECT:{SERVICE4}:{PORT},bind={PEER4}");
    let sender = lab.peer.spawn(
        &["socat", "-u", &format!("OPEN:{SENT}"), &connect],
        "/var/tmp/socat.log",
    )?;
    let quarter = MIB * 1024 * 1024 / 4;
    lab.source.until("a quarter of the file", 60.0, |g| {
        Ok(size(g).unwrap_or(0) > quarter)
    })?;
    tell.step("peer:   socat has sent a quarter of 64 MiB");

    let what = Move {
        pid: server,
        addresses: &[SERVICE4_NET],
        files: &[RECEIVED],
        serves_on: false,
    };
    let window = migrate::migrate(lab, &what, outcome, tell)?;
    let at_move = size(&mut lab.source)?;
    outcome.figure("received_before_move", at_move);
    outcome.require(at_move < MIB << 20, || {
        "the file was complete before the move".into()
    });
    lab.dest()?
        .until("socat to receive more", 60.0, |g| Ok(size(g)? > at_move))?;
    let on_the_way = lab.wire(PORT, window.began, SystemTime::now())?;
    outcome.figure("associations", 1);
    let code = lab.peer.wait(sender, 120.0)?;
    ensure!(
        code == 0,
        "peer: socat ended with {code}: {}",
        lab.peer.sh("cat /var/tmp/socat.log")?
    );
    lab.dest()?.until("socat to end", 30.0, |g| {
        Ok(g.run(&["pidof", "socat"])?.code != 0)
    })?;
    tell.step("peer:   socat has sent all of it and ended");

    let (got, got_sum) = (size(lab.dest()?)?, sha256(lab.dest()?, RECEIVED)?);
    outcome.figure("sha256_matches", got_sum == sum);
    outcome.zero("lost", (MIB << 20).saturating_sub(got));
    outcome.zero("duplicated", got.saturating_sub(MIB << 20));
    outcome.zero("reordered", u64::from(got == MIB << 20 && got_sum != sum));
    // The end of the file is an orderly SHUTDOWN, so those count only until the file has grown on the destination.
    let mut wire = lab.wire(PORT, window.began, SystemTime::now())?;
    wire.shutdown = on_the_way.shutdown;
    outcome.figure("peer_gap_ms", wire.gap_ms);
    wire.judge(outcome);
    outcome.require(wire.senders == 2, || {
        format!("{} hosts sent as the service, not 2", wire.senders)
    });
    Ok(())
}

fn size(guest: &mut Guest) -> Result<u64> {
    guest
        .sh(&format!("stat -c %s {RECEIVED}"))?
        .trim()
        .parse()
        .context("stat answered with no number")
}

fn sha256(guest: &mut Guest, path: &str) -> Result<String> {
    let out = guest.sh(&format!("sha256sum {path}"))?;
    Ok(out
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_string())
}
