// SPDX-License-Identifier: GPL-2.0-only
//! The reminder: a small process that sees to peers which have not begun to send again,
//! so that nobody who waits for CRIU waits for them.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::error::{Context, Error, Result};
use super::{guard, logger, names, sys};
use crate::sctp::nudge::Reminder;

/// Forks it, for those nudged from this network namespace.
pub(crate) fn start(netns: &File, peers: Reminder) -> Result<()> {
    sys::fork_orphan(|| {
        // An unwinding panic must not reach CRIU's frames, not even in a copy of them.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            logger::leave_criu();
            if let Err(e) = remind(netns, peers) {
                log::warn!("peers may send again late: {e}");
            }
        }));
    })
    .doing(|| "cannot fork the reminder of silent peers")
}

fn remind(netns: &File, peers: Reminder) -> Result<()> {
    guard::detach(vec![netns.as_raw_fd()])?;
    sys::ordinary_priority();
    fs::write("/proc/self/comm", names::REMINDER).doing(|| "cannot take a name")?;
    sys::enter_netns(netns.as_fd()).doing(|| "cannot enter a network namespace")?;
    peers.run().map(drop).map_err(|source| Error::Repair {
        what: "a network namespace".into(),
        source,
    })
}
