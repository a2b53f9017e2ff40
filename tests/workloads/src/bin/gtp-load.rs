// SPDX-License-Identifier: GPL-2.0-only
//! What telecr's handling of tunnel tables is measured against, and the stopwatch.
//!
//! Each command prints one JSON object.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{ensure, Context};
use clap::{Parser, Subcommand};
use nix::sys::{
    resource::{getrusage, UsageWho},
    time::{TimeVal, TimeValLike},
};
use serde_json::json;
use telecr_workloads::gtpnl::{self, Netlink};

/// Tunnel tables, plainly
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Create a link and add tunnels, each with a message that is acknowledged, as libgtpnl does
    Fill {
        /// Name of the link
        #[arg(long, default_value = "gtp0")]
        link: String,
        /// Tunnels
        count: u32,
        /// Hash buckets of the link
        buckets: u32,
    },
    /// Read all tunnels and look at none
    Read,
    /// Run a program and tell how long it took and how much memory
    Run {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, required = true)]
        argv: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    let told = match Options::parse().command {
        Task::Fill {
            link,
            count,
            buckets,
        } => fill(&link, count, buckets)?,
        Task::Read => {
            let mut netlink = Netlink::gtp().context("no GTP driver")?;
            let began = Instant::now();
            let bytes = netlink.read_all()?;
            json!({ "us": us(began), "bytes": bytes })
        }
        Task::Run { argv } => run(&argv)?,
    };
    println!("{told}");
    Ok(())
}

fn us(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn fill(link: &str, count: u32, buckets: u32) -> anyhow::Result<serde_json::Value> {
    let mut netlink = Netlink::gtp().context("no GTP driver")?;
    let link = gtpnl::create_alone(link, buckets).context("cannot create the link")?;
    let peer = Ipv4Addr::new(192, 0, 2, 1).octets();
    let began = Instant::now();
    for n in 0..count {
        let ms = Ipv4Addr::from(0x0b00_0000 + n).octets();
        netlink.add_v1(link, [n + 1, n + 1], ms, peer)?;
    }
    Ok(json!({ "us": us(began), "tunnels": count }))
}

fn run(argv: &[String]) -> anyhow::Result<serde_json::Value> {
    let (program, args) = argv.split_first().context("no program")?;
    let began = Instant::now();
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    let us = us(began);
    ensure!(status.success(), "{program} ended with {status}");
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let system = TimeVal::num_microseconds(&usage.system_time());
    Ok(json!({ "us": us, "system_us": system, "rss_kib": usage.max_rss() }))
}
