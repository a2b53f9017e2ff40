// SPDX-License-Identifier: GPL-2.0-only
//! The user plane of an SPGW on the kernel's GTP driver, as GGSNs in the field use it: opens the GTP ports, makes a link
//! on them, adds tunnels, answers echo requests, and takes commands on a control socket. It keeps its netlink socket
//! open, and remembers the numbers of link and family.
//!
//! Commands, a line each: `add N` adds the tunnel of UE N, `count` tells how many it has, `echoes` how many echo requests
//! it has answered.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, UdpSocket},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Context;
use clap::Parser;
use telecr_workloads::{
    gtpnl::{self, Netlink},
    gtpu::{self, Seen, Ue},
};

/// SPGW-like daemon on the kernel's GTP driver
#[derive(Parser)]
struct Options {
    /// Address of the GTP ports
    #[arg(long)]
    bind: Ipv4Addr,
    /// The GSN peer of all tunnels
    #[arg(long)]
    peer: Ipv4Addr,
    /// Tunnels to begin with
    #[arg(long, default_value_t = 0)]
    tunnels: u32,
    /// Also some tunnels of GTPv0, and of IPv6 and IPv4v6 UEs
    #[arg(long)]
    mixed: bool,
    /// Name of the link
    #[arg(long, default_value = "gtp0")]
    link: String,
    /// Hash buckets of the link
    #[arg(long, default_value_t = 1024)]
    buckets: u32,
    /// Control socket
    #[arg(long)]
    control: PathBuf,
}

/// What the threads share.
struct Spgw {
    netlink: Mutex<Netlink>,
    link: u32,
    peer: Ipv4Addr,
    tunnels: AtomicU64,
    echoes: AtomicU64,
}

impl Spgw {
    fn add(&self, ue: Ue) -> io::Result<()> {
        let teids = [ue.uplink_teid(), ue.downlink_teid()];
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        netlink.add_v1(self.link, teids, ue.address().octets(), self.peer.octets())?;
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// GTPv0 tunnels, IPv6 UEs, and UEs with both addresses behind one TEID.
    fn add_mixed(&self) -> io::Result<()> {
        let peer = self.peer.octets();
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        for n in 0..20u8 {
            let tid = 0x0012_3456_7890_0000 + u64::from(n);
            netlink.add_v0(self.link, tid, u16::from(n), [10, 61, 0, n + 1], peer)?;
            let mut ms = [0; 16];
            ms[..8].copy_from_slice(&[0xfd, 0, 0x60, 0, 0, 0, 0, n]);
            let teids = [0x3000_0000 + u32::from(n), 0x4000_0000 + u32::from(n)];
            netlink.add_v1_ipv6(self.link, teids, ms, peer)?;
            if n % 2 == 0 {
                netlink.add_v1(self.link, teids, [10, 61, 1, n + 1], peer)?;
            }
        }
        self.tunnels.fetch_add(50, Ordering::Relaxed);
        Ok(())
    }

    fn command(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        match (words.next(), words.next().and_then(|n| n.parse().ok())) {
            (Some("add"), Some(n)) => match self.add(Ue(n)) {
                Ok(()) => "ok".to_owned(),
                Err(e) => format!("error: {e}"),
            },
            (Some("count"), _) => self.tunnels.load(Ordering::Relaxed).to_string(),
            (Some("echoes"), _) => self.echoes.load(Ordering::Relaxed).to_string(),
            _ => "error: unknown command".to_owned(),
        }
    }

    fn serve(&self, stream: &UnixStream) -> io::Result<()> {
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        while reader.read_line(&mut line)? > 0 {
            writeln!(&mut &*stream, "{}", self.command(&line))?;
            line.clear();
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let bind = |port| {
        UdpSocket::bind((options.bind, port))
            .with_context(|| format!("cannot bind {}:{port}", options.bind))
    };
    let (v0, v1) = (bind(gtpu::PORT_V0)?, bind(gtpu::PORT)?);
    let netlink = Netlink::gtp().context("no GTP driver")?;
    let link = gtpnl::create(
        &options.link,
        v0.as_raw_fd(),
        v1.as_raw_fd(),
        options.buckets,
    )
    .with_context(|| format!("cannot create {}", options.link))?;
    let spgw = Arc::new(Spgw {
        netlink: Mutex::new(netlink),
        link,
        peer: options.peer,
        tunnels: AtomicU64::new(0),
        echoes: AtomicU64::new(0),
    });
    for n in 0..options.tunnels {
        spgw.add(Ue(n)).with_context(|| format!("tunnel {n}"))?;
    }
    if options.mixed {
        spgw.add_mixed().context("mixed tunnels")?;
    }
    let answers = Arc::clone(&spgw);
    thread::spawn(move || {
        let mut packet = [0; 2048];
        while let Ok((len, from)) = v1.recv_from(&mut packet) {
            let request = packet.get(..len).unwrap_or_default();
            if gtpu::take(request) == Seen::Signal(gtpu::ECHO_REQUEST) {
                if let Some(answer) = gtpu::echo_response(request) {
                    answers.echoes.fetch_add(1, Ordering::Relaxed);
                    let _ = v1.send_to(&answer, from);
                }
            }
        }
    });
    let _ = fs::remove_file(&options.control);
    let control = UnixListener::bind(&options.control).context("control socket")?;
    for stream in control.incoming() {
        spgw.serve(&stream?)?;
    }
    drop(v0);
    Ok(())
}
