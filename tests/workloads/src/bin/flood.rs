// SPDX-License-Identifier: GPL-2.0-only
//! Peers that do not leave a service alone: sends again, many times a second, what this host has lately sent to an SCTP
//! service (messages, SACKs, heartbeats), and asks for new associations in between.
//!
//! SIGTERM ends it; it prints how many packets it has sent.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use telecr_workloads::{
    frames::{self, Wire},
    sys,
};

/// Floods an SCTP service
#[derive(Parser)]
struct Options {
    /// Interface
    #[arg(long, default_value = "eth0")]
    interface: String,
    /// Own address, from which new associations are asked for
    #[arg(long)]
    from: Ipv4Addr,
    /// The service
    #[arg(long)]
    to: Ipv4Addr,
    /// Its port
    #[arg(long)]
    port: u16,
    /// Packets per second
    #[arg(long, default_value_t = 2000)]
    rate: u64,
}

/// How many packets are kept to be sent again.
const KEPT: usize = 256;
/// One packet in so many is an INIT.
const INITS: u64 = 10;
/// INITs come from these ports in turn.
const PORTS: std::ops::Range<u16> = 50_000..51_000;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    sys::handle_signals()?;
    let wire = Wire::open(&options.interface)
        .with_context(|| format!("cannot listen on {}", options.interface))?;
    let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
    let mut buffer = vec![0; 65536];
    let (mut sent, mut next, mut port) = (0u64, 0usize, PORTS.start);
    let began = Instant::now();
    while !sys::asked().stop {
        while let Some(frame) = wire.outgoing(&mut buffer)? {
            if frames::may_repeat(frame, options.port) {
                kept.push_back(frame.to_vec());
                if kept.len() > KEPT {
                    kept.pop_front();
                }
            }
        }
        let due = u64::try_from(began.elapsed().as_millis())? * options.rate / 1000;
        // What was missed while this host had other things to do is not made up for.
        let first = due.saturating_sub(options.rate / 20).max(sent);
        for n in first..due {
            let Some(frame) = kept.get(next % kept.len().max(1)) else {
                break;
            };
            if n % INITS == 0 {
                let init = frames::init(frame, (options.from, port), (options.to, options.port));
                wire.send(&init);
                port = if port + 1 == PORTS.end {
                    PORTS.start
                } else {
                    port + 1
                };
            } else {
                wire.send(frame);
                next = next.wrapping_add(1);
            }
        }
        sent = due;
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("{}", wire.sent());
    Ok(())
}
