// SPDX-License-Identifier: GPL-2.0-only
//! Moves watches of epoll sets from a socket to its placeholder and back.
//!
//! The kernel knows a watch by the open file *and* the number it was added
//! under. Any process can name that pair if it has the file at that number, so
//! no help of the task is needed: a thread with a descriptor table of its own
//! puts the file at the number and asks. That also reaches watches whose number
//! the task has closed or reused since.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::error::{Context, Error, Result};
use super::scan::Plan;
use super::sys::{self, EpollOp};

/// Which way watches go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From sockets to placeholders.
    ToPlaceholders,
    /// From placeholders to sockets.
    ToSockets,
}

/// Moves all watches of the plan. Watches that are there already stay: calling
/// it again mends a half-done move.
pub(crate) fn move_watches(plan: &Plan, way: Way) -> Result<()> {
    if plan.sets.is_empty() {
        return Ok(());
    }
    let run = || in_own_table(plan, way);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("telecr-epoll".into())
            .spawn_scoped(scope, run)
            .doing(|| "cannot start a thread")?;
        thread
            .join()
            .map_err(|_| Error::Other("the thread that moves epoll watches ended early".into()))?
    })
}

fn in_own_table(plan: &Plan, way: Way) -> Result<()> {
    sys::unshare_files().doing(|| "cannot copy the descriptor table")?;
    let watches = || plan.sets.iter().flat_map(|s| &s.watches);
    let top = watches().map(|w| w.target.tfd).max().unwrap_or(0);
    // All files move out of the way of the numbers needed.
    let base = top.saturating_add(1);
    let above = |fd: &OwnedFd| {
        sys::dup_above(fd.as_raw_fd(), base)
            .doing(|| "cannot copy a descriptor (is the open-file limit too low?)")
    };
    let mut pairs = Vec::with_capacity(plan.sockets.len());
    for socket in &plan.sockets {
        let (socket, placeholder) = (above(&socket.file)?, above(&socket.placeholder)?);
        pairs.push(match way {
            Way::ToPlaceholders => (socket, placeholder),
            Way::ToSockets => (placeholder, socket),
        });
    }
    let sets = plan
        .sets
        .iter()
        .map(|s| above(&s.file))
        .collect::<Result<Vec<_>>>()?;
    let mut first_error = Ok(());
    for (set, file) in plan.sets.iter().zip(&sets) {
        for watch in &set.watches {
            let Some((from, to)) = pairs.get(watch.socket) else {
                continue;
            };
            let t = &watch.target;
            let add = EpollOp::Add {
                events: t.events,
                data: t.data,
            };
            let done = step(file, from, t.tfd, EpollOp::Del, libc::ENOENT)
                .and_then(|()| step(file, to, t.tfd, add, libc::EEXIST));
            // Going back, one failure must not keep the others away.
            if done.is_err() && way == Way::ToPlaceholders {
                return done;
            }
            first_error = first_error.and(done);
        }
    }
    first_error
}

/// One operation on `(file, tfd)`; `fine` means that it was done before.
fn step(set: &OwnedFd, file: &OwnedFd, tfd: RawFd, op: EpollOp, fine: i32) -> Result<()> {
    let what = || format!("cannot move the watch of descriptor {tfd} in an epoll set");
    match sys::with_fd_at(file.as_raw_fd(), tfd, || {
        sys::epoll_ctl(set.as_raw_fd(), tfd, op)
    })
    .doing(what)?
    {
        Err(e) if e.raw_os_error() == Some(fine) => Ok(()),
        other => other.doing(what),
    }
}
