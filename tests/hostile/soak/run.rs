// SPDX-License-Identifier: GPL-2.0-only
//! One seed: traffic, moves, and the verdict.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use telecr::image;
use telecr::netlink::local_addresses;
use telecr::sctp::repair::Repair;
use telecr::sctp::{dump, nudge, restore, Summary};

use super::ends::{End, Policy};
use super::ledger::{Ledger, Message};
use super::net::{Net, PEER};
use super::open::{self, CLIENT, SERVER};
use super::plan::Plan;
use super::wire::Tap;
use super::Figures;
use crate::rng::Rng;

/// Nothing arrives for so long: what is missing is lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many bytes fit one chunk on every wire here.
const ONE_CHUNK: usize = 1000;

/// Chunks that must not be seen once the associations are up: INIT, INIT ACK, ABORT, ERROR, COOKIE ECHO, COOKIE ACK.
const FORBIDDEN: [u8; 6] = [1, 2, 6, 9, 10, 11];

struct Soak<'a> {
    plan: &'a Plan,
    rng: &'a mut Rng,
    net: &'a Net,
    ends: [End; 2],
    ledgers: Vec<[Ledger; 2]>,
    tap: &'a mut Tap,
    /// Which of the two hosts has the addresses.
    at: usize,
    addresses: Vec<IpAddr>,
    /// Until when an end does not read.
    lazy: [Instant; 2],
    figures: Figures,
}

pub fn seed(seed: u64, plan: &Plan, rng: &mut Rng) -> Result<Figures, String> {
    let net = Net::new(seed, plan);
    let addresses = plan.mobile.addresses(1);
    net.give(0, &addresses);
    net.enter(PEER);
    let mut tap = Tap::new();
    let mut ledgers: Vec<[Ledger; 2]> = Vec::new();
    ledgers.resize_with(plan.associations.len(), Default::default);
    let ends = open::ends(&net, plan, &mut ledgers)?;
    tap.reset();
    net.disturb(&plan.wire);
    let now = Instant::now();
    let mut soak = Soak {
        plan,
        rng,
        net: &net,
        ends,
        ledgers,
        tap: &mut tap,
        at: 0,
        addresses,
        lazy: [now, now],
        figures: Figures::default(),
    };
    let verdict = soak.run();
    let figures = soak.figures;
    drop(soak);
    if verdict.is_err() {
        let capture = format!("/var/tmp/soak-{seed}.pcap");
        tap.drain();
        if let Err(e) = tap.write(&capture) {
            println!("cannot write {capture}: {e}");
        }
    }
    verdict.map(|()| figures)
}

