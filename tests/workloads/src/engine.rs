// SPDX-License-Identifier: GPL-2.0-only
//! The loop both programs run: one epoll set, one timer, listeners, associations.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use crate::{
    assoc::Assoc,
    hub::Hub,
    ledger::Account,
    report::Status,
    sctp::Socket,
    sys::{self, Epoll},
};

const TIMER: u64 = 0;
const LISTENERS: u64 = 1;
const HUB: u64 = 999;
const ASSOCS: u64 = 1000;
/// Ticks to wait for missing messages before asking for an account without them.
const PATIENCE_MS: u64 = 10_000;

/// Either program.
#[derive(Debug)]
pub struct Engine {
    role: &'static str,
    status_path: PathBuf,
    epoll: Epoll,
    timer: OwnedFd,
    tick_ms: u64,
    listeners: Vec<Socket>,
    hub: Option<Hub>,
    assocs: Vec<Assoc>,
    writing: Vec<bool>,
    buffer: Vec<u8>,
    snapshots: u64,
    settling: Option<u64>,
    settled: bool,
}

impl Engine {
    /// An engine that sends one message per association and tick.
    pub fn new(role: &'static str, status_path: PathBuf, per_second: u64) -> io::Result<Self> {
        sys::handle_signals()?;
        let tick_ms = (1000 / per_second.max(1)).max(1);
        let timer = sys::ticker()?;
        sys::arm(timer.as_fd(), Duration::from_millis(tick_ms))?;
        let epoll = Epoll::new()?;
        epoll.add(timer.as_fd(), TIMER)?;
        Ok(Self {
            role,
            status_path,
            epoll,
            timer,
            tick_ms,
            listeners: Vec::new(),
            hub: None,
            assocs: Vec::new(),
            writing: Vec::new(),
            buffer: vec![0; 65536],
            snapshots: 0,
            settling: None,
            settled: false,
        })
    }

    /// Serves a listener.
    pub fn add_listener(&mut self, socket: Socket) -> io::Result<()> {
        self.epoll
            .add(socket.as_fd(), LISTENERS + self.listeners.len() as u64)?;
        self.listeners.push(socket);
        Ok(())
    }

    /// Serves the associations of a one-to-many socket, instead of listeners.
    pub fn set_hub(&mut self, socket: Socket) -> io::Result<()> {
        self.epoll.add(socket.as_fd(), HUB)?;
        self.hub = Some(Hub::new(socket));
        Ok(())
    }

    /// Serves an association with a socket of its own.
    pub fn add_assoc(&mut self, assoc: Assoc) -> io::Result<()> {
        if let Some(line) = &assoc.line {
            self.epoll
                .add(line.socket.as_fd(), ASSOCS + self.assocs.len() as u64)?;
        }
        self.assocs.push(assoc);
        self.writing.push(false);
        Ok(())
    }

    /// Runs until a signal ends it.
    pub fn run(mut self) -> io::Result<()> {
        self.snapshot()?;
        loop {
            for token in self.epoll.wait()? {
                match token {
                    TIMER => self.tick()?,
                    HUB => self.serve_hub()?,
                    t if t >= ASSOCS => {
                        self.serve(usize::try_from(t - ASSOCS).unwrap_or(usize::MAX))
                    }
                    t => self.accept(usize::try_from(t - LISTENERS).unwrap_or(usize::MAX))?,
                }
            }
            self.watch_writes();
            let asked = sys::asked();
            if asked.settle && self.settling.is_none() {
                self.settling = Some(0);
                self.assocs.iter_mut().for_each(Assoc::settle);
            }
            if asked.snapshot {
                self.snapshot()?;
            }
            if asked.stop {
                self.assocs.clear();
                return Ok(());
            }
        }
    }

