// SPDX-License-Identifier: GPL-2.0-only
//! An MME-like server: each eNB is an association, accepted as a socket of its own or, with `--one-to-many`, all on one
//! multi-homed socket.
//!
//! SIGUSR1 writes the status file, SIGTERM ends the program.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::Parser;
use telecr_workloads::{
    engine::Engine,
    sctp::{Socket, Style},
    sys,
};

/// MME-like SCTP server with numbered messages
#[derive(Parser)]
struct Options {
    /// Address and port to listen on; may be given several times
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// One socket for all associations, bound to all addresses
    #[arg(long)]
    one_to_many: bool,
    /// Leave one more SCTP socket on its way through a unix socket, where nothing can dump it
    #[arg(long)]
    in_flight: bool,
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
    let _ends = options.in_flight.then(sys::in_flight).transpose()?;
    if options.one_to_many {
        let socket = Socket::listen(&options.listen, Style::OneToMany)
            .with_context(|| format!("cannot listen on {:?}", options.listen))?;
        engine.set_hub(socket)?;
    } else {
        for addr in options.listen {
            let socket = Socket::listen(&[addr], Style::OneToOne)
                .with_context(|| format!("cannot listen on {addr}"))?;
            engine.add_listener(socket)?;
        }
    }
    engine.run()?;
    Ok(())
}
