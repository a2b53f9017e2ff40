// SPDX-License-Identifier: GPL-2.0-only
//! The other side of an SPGW: an eNB with many UEs, and the host on the internet they talk to.
//!
//! Each UE sends numbered packets through its tunnel, the host sends each one back, and the eNB takes it out of the UE's
//! tunnel again. The first UEs send often, to see how long service is interrupted; all others take turns.
//!
//! SIGUSR1 writes the status file, SIGTERM ends the program.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use telecr_workloads::{
    gtpu::{self, Seen, Ue},
    ran::{Account, Sent, Status},
    sys,
};

/// eNB, UEs and an internet host in one
#[derive(Parser)]
struct Options {
    /// Address of the eNB
    #[arg(long)]
    bind: Ipv4Addr,
    /// Address of the SPGW
    #[arg(long)]
    spgw: Ipv4Addr,
    /// The internet host that sends everything back
    #[arg(long)]
    host: SocketAddrV4,
    /// UEs
    #[arg(long)]
    tunnels: u32,
    /// UEs that send often
    #[arg(long, default_value_t = 50)]
    quick: u32,
    /// Milliseconds between two packets of a quick UE
    #[arg(long, default_value_t = 50)]
    every: u64,
    /// Packets per second of all other UEs together
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Where to write the status
    #[arg(long)]
    status: PathBuf,
}

/// How often is sent: the packets of a while together.
const TICK: Duration = Duration::from_millis(10);
/// The UEs' port.
const PORT: u16 = 4000;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    sys::handle_signals()?;
    let enb = UdpSocket::bind((options.bind, gtpu::PORT)).context("the eNB's socket")?;
    enb.connect((options.spgw, gtpu::PORT))?;
    let host = UdpSocket::bind(options.host).context("the internet host's socket")?;
    let ports = Arc::new(AtomicU64::new(0));
    let changed = Arc::clone(&ports);
    thread::spawn(move || reflect(&host, &changed));

    let account = Arc::new(Mutex::new(Account::new(options.tunnels, options.quick)));
    let heard = Arc::clone(&account);
    let listener = enb.try_clone()?;
    thread::spawn(move || listen(&listener, &heard));

    let mut talk = Talk {
        enb,
        host: options.host,
        account,
        number: vec![0; usize::try_from(options.tunnels)?],
    };
    let began = Instant::now();
    let (mut quick_sent, mut others_sent) = (0u64, 0u64);
    let others = u64::from(options.tunnels.saturating_sub(options.quick));
    let mut next_other = 0;
    let mut snapshot = 0;
    // From here on signals are heard.
    Status::default().write(&options.status)?;
    loop {
        let now = u64::try_from(began.elapsed().as_millis())?;
        while quick_sent < now / options.every {
            quick_sent += 1;
            for n in 0..options.quick {
                talk.send(Ue(n))?;
            }
        }
        while others > 0 && others_sent < now * options.rate / 1000 {
            others_sent += 1;
            talk.send(Ue(options.quick + u32::try_from(next_other)?))?;
            next_other = (next_other + 1) % others;
        }
        let asked = sys::asked();
        if asked.snapshot {
            snapshot += 1;
            let mut account = talk.account.lock().unwrap_or_else(PoisonError::into_inner);
            let mut status = account.status();
            status.snapshot = snapshot;
            status.changed_ports = ports.load(Ordering::Relaxed);
            status.write(&options.status)?;
        }
        if asked.stop {
            return Ok(());
        }
        thread::sleep(TICK);
    }
}

/// The UEs' side.
struct Talk {
    enb: UdpSocket,
    host: SocketAddrV4,
    account: Arc<Mutex<Account>>,
    number: Vec<u32>,
}

impl Talk {
    fn send(&mut self, ue: Ue) -> io::Result<()> {
        let Some(number) = self
            .number
            .get_mut(usize::try_from(ue.0).unwrap_or(usize::MAX))
        else {
            return Ok(());
        };
        *number += 1;
        let sent = Sent {
            ue: ue.0,
            number: *number,
        };
        let from = SocketAddrV4::new(ue.address(), PORT);
        let packet = gtpu::uplink(ue.uplink_teid(), from, self.host, &sent.words());
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.sent(sent);
        drop(account);
        match self.enb.send(&packet) {
            // An ICMP error that came for an earlier packet is told here.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
                account.refused();
                Ok(())
            }
            other => other.map(drop),
        }
    }
}

/// The internet host: sends everything back, and notes UEs whose outer address or port has changed.
fn reflect(host: &UdpSocket, changed: &AtomicU64) {
    let mut known: HashMap<u32, SocketAddr> = HashMap::new();
    let mut words = [0; 2048];
    while let Ok((len, from)) = host.recv_from(&mut words) {
        let Some(sent) = words.get(..len).and_then(Sent::of) else {
            continue;
        };
        if known
            .insert(sent.ue, from)
            .is_some_and(|before| before != from)
        {
            changed.fetch_add(1, Ordering::Relaxed);
        }
        let _ = host.send_to(words.get(..len).unwrap_or_default(), from);
    }
}

/// The eNB's receiving side.
fn listen(enb: &UdpSocket, account: &Mutex<Account>) {
    let mut packet = [0; 2048];
    loop {
        let got = enb.recv(&mut packet);
        let mut account = account.lock().unwrap_or_else(PoisonError::into_inner);
        match got {
            Ok(len) => match gtpu::take(packet.get(..len).unwrap_or_default()) {
                Seen::Packet { teid, to, words } => match Sent::of(words) {
                    Some(sent)
                        if teid == Ue(sent.ue).downlink_teid()
                            && to == SocketAddrV4::new(Ue(sent.ue).address(), PORT) =>
                    {
                        account.back(sent);
                    }
                    _ => account.astray(),
                },
                Seen::Signal(gtpu::ERROR_INDICATION) => account.refused(),
                Seen::Signal(_) | Seen::Other => account.astray(),
            },
            Err(_) => account.refused(),
        }
    }
}
