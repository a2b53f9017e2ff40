// SPDX-License-Identifier: GPL-2.0-only
//! An MME-like server: each eNB is an association of its own, accepted as a socket of its own.
//!
//! SIGUSR1 writes the status file, SIGTERM ends the program.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use telecr_workloads::{engine::Engine, sctp::Socket};

/// MME-like SCTP server with numbered messages
#[derive(Parser)]
struct Options {
    /// Address and port to listen on; may be given several times
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Messages per second to each association
    #[arg(long, default_value_t = 20)]
    rate: u64,
    /// Where to write the status
    #[arg(long)]
    status: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut engine = Engine::new("mme-server", options.status, options.rate)?;
    for addr in options.listen {
        let socket = Socket::listen(addr).with_context(|| format!("cannot listen on {addr}"))?;
        engine.add_listener(socket)?;
    }
    engine.run()?;
    Ok(())
}
