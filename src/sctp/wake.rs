// SPDX-License-Identifier: GPL-2.0-only
//! The end of a restore: sockets leave repair mode, and their peers go on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::nudge::{self, Nudge, Nudger};
use super::repair::Repair;
use super::{Error, Result};

/// Wakes sockets one by one, and nudges their peers. Call it in their network
/// namespace, when nothing drops their packets any more.
///
/// # Errors
/// The first socket that could not be woken, and the first failure of the nudger, on
/// which nothing depends but time. All have been tried.
pub fn each(
    repair: &mut Repair,
    sockets: &[OwnedFd],
    mut nudger: Option<&mut Nudger>,
) -> (Result<()>, Result<()>) {
    let mut result = Ok(());
    let mut nudged = Ok(());
    let mut send = |nudger: &mut Nudger, nudges: &[Nudge]| {
        let sent = nudger.send(nudges).map_err(Error::sys("send ICMP"));
        nudged = std::mem::replace(&mut nudged, Ok(())).and(sent);
    };
    let mut mirrors: Vec<Nudge> = Vec::new();
    for socket in sockets {
        let mut after = Vec::new();
        if let Some(nudger) = &mut nudger {
            let all = of_socket(repair, socket).unwrap_or_default();
            let (ours, theirs) = all.into_iter().partition(Nudge::is_mirror);
            mirrors.extend::<Vec<Nudge>>(ours);
            let (alone, before) = first_of_their_paths(nudger, theirs);
            send(nudger, &before);
            after = alone;
        }
        result = result.and(repair.wake(socket.as_fd()));
        if let Some(nudger) = &mut nudger {
            send(nudger, &after);
        }
    }
    if let Some(nudger) = nudger {
        send(nudger, &mirrors);
    }
    (result, nudged)
}

fn of_socket(repair: &mut Repair, socket: &OwnedFd) -> Result<Vec<Nudge>> {
    let mut found = Vec::new();
    repair.associations(socket.as_fd(), |asoc| {
        found.extend(nudge::nudges(&asoc));
        Ok(())
    })?;
    Ok(found)
}

/// Those who have a path for themselves so far, and the others. A peer on this very
/// host sends again before the socket is awake to hear it, and nobody could spoil the
/// first message of a path, so it comes after the socket has woken.
fn first_of_their_paths(nudger: &Nudger, nudges: Vec<Nudge>) -> (Vec<Nudge>, Vec<Nudge>) {
    let mut counts: HashMap<[IpAddr; 2], usize> = HashMap::new();
    for nudge in &nudges {
        *counts.entry(nudge.ends()).or_default() += 1;
    }
    nudges
        .into_iter()
        .partition(|n| counts.get(&n.ends()) == Some(&1) && !nudger.knows(n))
}
