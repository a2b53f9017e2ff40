// SPDX-License-Identifier: GPL-2.0-only
//! Large tunnel tables: what they cost beside the plainest ways to read and to fill them.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::Scenario;
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

const PLAN: Plan = Plan {
    needs: Needs::Bench,
    dest: false,
    wire: Wire {
        delay: Duration::ZERO,
        loss: 0,
    },
};

pub(super) const SCALE: Scenario = Scenario {
    name: "gtp-scale",
    about: "a million tunnels are dumped, compared and restored in little memory",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: scale,
};

pub(super) const BENCH: Scenario = Scenario {
    name: "bench-gtp",
    about: "rates of dump and restore beside a bare read and an acknowledged loop",
    in_all: false,
    keep: true,
    plan: PLAN,
    run: bench,
};

const MILLION: u32 = 1_000_000;
const IMAGE: &str = "/var/tmp/gtp.img";
/// What telecr may need besides the image, in KiB.
const MEMORY_KIB: u64 = 64 * 1024;

/// What one table cost.
#[derive(Clone, Debug, Serialize)]
struct Row {
    tunnels: u32,
    image_bytes: u64,
    /// Best of the rounds, microseconds: they differ by what else the host does.
    read_us: u64,
    dump_us: u64,
    fill_us: u64,
    restore_us: u64,
    /// What of them the kernel took.
    dump_system_us: u64,
    restore_system_us: u64,
    dump_rss_kib: u64,
    restore_rss_kib: u64,
}

impl Row {
    /// Rate of the dump against that of a bare read.
    fn dump_ratio(&self) -> f64 {
        ratio(self.read_us, self.dump_us)
    }

    /// Rate of the restore against that of an acknowledged loop.
    fn restore_ratio(&self) -> f64 {
        ratio(self.fill_us, self.restore_us)
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "microseconds of less than a century"
)]
fn ratio(a: u64, b: u64) -> f64 {
    (a as f64 / b.max(1) as f64 * 1000.0).round() / 1000.0
}

fn scale(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let row = measure(&mut lab.source, MILLION, 1, tell)?;
    outcome.figure("tunnels", row.tunnels);
    outcome.figure("dump_ms", row.dump_us / 1000);
    outcome.figure("restore_ms", row.restore_us / 1000);
    outcome.figure("image_bytes", row.image_bytes);
    outcome.figure("dump_rss_kib", row.dump_rss_kib);
    outcome.figure("restore_rss_kib", row.restore_rss_kib);
    let most = MEMORY_KIB + row.image_bytes / 1024;
    for (what, kib) in [("dump", row.dump_rss_kib), ("restore", row.restore_rss_kib)] {
        outcome.require(kib <= most, || {
            format!("{what} needs {kib} KiB of memory, more than {most}")
        });
    }
    Ok(())
}

fn bench(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let mut rows = Vec::new();
    for (tunnels, rounds) in [(1000, 5), (100_000, 3), (MILLION, 3)] {
        let row = measure(&mut lab.source, tunnels, rounds, tell)?;
        outcome.figure(&format!("dump_ratio_{tunnels}"), row.dump_ratio());
        outcome.figure(&format!("restore_ratio_{tunnels}"), row.restore_ratio());
        rows.push(row);
    }
    tell.heading(
        "  tunnels   read ms   dump ms (kernel)   ratio   fill ms   restore ms (kernel)   ratio   bytes each",
    );
    for r in &rows {
        tell.heading(&format!(
            "{:9} {:9} {:9} {:8} {:7.2} {:9} {:12} {:8} {:7.2} {:12}",
            r.tunnels,
            r.read_us / 1000,
            r.dump_us / 1000,
            r.dump_system_us / 1000,
            r.dump_ratio(),
            r.fill_us / 1000,
            r.restore_us / 1000,
            r.restore_system_us / 1000,
            r.restore_ratio(),
            r.image_bytes / u64::from(r.tunnels)
        ));
    }
    outcome.figure("rows", rows);
    Ok(())
}

/// Fills, reads, dumps and restores a table, `rounds` times in turn, and keeps the best of each.
fn measure(guest: &mut Guest, tunnels: u32, rounds: u32, tell: &Narrator) -> Result<Row> {
    let buckets = (tunnels / 4).next_power_of_two().clamp(1024, 1 << 19);
    let mut best: Option<Row> = None;
    for _ in 0..rounds {
        let fill = json(guest, &format!("gtp-load fill {tunnels} {buckets}"))?;
        let read = json(guest, "gtp-load read")?;
        let dump = json(guest, &format!("gtp-load run telecr gtp dump {IMAGE}"))?;
        guest.sh("ip link delete gtp0")?;
        guest.sh(&migrate::lock(&[&guest.address()]))?;
        let restore = json(guest, &format!("gtp-load run telecr gtp restore {IMAGE}"))?;
        let locked = guest.sh("telecr status")?;
        ensure!(
            locked.contains("nothing is locked"),
            "restore has left the lock: {locked}"
        );
        long(guest, &format!("telecr gtp diff {IMAGE} live"))?;
        guest.sh("ip link delete gtp0")?;
        let bytes = guest.sh(&format!("stat -c %s {IMAGE}"))?;
        let row = Row {
            tunnels,
            image_bytes: bytes.trim().parse().context("stat told no number")?,
            read_us: number(&read, "us")?,
            dump_us: number(&dump, "us")?,
            fill_us: number(&fill, "us")?,
            restore_us: number(&restore, "us")?,
            dump_system_us: number(&dump, "system_us")?,
            restore_system_us: number(&restore, "system_us")?,
            dump_rss_kib: number(&dump, "rss_kib")?,
            restore_rss_kib: number(&restore, "rss_kib")?,
        };
        best = Some(match best {
            None => row,
            Some(b) => Row {
                read_us: b.read_us.min(row.read_us),
                dump_us: b.dump_us.min(row.dump_us),
                fill_us: b.fill_us.min(row.fill_us),
                restore_us: b.restore_us.min(row.restore_us),
                dump_system_us: b.dump_system_us.min(row.dump_system_us),
                restore_system_us: b.restore_system_us.min(row.restore_system_us),
                ..row
            },
        });
    }
    let row = best.context("no round was run")?;
    tell.step(&format!(
        "{tunnels} tunnels: dumped in {} ms, restored in {} ms, the same as before",
        row.dump_us / 1000,
        row.restore_us / 1000
    ));
    Ok(row)
}

/// A million messages take their time without KVM.
fn long(guest: &mut Guest, command: &str) -> Result<String> {
    let argv: Vec<&str> = command.split(' ').collect();
    let out = guest.run_within(&argv, &[], 300.0)?;
    migrate::must("source", command, &out)?;
    Ok(out.stdout)
}

fn json(guest: &mut Guest, command: &str) -> Result<Value> {
    let out = long(guest, command)?;
    serde_json::from_str(&out).with_context(|| format!("{command} printed {out:?}"))
}

fn number(told: &Value, key: &str) -> Result<u64> {
    told.get(key)
        .and_then(Value::as_u64)
        .with_context(|| format!("no {key} in {told}"))
}
