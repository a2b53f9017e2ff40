// SPDX-License-Identifier: GPL-2.0-only
//! What moving costs: SCTP associations with telecr beside TCP connections with CRIU's own repair, and the throughput
//! of the patched module beside the stock one.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde::Serialize;

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

const PORT: u16 = 7300;
const STATUS: &str = "/var/tmp/bench";
/// CRIU was seen to take a quarter of a second for each connection under iptables: no more than these.
const IPTABLES_MOST: usize = 100;
/// Above, CRIU 4.1.1 ends with "bit out of range 0 - FD_SETSIZE on fd_set".
const NFTABLES_MOST: usize = 100;
const COUNTS: [usize; 4] = [1, 100, 1000, 10_000];
const ROUNDS: usize = 5;
const ROUND_SECONDS: usize = 4;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "bench-sctp",
    about: "dump and restore per SCTP association beside CRIU's TCP; throughput beside the stock module",
    in_all: false,
    keep: true,
    plan: Plan {
        needs: Needs::Bench,
        dest: false,
        wire: Wire {
            delay: Duration::ZERO,
            loss: 0,
        },
    },
    run,
};

/// How connections are kept from noticing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Telecr,
    Tcp(&'static str),
}

impl Way {
    fn protocol(self) -> &'static str {
        match self {
            Self::Telecr => "sctp",
            Self::Tcp(_) => "tcp",
        }
    }

    fn lock(self) -> &'static str {
        match self {
            Self::Telecr => "telecr",
            Self::Tcp(lock) => lock,
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Row {
    protocol: &'static str,
    lock: &'static str,
    connections: usize,
    dump_ms: u64,
    restore_ms: u64,
    image_bytes: u64,
}

impl Row {
    fn total_ms(&self) -> u64 {
        self.dump_ms + self.restore_ms
    }
}

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    migrate::own(&mut lab.source, &[SERVICE4_NET])?;
    throughput(lab, outcome, tell)?;
    let mut rows: Vec<Row> = Vec::new();
    tell.heading("  protocol  lock      connections   dump ms   restore ms   us each   bytes each");
    for count in COUNTS {
        for way in [
            Way::Telecr,
            Way::Tcp("skip"),
            Way::Tcp("nftables"),
            Way::Tcp("iptables"),
        ] {
            if matches!(way, Way::Tcp("iptables")) && count > IPTABLES_MOST
                || matches!(way, Way::Tcp("nftables")) && count > NFTABLES_MOST
            {
                continue;
            }
            let row = moved(lab, way, count).with_context(|| format!("{way:?}, {count}"))?;
            // What one connection costs beyond the process itself.
            let one = rows
                .iter()
                .find(|r| (r.protocol, r.lock, r.connections) == (row.protocol, row.lock, 1));
            let beyond = one.map_or(0, |one| row.total_ms().saturating_sub(one.total_ms()));
            let bytes = one.map_or(0, |one| row.image_bytes.saturating_sub(one.image_bytes));
            let others = (count as u64 - 1).max(1);
            tell.heading(&format!(
                "  {:8}  {:8}  {:11}  {:8}  {:11}  {:8}  {:11}",
                row.protocol,
                row.lock,
                count,
                row.dump_ms,
                row.restore_ms,
                beyond * 1000 / others,
                bytes / others
            ));
            rows.push(row);
        }
    }
    compare(&rows, outcome);
    outcome.figure("rows", &rows);
    Ok(())
}

/// Ratios of telecr's cost to that of CRIU's TCP repair without any lock.
fn compare(rows: &[Row], outcome: &mut Outcome) {
    let find = |lock: &str, count: usize| {
        rows.iter()
            .find(|r| r.lock == lock && r.connections == count)
            .map(Row::total_ms)
    };
    for count in COUNTS {
        if let (Some(ours), Some(theirs)) = (find("telecr", count), find("skip", count)) {
            outcome.figure(
                &format!("cost_ratio_{count}"),
                hundredths(ours, theirs.max(1)),
            );
        }
    }
    if let (Some(thousand), Some(ten)) = (find("telecr", 1000), find("telecr", 10_000)) {
        outcome.figure("growth_1000_to_10000", hundredths(ten, thousand.max(1)));
    }
}

fn hundredths(a: u64, b: u64) -> f64 {
    let ratio = a as f64 / b as f64;
    (ratio * 100.0).round() / 100.0
}

