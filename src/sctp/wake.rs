// SPDX-License-Identifier: GPL-2.0-only
//! The end of a restore: sockets leave repair mode, and their peers go on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::nudge::{self, Nudge, Nudger};
use super::repair::Repair;
use super::Result;

/// Wakes sockets one by one, each when its peers have been nudged. Call it in their
/// network namespace, when nothing drops their packets any more.
///
/// # Errors
/// The first socket that could not be woken, and the first failure of the nudger, on
/// which nothing depends but time. All have been tried.
pub fn each(
    repair: &mut Repair,
    sockets: &[OwnedFd],
    mut nudger: Option<&mut Nudger>,
) -> (Result<()>, io::Result<()>) {
    let mut result = Ok(());
    let mut nudged = Ok(());
    let mut mirrors: Vec<Nudge> = Vec::new();
    for socket in sockets {
        let mut nudges = Vec::new();
        let read = repair.associations(socket.as_fd(), |asoc| {
            nudges.extend(nudge::nudges(&asoc));
            Ok(())
        });
        let (ours, theirs): (Vec<Nudge>, Vec<Nudge>) =
            nudges.into_iter().partition(Nudge::is_mirror);
        if let Some(nudger) = &mut nudger {
            nudged = nudged.and(nudger.send(&theirs));
        }
        let woken = repair.wake(socket.as_fd());
        result = result.and(read).and(woken);
        mirrors.extend(ours);
    }
    if let Some(nudger) = nudger {
        nudged = nudged.and(nudger.send(&mirrors));
    }
    (result, nudged)
}
