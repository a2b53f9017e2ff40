// SPDX-License-Identifier: GPL-2.0-only
//! Work in another network namespace: a thread of its own goes there, so that
//! CRIU stays where it is.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::error::{Context, Error, Result};
use super::{proc, sockets, sys};

/// In that of a task.
pub(crate) fn of_task<T: Send>(pid: i32, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pidfd = sys::pidfd_open(pid).doing(|| format!("cannot open process {pid}"))?;
    within(
        || sys::enter_netns(std::os::fd::AsFd::as_fd(&pidfd)),
        || format!("cannot enter the network namespace of {pid}"),
        work,
    )
}

/// In that of a process that may have ended.
pub(crate) fn of_pidfd<T: Send>(
    pidfd: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    within(
        || sys::enter_netns(pidfd),
        || "cannot enter the network namespace of a process".to_owned(),
        work,
    )
}

/// In that of a socket.
pub(crate) fn within_socket<T: Send>(
    socket: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    within(
        || sockets::enter_netns(socket),
        || "cannot enter the network namespace of a socket".to_owned(),
        work,
    )
}

/// In one that is open.
pub(crate) fn within_open<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    within(
        || sys::enter_netns(netns),
        || "cannot enter a network namespace".to_owned(),
        work,
    )
}

/// Which one this process is in.
pub(crate) fn own() -> io::Result<(u64, u64)> {
    at("/proc/self/ns/net")
}

/// Which one a process is in.
pub(crate) fn of(pid: i32) -> io::Result<(u64, u64)> {
    at(&format!("/proc/{pid}/ns/net"))
}

/// Does a process live there, with all its threads? Where the runtime is written in
/// Go, the first thread of its process may stay for good in a network namespace
/// that one of its goroutines has made, and it alone.
pub(crate) fn is_home(pid: i32, netns: (u64, u64)) -> bool {
    let mut is_there = false;
    for tid in proc::threads(pid).unwrap_or_default() {
        match at(&format!("/proc/{pid}/task/{tid}/ns/net")) {
            Ok(found) if found == netns => is_there = true,
            Ok(_) => return false,
            // A thread that has ended lives nowhere.
            Err(_) => {}
        }
    }
    is_there
}

fn at(path: &str) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Those of others that this process has open, each once.
pub(crate) fn open_here() -> io::Result<Vec<OwnedFd>> {
    let mut seen = vec![own()?];
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        let is_netns = fs::read_link(entry.path())
            .is_ok_and(|link| link.to_string_lossy().starts_with("net:["));
        let Some(file) = is_netns.then(|| File::open(entry.path()).ok()).flatten() else {
            continue;
        };
        let id = sys::file_id(file.as_fd())?;
        if !seen.contains(&id) {
            seen.push(id);
            found.push(file.into());
        }
    }
    Ok(found)
}

fn within<T: Send>(
    enter: impl FnOnce() -> io::Result<()> + Send,
    what: impl FnOnce() -> String + Send,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let work = || -> Result<T> {
        enter().doing(what)?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, work)
            .doing(|| "cannot start a thread")?;
        thread
            .join()
            .map_err(|_| Error::Other("a thread in the network namespace ended early".into()))?
    })
}
