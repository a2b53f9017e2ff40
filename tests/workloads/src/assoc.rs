// SPDX-License-Identifier: GPL-2.0-only
//! One association as either program sees it.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use crate::{
    ledger::{Account, Ledger},
    message::{self, Kind, Message},
    report::Events,
    sctp::{Line, Received, STREAMS},
};

/// Messages waiting in the program before it makes no more.
const OUTBOX_LIMIT: usize = 64;
/// Notes of the path kept of each association.
const PATHS_KEPT: usize = 8;
/// SCTP_PEER_ADDR_CHANGE: the path has been heard of for the first time.
const ADDR_CONFIRMED: u16 = 5;

/// An association and its account.
#[derive(Debug)]
pub struct Assoc {
    /// Where it is; `None` once it is closed.
    pub line: Option<Line>,
    /// Its number; the server learns it from the first message.
    pub number: Option<u32>,
    /// Notifications seen.
    pub events: Events,
    /// What the kernel said of its path, in words; the first few.
    pub paths: Vec<String>,
    /// Messages sent.
    pub sent: u64,
    /// Messages not made because the outbox was full.
    pub throttled: u64,
    /// Why it ended, when it did so by an error.
    pub error: Option<String>,
    /// Longest silence, when a clock is kept.
    pub gap: Duration,
    /// The other side's account of what we sent.
    pub theirs: Option<Account>,
    ledger: Ledger,
    next_seq: Vec<u64>,
    next_stream: u16,
    outbox: VecDeque<(u16, Vec<u8>)>,
    partial: Vec<u8>,
    their_totals: Option<Vec<u64>>,
    settling: bool,
    accounted: bool,
    last: Option<Instant>,
}

impl Assoc {
    /// An association that is up. The peer numbers it and keeps a clock, the server does neither.
    pub fn new(line: Line, number: Option<u32>) -> Self {
        Self {
            line: Some(line),
            number,
            events: Events::default(),
            paths: Vec::new(),
            sent: 0,
            throttled: 0,
            error: None,
            gap: Duration::ZERO,
            theirs: None,
            ledger: Ledger::default(),
            next_seq: vec![0; usize::from(STREAMS)],
            next_stream: 0,
            outbox: VecDeque::new(),
            partial: Vec::new(),
            their_totals: None,
            settling: false,
            accounted: false,
            last: number.map(|_| Instant::now()),
        }
    }

    /// Does something wait for room in the socket?
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Messages received.
    pub fn received(&self) -> u64 {
        self.ledger.received()
    }

    /// Our account of what they sent.
    pub fn ours(&self) -> Account {
        self.ledger
            .account(self.their_totals.as_deref().unwrap_or(&[]))
    }

    /// Are both accounts final?
    pub fn settled(&self) -> bool {
        self.theirs.is_some()
            && self
                .their_totals
                .as_ref()
                .is_some_and(|t| self.ledger.complete(t))
    }

    /// Makes the next numbered message, on the next stream.
    pub fn make_message(&mut self) {
        let Some(number) = self.number else { return };
        if self.settling || self.line.is_none() {
            return;
        }
        if self.outbox.len() >= OUTBOX_LIMIT {
            self.throttled += 1;
            return;
        }
        let stream = self.next_stream;
        self.next_stream = (stream + 1) % STREAMS;
        let seq = &mut self.next_seq[usize::from(stream)];
        self.outbox
            .push_back((stream, message::data(number, stream, *seq)));
        *seq += 1;
        self.flush();
    }

    /// Sends no more, and says how many there were.
    pub fn settle(&mut self) {
        if self.settling {
            return;
        }
        self.settling = true;
        self.note_silence();
        self.last = None;
        let totals: Vec<u8> = self.next_seq.iter().flat_map(|n| n.to_be_bytes()).collect();
        self.control(Kind::Totals, &totals);
    }

    /// Asks for the other side's account although messages may be missing.
    pub fn ask(&mut self) {
        self.control(Kind::Ask, &[]);
    }

    fn control(&mut self, kind: Kind, body: &[u8]) {
        let bytes = message::build(kind, self.number.unwrap_or(0), 0, 0, body);
        self.outbox.push_back((0, bytes));
        self.flush();
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self) {
        while let (Some(line), Some((stream, bytes))) = (&self.line, self.outbox.front()) {
            match line.send(*stream, bytes) {
                Ok(true) => {
                    self.sent += 1;
                    self.outbox.pop_front();
                }
                Ok(false) => return,
                Err(e) => return self.fail(&e),
            }
        }
    }

    /// Takes everything a socket of its own holds.
    pub fn drain(&mut self, buffer: &mut [u8]) {
        while let Some(line) = &self.line {
            match line.socket.recv(buffer) {
                Ok(Received::WouldBlock) => return,
                Ok(Received::Closed) => self.line = None,
                Ok(got) => self.hear(&got, buffer),
                Err(e) => self.fail(&e),
            }
        }
    }

