// SPDX-License-Identifier: GPL-2.0-only
//! The second message to peers of whom nothing was heard.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::super::list::diag;
use super::super::{Error, Result};
use super::{Nudge, Sockets, LESS};
use crate::netlink;

/// How long the data of the peers may take to come, in two parts.
const WAITS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(700)];

/// Who may not have heard, and the sockets to see to them from anywhere.
pub struct Reminder {
    sent: Vec<Nudge>,
    sockets: Sockets,
    diag: netlink::Socket,
}

impl Reminder {
    pub(super) fn new(sent: Vec<Nudge>, sockets: Sockets, diag: netlink::Socket) -> Self {
        Self {
            sent,
            sockets,
            diag,
        }
    }

    /// Its sockets.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let raw = [&self.sockets.v4, &self.sockets.v6].into_iter().flatten();
        let raw = raw.map(AsRawFd::as_raw_fd);
        raw.chain([self.diag.as_raw_fd()]).collect()
    }

    /// Waits a short while for data of the peers, and asks those for less again of which
    /// none has come, or not all. Says how many.
    ///
    /// # Errors
    /// As [`Nudger::send`](super::Nudger::send), or the kernel's refusal to list associations.
    pub fn run(mut self) -> Result<usize> {
        let mut sent = self.sent;
        for wait in WAITS {
            std::thread::sleep(wait);
            let now = diag::heard(&mut self.diag)?;
            sent.retain(|n| {
                now.get(&n.here)
                    .is_some_and(|h| h.has_gaps || h.data == n.heard)
            });
            if sent.is_empty() {
                return Ok(0);
            }
        }
        // One mirror will do for this host to remember, and each has the association send all it has sent again.
        let mut mirrored = HashSet::new();
        let again = sent.iter().filter_map(|n| n.of(n.mtu.saturating_sub(LESS)));
        let asked: Vec<Nudge> = again
            .filter(|n| !n.mirror || mirrored.insert((n.peer.ip(), n.local.ip())))
            .collect();
        self.sockets
            .send_all(&asked)
            .map_err(Error::sys("send ICMP"))?;
        let peers: HashSet<u32> = asked.iter().map(|n| n.here).collect();
        Ok(peers.len())
    }
}
