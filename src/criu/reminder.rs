// SPDX-License-Identifier: GPL-2.0-only
//! The reminder: a small process that sees to peers which have not begun to send again,
//! so that nobody who waits for CRIU waits for them. It stays in CRIU's network
//! namespace: in a container's it would be taken for somebody who lives there.

use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::error::{Context, Result};
use super::{guard, logger, names, restore, sys};
use crate::sctp::nudge::Reminder;

/// Forks it.
pub(crate) fn start(peers: Reminder) -> Result<()> {
    sys::fork_orphan(|| {
        // An unwinding panic must not reach CRIU's frames, not even in a copy of them.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            logger::leave_criu();
            if let Err(e) = remind(peers) {
                log::warn!("peers may send again late: {e}");
            }
        }));
    })
    .doing(|| "cannot fork the reminder of silent peers")
}

fn remind(peers: Reminder) -> Result<()> {
    guard::detach(peers.descriptors())?;
    sys::ordinary_priority();
    fs::write("/proc/self/comm", names::REMINDER).doing(|| "cannot take a name")?;
    restore::named(peers.run()).map(drop)
}
