// SPDX-License-Identifier: GPL-2.0-only
//! Many eNBs in one program: opens associations, talks on all of them and keeps the account of both directions.
//!
//! SIGUSR1 writes the status file. SIGUSR2 stops the sending, agrees with the server on the totals and writes the
//! status with `settled`. SIGTERM closes the associations and ends the program.

use std::{
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, Context};
use clap::Parser;
use telecr_workloads::{assoc::Assoc, engine::Engine, sctp::Socket};

/// SCTP peers with numbered messages
#[derive(Parser)]
struct Options {
    /// Own address and first port; given as often as --connect
    #[arg(long, required = true)]
    bind: Vec<SocketAddr>,
    /// Server address and port; associations take turns when there are several
    #[arg(long, required = true)]
    connect: Vec<SocketAddr>,
    /// Bind each association to all --bind addresses
    #[arg(long)]
    multi_homed: bool,
    /// Number of associations
    #[arg(long, default_value_t = 16)]
    associations: u16,
    /// Messages per second on each association
    #[arg(long, default_value_t = 20)]
    rate: u64,
    /// Where to write the status
    #[arg(long)]
    status: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.bind.len() != options.connect.len() {
        bail!("--bind and --connect differ in number: give one --bind for each --connect");
    }
    let mut assocs = Vec::new();
    let pairs = options.bind.iter().zip(&options.connect).cycle();
    for (number, (bind, to)) in (0..options.associations).zip(pairs) {
        let from: Vec<SocketAddr> = if options.multi_homed {
            &options.bind[..]
        } else {
            std::slice::from_ref(bind)
        }
        .iter()
        .map(|addr| SocketAddr::new(addr.ip(), bind.port() + number))
        .collect();
        let socket =
            connect(&from, *to).with_context(|| format!("cannot connect from {from:?} to {to}"))?;
        assocs.push((socket, u32::from(number) + 1));
    }
    let mut engine = Engine::new("enb-peer", options.status, options.rate)?;
    for (socket, number) in assocs {
        engine.add_assoc(Assoc::new(socket.into(), Some(number)))?;
    }
    engine.run()?;
    Ok(())
}

/// Connects, patiently: the server may be starting still.
fn connect(from: &[SocketAddr], to: SocketAddr) -> std::io::Result<Socket> {
    let began = Instant::now();
    loop {
        match Socket::connect(from, to) {
            Err(e) if began.elapsed() > Duration::from_secs(30) => return Err(e),
            Err(_) => thread::sleep(Duration::from_millis(200)),
            ok => return ok,
        }
    }
}