/// Dumps and restores in place a server with so many idle connections, and makes sure that each still echoes.
fn moved(lab: &mut Lab, way: Way, count: usize) -> Result<Row> {
    let service = format!("{SERVICE4}:{PORT}");
    let number = count.to_string();
    let from = format!("{PEER4}:20000");
    for guest in [&mut lab.source, &mut lab.peer] {
        guest.sh(&format!("rm -rf {STATUS} {IMAGES}; mkdir -p {IMAGES}"))?;
    }
    let argv = [
        "bench-conns",
        "serve",
        way.protocol(),
        &service,
        &number,
        STATUS,
    ];
    let server = lab.source.spawn(&argv, "/dev/null")?;
    says(&mut lab.source, "listening")?;
    let argv = [
        "bench-conns",
        "call",
        way.protocol(),
        &service,
        &number,
        STATUS,
        "--bind",
        &from,
    ];
    let caller = lab.peer.spawn(&argv, "/var/tmp/bench-call.log")?;
    says(&mut lab.peer, "ready")?;
    says(&mut lab.source, "ready")?;

    let locking = Instant::now();
    if way == Way::Telecr {
        lab.source.sh(&migrate::lock(&[SERVICE4]))?;
    }
    let locked_ms = u64::try_from(locking.elapsed().as_millis())?;
    let pid = server.to_string();
    let dump = ["criu", "dump", "-t", &pid, "-D", IMAGES, "-o", "dump.log"];
    let restore = ["criu", "restore", "-d", "-D", IMAGES, "-o", "restore.log"];
    let more: Vec<&str> = match way {
        Way::Telecr => Vec::new(),
        Way::Tcp(lock) => vec!["--tcp-established", "--network-lock", lock],
    };
    let mut timed = |what: &str, argv: &[&str]| -> Result<u64> {
        let out = lab
            .source
            .run_within(&[argv, &more[..]].concat(), &[], 200.0)?;
        migrate::must("source", what, &out)?;
        Ok(out.elapsed_ms)
    };
    let dump_ms = timed("criu dump", &dump)? + locked_ms;
    let restore_ms = timed("criu restore", &restore)?;
    let image_bytes = lab
        .source
        .sh(&format!("du -sb {IMAGES} | cut -f 1"))?
        .trim()
        .parse()
        .context("du answered with no number")?;

    lab.peer.signal(caller, libc::SIGUSR1)?;
    says(&mut lab.peer, &format!("heard {count}"))?;
    for (guest, pid) in [(&mut lab.peer, caller), (&mut lab.source, server)] {
        guest.sh(&format!(
            "kill -9 {pid} 2>/dev/null || true; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done"
        ))?;
    }
    Ok(Row {
        protocol: way.protocol(),
        lock: way.lock(),
        connections: count,
        dump_ms,
        restore_ms,
        image_bytes,
    })
}

fn says(guest: &mut Guest, word: &str) -> Result<()> {
    guest.until(&format!("bench-conns to say {word}"), 120.0, |g| {
        Ok(g.get(STATUS).unwrap_or_default() == word.as_bytes())
    })
}

/// iperf3 over the loopback of two guests, one with either module, in turns.
fn throughput(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let (mut patched, mut stock) = (Vec::new(), Vec::new());
    for guest in [&mut lab.source, &mut lab.peer] {
        guest.sh("ip link set lo mtu 1500")?;
        guest.spawn(&["iperf3", "--server"], "/dev/null")?;
        guest.until("iperf3 to listen", 20.0, |g| {
            Ok(g.sh("ss -Htln")?.contains(":5201"))
        })?;
    }
    for _ in 0..ROUNDS {
        patched.push(iperf(&mut lab.source)?);
        stock.push(iperf(&mut lab.peer)?);
    }
    let median = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let (ours, theirs) = (median(&mut patched), median(&mut stock));
    ensure!(theirs > 0.0, "iperf3 measured nothing");
    let ratio = (ours / theirs * 1000.0).round() / 1000.0;
    tell.step(&format!(
        "iperf3 --sctp: patched {:.0} Mbit/s, stock {:.0} Mbit/s, ratio {ratio}",
        ours / 1e6,
        theirs / 1e6
    ));
    outcome.figure("throughput_ratio", ratio);
    Ok(())
}

fn iperf(guest: &mut Guest) -> Result<f64> {
    let seconds = ROUND_SECONDS.to_string();
    let argv = [
        "iperf3",
        "--client",
        "127.0.0.1",
        "--sctp",
        "--json",
        "--time",
        &seconds,
    ];
    let out = guest.run_within(&argv, &[], 60.0)?;
    let json: serde_json::Value = serde_json::from_str(&out.stdout)
        .with_context(|| format!("iperf3 said {} {}", out.stdout, out.stderr))?;
    json["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 measured nothing: {}", json["error"]))
}