    fn accept(&mut self, index: usize) -> io::Result<()> {
        let mut fresh = Vec::new();
        if let Some(listener) = self.listeners.get(index) {
            while let Some(socket) = listener.accept()? {
                fresh.push(Assoc::new(socket.into(), None));
            }
        }
        fresh.into_iter().try_for_each(|a| self.add_assoc(a))
    }

    fn serve(&mut self, index: usize) {
        if let Some(assoc) = self.assocs.get_mut(index) {
            assoc.drain(&mut self.buffer);
            assoc.flush();
        }
    }

    fn serve_hub(&mut self) -> io::Result<()> {
        if let Some(hub) = &mut self.hub {
            hub.drain(&mut self.assocs, &mut self.buffer)?;
            self.assocs.iter_mut().for_each(Assoc::flush);
        }
        Ok(())
    }

    fn tick(&mut self) -> io::Result<()> {
        if !sys::ticked(self.timer.as_fd()) {
            return Ok(());
        }
        sys::arm(self.timer.as_fd(), Duration::from_millis(self.tick_ms))?;
        self.assocs.iter_mut().for_each(Assoc::make_message);
        let Some(ticks) = &mut self.settling else {
            return Ok(());
        };
        *ticks += 1;
        if *ticks == PATIENCE_MS / self.tick_ms {
            self.assocs
                .iter_mut()
                .filter(|a| !a.settled())
                .for_each(Assoc::ask);
        }
        let patience_over = *ticks > 2 * PATIENCE_MS / self.tick_ms;
        if !self.settled && (patience_over || self.assocs.iter().all(Assoc::settled)) {
            self.settled = true;
            self.snapshot()?;
        }
        Ok(())
    }

    fn watch_writes(&mut self) {
        if let Some(hub) = &mut self.hub {
            let want = self.assocs.iter().any(Assoc::wants_write);
            if want != hub.writing && self.epoll.set_write(hub.as_fd(), HUB, want).is_ok() {
                hub.writing = want;
            }
            return;
        }
        for (i, (assoc, writing)) in self.assocs.iter().zip(&mut self.writing).enumerate() {
            let want = assoc.wants_write();
            let Some(line) = &assoc.line else {
                continue;
            };
            if want != *writing
                && self
                    .epoll
                    .set_write(line.socket.as_fd(), ASSOCS + i as u64, want)
                    .is_ok()
            {
                *writing = want;
            }
        }
    }

    fn snapshot(&mut self) -> io::Result<()> {
        self.snapshots += 1;
        let mut s = Status {
            role: self.role.to_string(),
            snapshot: self.snapshots,
            settled: self.settled && self.assocs.iter().all(Assoc::settled),
            ..Status::default()
        };
        let (mut ours, mut theirs) = (Account::default(), Account::default());
        for a in &self.assocs {
            if a.line.is_some() {
                s.established += 1
            } else {
                s.closed += 1
            }
            s.errors.extend(a.error.clone());
            s.paths.extend(a.paths.iter().cloned());
            s.sent += a.sent;
            s.received += a.received();
            s.throttled += a.throttled;
            s.gaps_ms
                .push(u64::try_from(a.gap.as_millis()).unwrap_or(u64::MAX));
            ours.add(&a.ours());
            theirs.add(&a.theirs.clone().unwrap_or_default());
            let (e, f) = (&mut s.events, &a.events);
            e.comm_up += f.comm_up;
            e.comm_lost += f.comm_lost;
            e.restart += f.restart;
            e.ended += f.ended;
            e.addr_change += f.addr_change;
            e.addr_confirmed += f.addr_confirmed;
            e.shutdown += f.shutdown;
            e.send_failed += f.send_failed;
            e.remote_error += f.remote_error;
            e.other += f.other;
        }
        s.gap_ms = s.gaps_ms.iter().copied().max().unwrap_or(0);
        (s.uplink, s.downlink) = if self.listeners.is_empty() && self.hub.is_none() {
            (theirs, ours)
        } else {
            (ours, theirs)
        };
        s.write(&self.status_path)
    }
}
