// SPDX-License-Identifier: GPL-2.0-only
//! The account of what arrived on one association.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What one direction of an association, or a sum of them, came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Messages the sender says it sent.
    pub sent: u64,
    /// Different messages that arrived.
    pub received: u64,
    /// Sent and never arrived.
    pub lost: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Arrived after a later one of the same stream.
    pub reordered: u64,
    /// Arrived with other content than was sent.
    pub corrupted: u64,
}

impl Account {
    /// Adds another account to this one.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
    }
}

#[derive(Debug, Default)]
struct Stream {
    next: u64,
    missing: BTreeSet<u64>,
}

/// Follows the numbers that arrive on each stream.
#[derive(Debug, Default)]
pub struct Ledger {
    streams: Vec<Stream>,
    so_far: Account,
}

impl Ledger {
    /// Notes one message.
    pub fn record(&mut self, stream: u16, seq: u64, intact: bool) {
        let index = usize::from(stream);
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, Stream::default);
        }
        let s = &mut self.streams[index];
        if !intact {
            self.so_far.corrupted += 1;
        }
        if seq >= s.next {
            s.missing.extend(s.next..seq);
            s.next = seq + 1;
        } else if s.missing.remove(&seq) {
            self.so_far.reordered += 1;
        } else {
            self.so_far.duplicated += 1;
            return;
        }
        self.so_far.received += 1;
    }

    /// Messages that arrived so far.
    pub fn received(&self) -> u64 {
        self.so_far.received
    }

    /// Has all that the sender counted arrived?
    pub fn complete(&self, totals: &[u64]) -> bool {
        totals
            .iter()
            .enumerate()
            .all(|(i, total)| match self.streams.get(i) {
                Some(s) => s.next >= *total && s.missing.is_empty(),
                None => *total == 0,
            })
    }

    /// The account, given what the sender says it sent.
    pub fn account(&self, totals: &[u64]) -> Account {
        let sent = totals.iter().sum();
        Account {
            sent,
            lost: u64::saturating_sub(sent, self.so_far.received),
            ..self.so_far.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order() {
        let mut l = Ledger::default();
        (0..5).for_each(|n| l.record(2, n, true));
        assert!(l.complete(&[0, 0, 5]));
        assert!(!l.complete(&[0, 0, 6]));
        assert_eq!(
            l.account(&[0, 0, 5]),
            Account {
                sent: 5,
                received: 5,
                ..Account::default()
            }
        );
    }

    #[test]
    fn every_fault_is_told_apart() {
        let mut l = Ledger::default();
        for (n, intact) in [(0, true), (2, true), (1, true), (2, true), (4, false)] {
            l.record(0, n, intact);
        }
        let expect = Account {
            sent: 6,
            received: 4,
            lost: 2,
            duplicated: 1,
            reordered: 1,
            corrupted: 1,
        };
        assert_eq!(l.account(&[6]), expect);
        assert!(!l.complete(&[5]));
    }
}
