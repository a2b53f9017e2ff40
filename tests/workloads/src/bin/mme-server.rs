// SPDX-License-Identifier: GPL-2.0-only
//! An MME-like server: each eNB is an association, accepted as a socket of its own or, with `--one-to-many`, all on one
//! multi-homed socket.
//!
//! SIGUSR1 writes the status file, SIGTERM ends the program.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

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

/// How long an address may take to be usable.
const UNIQUE_BY: Duration = Duration::from_secs(5);

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut engine = Engine::new("mme-server", options.status, options.rate)?;
    let _ends = options.in_flight.then(sys::in_flight).transpose()?;
    if options.one_to_many {
        let socket = listen(&options.listen, Style::OneToMany)?;
        engine.set_hub(socket)?;
    } else {
        for addr in options.listen {
            engine.add_listener(listen(&[addr], Style::OneToOne)?)?;
        }
    }
    engine.run()?;
    Ok(())
}

/// Listens, if need be after a while: an IPv6 address cannot be bound before the kernel has found it to be unique.
fn listen(addrs: &[SocketAddr], style: Style) -> anyhow::Result<Socket> {
    let began = Instant::now();
    loop {
        match Socket::listen(addrs, style) {
            Err(e)
                if e.kind() == io::ErrorKind::AddrNotAvailable && began.elapsed() < UNIQUE_BY =>
            {
                thread::sleep(Duration::from_millis(50));
            }
            other => return other.with_context(|| format!("cannot listen on {addrs:?}")),
        }
    }
}
