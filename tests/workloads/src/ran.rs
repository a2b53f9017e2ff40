// SPDX-License-Identifier: GPL-2.0-only
//! What UEs sent and got back.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What a UE's packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Which UE.
    pub ue: u32,
    /// The UE's packets are numbered from 1.
    pub number: u32,
}

impl Sent {
    /// As bytes.
    pub fn words(self) -> [u8; 8] {
        let mut words = [0; 8];
        words[..4].copy_from_slice(&self.ue.to_be_bytes());
        words[4..].copy_from_slice(&self.number.to_be_bytes());
        words
    }

    /// From bytes.
    pub fn of(words: &[u8]) -> Option<Self> {
        Some(Self {
            ue: u32::from_be_bytes(words.get(..4)?.try_into().ok()?),
            number: u32::from_be_bytes(words.get(4..8)?.try_into().ok()?),
        })
    }
}

/// A snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Grows by one with each snapshot.
    pub snapshot: u64,
    /// UEs that have got something back since the last snapshot.
    pub served: u32,
    /// Packets sent.
    pub sent: u64,
    /// Packets that came back.
    pub back: u64,
    /// Packets that came back twice.
    pub duplicated: u64,
    /// Packets that came out of a wrong tunnel, or make no sense.
    pub astray: u64,
    /// ICMP errors and GTP error indications.
    pub refused: u64,
    /// UEs whose outer address or port changed, as the internet host saw it.
    pub changed_ports: u64,
    /// Longest time a quick UE got nothing back, milliseconds.
    pub longest_gap_ms: u64,
}

impl Status {
    /// Writes the snapshot so that a reader never sees half of it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let temp = path.with_extension("new");
        fs::write(&temp, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        fs::rename(&temp, path)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Ue {
    last: u32,
    heard: Option<Instant>,
    gap: Duration,
    served: bool,
}

/// The account of all UEs.
#[derive(Debug)]
pub struct Account {
    ues: Vec<Ue>,
    quick: usize,
    total: Status,
}

impl Account {
    /// Of so many UEs, of which the first `quick` are watched for gaps.
    pub fn new(ues: u32, quick: u32) -> Self {
        let count = |n| usize::try_from(n).unwrap_or(0);
        Self {
            ues: vec![Ue::default(); count(ues)],
            quick: count(quick),
            total: Status::default(),
        }
    }

    /// A packet is on its way.
    pub fn sent(&mut self, _: Sent) {
        self.total.sent += 1;
    }

    /// A packet has come back.
    pub fn back(&mut self, sent: Sent) {
        let Some(ue) = self
            .ues
            .get_mut(usize::try_from(sent.ue).unwrap_or(usize::MAX))
        else {
            self.total.astray += 1;
            return;
        };
        if sent.number <= ue.last {
            self.total.duplicated += 1;
            return;
        }
        let now = Instant::now();
        if let Some(before) = ue.heard.replace(now) {
            ue.gap = ue.gap.max(now - before);
        }
        ue.last = sent.number;
        ue.served = true;
        self.total.back += 1;
    }

    /// Something came that was not expected.
    pub fn astray(&mut self) {
        self.total.astray += 1;
    }

    /// The SPGW's host has refused a packet.
    pub fn refused(&mut self) {
        self.total.refused += 1;
    }

    /// How it is now; UEs count as served from here on anew.
    pub fn status(&mut self) -> Status {
        let mut status = self.total.clone();
        for ue in &mut self.ues {
            status.served += u32::from(std::mem::take(&mut ue.served));
        }
        let gaps = self.ues.iter().take(self.quick).map(|u| u.gap);
        let longest = gaps.max().unwrap_or_default().as_millis();
        status.longest_gap_ms = u64::try_from(longest).unwrap_or(u64::MAX);
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_counts() {
        let mut account = Account::new(3, 2);
        for number in 1..=3 {
            let sent = Sent { ue: 1, number };
            assert_eq!(Sent::of(&sent.words()), Some(sent));
            account.sent(sent);
            account.back(sent);
        }
        account.back(Sent { ue: 1, number: 3 });
        account.back(Sent { ue: 9, number: 1 });
        let status = account.status();
        assert_eq!((status.sent, status.back, status.served), (3, 3, 1));
        assert_eq!((status.duplicated, status.astray), (1, 1));
        assert_eq!(account.status().served, 0);
    }
}