impl Soak<'_> {
    fn run(&mut self) -> Result<(), String> {
        let mut left = self.plan.migrations;
        while left > 0 {
            let next = Instant::now() + Duration::from_millis(self.rng.within(0..=700));
            while Instant::now() < next {
                self.turn(true)?;
            }
            // The control: what fails without it is not telecr's doing.
            if crate::setting("TELECR_SOAK_STILL", 0) == 0 {
                self.migrate()?;
            }
            left -= 1;
        }
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            self.turn(true)?;
        }
        self.settle()?;
        self.verdict()
    }

    fn mobile(&mut self) -> &mut End {
        &mut self.ends[if self.plan.server_moves {
            SERVER
        } else {
            CLIENT
        }]
    }

    /// Sends and receives a little.
    fn turn(&mut self, sending: bool) -> Result<(), String> {
        let mut idle = true;
        if sending {
            for association in 0..self.ledgers.len() {
                for end in [SERVER, CLIENT] {
                    if self.rng.percent(40) {
                        idle &= !self.send(association, end)?;
                    }
                }
            }
        }
        let now = Instant::now();
        for end in [SERVER, CLIENT] {
            if now < self.lazy[end] && sending {
                continue;
            }
            if self.rng.percent(1) {
                self.lazy[end] = now + Duration::from_millis(self.rng.within(0..=300));
            }
            for sock in 0..self.ends[end].socks.len() {
                for _ in 0..20 {
                    let room = if self.rng.percent(5) { 200 } else { 1 << 16 };
                    if self.ends[end].socks[sock].listener
                        || !self.ends[end].receive(sock, room, &mut self.ledgers)?
                    {
                        break;
                    }
                    idle = false;
                }
            }
        }
        self.tap.drain();
        if idle {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn send(&mut self, association: usize, end: usize) -> Result<bool, String> {
        let (plan, rng) = (self.plan, &mut *self.rng);
        let largest = if rng.percent(70) {
            plan.largest.min(300)
        } else {
            plan.largest
        };
        let ledger = &mut self.ledgers[association][end];
        let sender = &self.ends[end];
        let (number, bytes) = ledger.next(
            u8::try_from(association).unwrap(),
            sender.number,
            rng.within(16..=largest),
        );
        let policy = if rng.percent(plan.partially_reliable) {
            Policy::any(rng)
        } else {
            Policy::RELIABLE
        };
        let m = Message {
            number,
            stream: rng.within(0..=u64::from(sender.places[association].streams) - 1),
            // Where a reader has had half of an unordered message, Linux gives it others of the same stream that are
            // whole (sctp_ulpevent_idata()), and nothing tells the rest of the first from those: no program can do this.
            unordered: rng.percent(plan.unordered)
                && !(plan.interleaving && bytes.len() > ONE_CHUNK),
            may_fail: policy.may_fail,
            len: bytes.len(),
        };
        sender.send(association, ledger, m, &bytes, policy)
    }

    /// Reads until all is there.
    fn settle(&mut self) -> Result<(), String> {
        let arrived = |s: &Self| s.ledgers.iter().flatten().map(|l| l.arrived).sum::<usize>();
        let (mut last, mut since) = (arrived(self), Instant::now());
        while self
            .ledgers
            .iter()
            .flatten()
            .any(|l| !l.missing().is_empty())
        {
            self.turn(false)?;
            let now = arrived(self);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                let mut fault = String::from("messages do not arrive:");
                for (n, [server, client]) in self.ledgers.iter().enumerate() {
                    for (end, l) in [("server", server), ("client", client)] {
                        let missing = l.missing();
                        let first = missing.first();
                        fault.push_str(&format!(
                            "\n  association {n}, {end}: {} of {}, first {first:?}",
                            missing.len(),
                            l.count()
                        ));
                    }
                }
                return Err(format!("{fault}\n{}", self.net.associations()));
            }
        }
        // What comes twice comes late.
        let end = Instant::now() + Duration::from_millis(200);
        while Instant::now() < end {
            self.turn(false)?;
        }
        Ok(())
    }

    fn verdict(&mut self) -> Result<(), String> {
        for kind in FORBIDDEN {
            if let Some(n) = self.tap.seen.get(&kind) {
                return Err(format!("{n} chunks of type {kind} on the wire"));
            }
        }
        for host in 0..3 {
            for name in ["SctpAborteds", "SctpOutOfBlues"] {
                let n = self.net.counter(host, name);
                if n != 0 {
                    return Err(format!("{name} of host {host} is {n}"));
                }
            }
        }
        for l in self.ledgers.iter().flatten() {
            self.figures.messages += u64::try_from(l.count()).unwrap();
            self.figures.given_up += u64::try_from(l.given_up()).unwrap();
        }
        Ok(())
    }

    /// Moves all sockets of the mobile end to the other host.
    fn migrate(&mut self) -> Result<(), String> {
        let (from, to) = (self.at, 1 - self.at);
        let words = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
        self.net.enter(from);
        let mut order: Vec<usize> = (0..self.mobile().socks.len()).collect();
        self.rng.shuffle(&mut order);
        let mut repair = Repair::open().map_err(|e| words("open", &e))?;
        let mut images: Vec<(usize, Vec<u8>, Summary)> = Vec::new();
        for n in &order {
            let fd = self.mobile().socks[*n].fd.as_fd();
            repair.freeze(fd).map_err(|e| words("freeze", &e))?;
        }
        if self.rng.percent(30) {
            std::thread::sleep(Duration::from_millis(self.rng.within(0..=200)));
        }
        for n in &order {
            let header = image::sctp_header(repair.version());
            let mut out = image::Writer::new(Vec::new(), header).map_err(|e| words("image", &e))?;
            let fd = self.mobile().socks[*n].fd.as_fd();
            let summary = dump::dump(&mut repair, fd, &mut out).map_err(|e| words("dump", &e))?;
            let bytes = out.finish().map_err(|e| words("image", &e))?;
            self.figures.bytes_moved += u64::try_from(bytes.len()).unwrap();
            images.push((*n, bytes, summary));
        }
        if self.rng.percent(15) {
            // A dump that is called off.
            self.figures.aborted += 1;
            for n in &order {
                let wake = self.rng.percent(50);
                let fd = self.mobile().socks[*n].fd.as_fd();
                let done = if wake {
                    repair.wake(fd)
                } else {
                    repair.release(fd)
                };
                done.map_err(|e| words("release", &e))?;
            }
            return Ok(());
        }
        telecr::lock::lock(&self.addresses, telecr::lock::LIMIT).map_err(|e| words("lock", &e))?;
        // In whatever order; the descriptors are replaced below.
        let nothing = || std::fs::File::open("/dev/null").expect("/dev/null").into();
        super::closing(|| {
            for n in &order {
                self.mobile().socks[*n].fd = nothing();
            }
        });
        self.net.take(from, &self.addresses);
        let outage = if self.rng.percent(15) { 2500 } else { 100 };
        std::thread::sleep(Duration::from_millis(self.rng.within(0..=outage)));

        self.net.enter(to);
        telecr::lock::lock(&self.addresses, telecr::lock::LIMIT).map_err(|e| words("lock", &e))?;
        self.net.give(to, &self.addresses);
        let mut repair = Repair::open().map_err(|e| words("open", &e))?;
        self.rng.shuffle(&mut images);
        if self.rng.percent(15) {
            // A restore that fails half way, and is tried again.
            let (_, bytes, _) = &images[0];
            let cut = self.rng.below(bytes.len());
            let here = local_addresses().map_err(|e| words("addresses", &e))?;
            if let Ok(mut half) = image::Reader::new(&bytes[..cut]) {
                let taken =
                    super::closing(|| restore::restore(&mut repair, &mut half, &here).is_ok());
                if taken {
                    return Err(format!(
                        "an image cut at {cut} of {} was taken",
                        bytes.len()
                    ));
                }
            }
        }
        let here = local_addresses().map_err(|e| words("addresses", &e))?;
        for (n, bytes, before) in &images {
            let mut img = image::Reader::new(&bytes[..]).map_err(|e| words("image", &e))?;
            let (fd, after) =
                restore::restore(&mut repair, &mut img, &here).map_err(|e| words("restore", &e))?;
            if after != *before {
                return Err(format!("restored {after:?} of {before:?}"));
            }
            self.mobile().socks[*n].fd = fd;
        }
        telecr::lock::unlock(&self.addresses).map_err(|e| words("unlock", &e))?;
        let nudging = self.rng.percent(70);
        let mut nudges = Vec::new();
        for n in &order {
            let fd = self.mobile().socks[*n].fd.as_fd();
            repair
                .associations(fd, |a| {
                    nudges.extend(nudge::nudges(&a));
                    Ok(())
                })
                .map_err(|e| words("read", &e))?;
            repair.wake(fd).map_err(|e| words("wake", &e))?;
        }
        if nudging {
            let mut nudger = nudge::Nudger::default();
            nudger.send(&nudges).map_err(|e| words("nudge", &e))?;
        }
        self.net.enter(from);
        telecr::lock::unlock(&self.addresses).map_err(|e| words("unlock", &e))?;
        self.at = to;
        self.figures.migrations += 1;
        Ok(())
    }
}