    /// Takes what the socket gave.
    pub fn hear(&mut self, got: &Received, buffer: &[u8]) {
        match *got {
            Received::Data { len, end, .. } => {
                self.partial
                    .extend_from_slice(buffer.get(..len).unwrap_or(&[]));
                self.note_silence();
                if end {
                    let bytes = std::mem::take(&mut self.partial);
                    self.take(&bytes);
                }
            }
            Received::Notification { len } => {
                let bytes = buffer.get(..len).unwrap_or(&[]);
                count(&mut self.events, bytes);
                self.note_path(bytes);
            }
            Received::WouldBlock | Received::Closed => {}
        }
    }

    fn note_path(&mut self, notification: &[u8]) {
        let Some(state) = path_state(notification).filter(|s| *s != ADDR_CONFIRMED) else {
            return;
        };
        let silence = self.last.map(|last| last.elapsed().as_millis());
        if self.paths.len() < PATHS_KEPT {
            let number = self.number.unwrap_or(0);
            self.paths.push(format!(
                "association {number}: path state {state} after {} ms of silence",
                silence.unwrap_or(0)
            ));
        }
    }

    fn note_silence(&mut self) {
        if let Some(last) = &mut self.last {
            let now = Instant::now();
            self.gap = self.gap.max(now.duration_since(*last));
            *last = now;
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(m) = message::parse(bytes) else {
            return self.fail(&io::Error::other("a message that is not ours arrived"));
        };
        self.number.get_or_insert(m.assoc);
        match m.kind {
            Kind::Data => self.ledger.record(
                m.stream,
                m.seq,
                message::intact(&m) && self.number == Some(m.assoc),
            ),
            Kind::Totals => {
                self.their_totals = Some(totals(&m));
                self.settle();
            }
            Kind::Ask => self.account(),
            Kind::Account => self.theirs = serde_json::from_slice(m.body).ok(),
        }
        if !self.accounted
            && self
                .their_totals
                .as_ref()
                .is_some_and(|t| self.ledger.complete(t))
        {
            self.account();
        }
    }

    fn account(&mut self) {
        self.accounted = true;
        let body = serde_json::to_vec(&self.ours()).unwrap_or_default();
        self.control(Kind::Account, &body);
    }

    /// Gives it up.
    pub fn fail(&mut self, e: &io::Error) {
        self.error = Some(e.to_string());
        self.line = None;
    }
}

fn totals(m: &Message<'_>) -> Vec<u64> {
    m.body
        .chunks_exact(8)
        .filter_map(|c| c.try_into().ok().map(u64::from_be_bytes))
        .collect()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let half = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(half))
}

/// What a SCTP_PEER_ADDR_CHANGE says of the path: 0 is available, 1 unreachable (RFC 6458, section 6.1.2).
fn path_state(bytes: &[u8]) -> Option<u16> {
    // Behind the header and a sockaddr_storage; an int of small values, and the machine little-endian.
    const ADDR_STATE: usize = 136;
    (half(bytes, 0)? == 0x8002)
        .then(|| half(bytes, ADDR_STATE))
        .flatten()
}

/// Counts a notification (RFC 6458, section 6.1).
fn count(events: &mut Events, bytes: &[u8]) {
    let counter = match half(bytes, 0) {
        Some(0x8001) => match half(bytes, 8) {
            Some(0) => &mut events.comm_up,
            Some(1) => &mut events.comm_lost,
            Some(2) => &mut events.restart,
            _ => &mut events.ended,
        },
        Some(0x8002) if path_state(bytes) == Some(ADDR_CONFIRMED) => &mut events.addr_confirmed,
        Some(0x8002) => &mut events.addr_change,
        Some(0x8003) => &mut events.send_failed,
        Some(0x8004) => &mut events.remote_error,
        Some(0x8005) => &mut events.shutdown,
        _ => &mut events.other,
    };
    *counter += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_told_apart() {
        let mut events = Events::default();
        let change = |state: u16| {
            let mut b = vec![0u8; 20];
            b[..2].copy_from_slice(&0x8001u16.to_ne_bytes());
            b[8..10].copy_from_slice(&state.to_ne_bytes());
            b
        };
        for state in [0, 1, 2, 3] {
            count(&mut events, &change(state));
        }
        count(&mut events, &0x8002u16.to_ne_bytes());
        count(&mut events, &[]);
        let expect = Events {
            comm_up: 1,
            comm_lost: 1,
            restart: 1,
            ended: 1,
            addr_change: 1,
            other: 1,
            ..Events::default()
        };
        assert_eq!(events, expect);
    }

    #[test]
    fn the_state_of_a_path_is_read() {
        let mut change = vec![0u8; 148];
        change[..2].copy_from_slice(&0x8002u16.to_ne_bytes());
        change[136] = 1;
        assert_eq!(path_state(&change), Some(1));
        assert_eq!(path_state(&change[..100]), None);
        change[0] = 3;
        assert_eq!(path_state(&change), None);
    }
}
