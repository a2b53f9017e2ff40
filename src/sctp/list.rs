// SPDX-License-Identifier: GPL-2.0-only
//! The SCTP sockets of this host: what the kernel says (`sock_diag`), and which
//! process holds what (`/proc`).

pub(crate) mod diag;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::net::SocketAddr;

use nix::sched::{setns, CloneFlags};

use super::{Error, Result};
use crate::holders;
pub use crate::holders::Holder;

/// A listening socket or an association.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Socket {
    /// State of the association, or of the socket.
    pub state: State,
    /// Bytes the application has not read; for a listener, associations that
    /// wait for `accept()`.
    pub recv_queue: u32,
    /// Bytes the peer has not acknowledged; for a listener, the backlog.
    pub send_queue: u32,
    /// Local addresses.
    pub local: Vec<SocketAddr>,
    /// Addresses of the peer, none for a listener.
    pub peer: Vec<SocketAddr>,
    /// Inode of the socket.
    pub inode: u32,
    /// Descriptors it is open as; none while it waits for `accept()` elsewhere
    /// or for the end of a shutdown.
    pub holders: Vec<Holder>,
}

/// What a socket or association is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "names of RFC 9260")]
pub enum State {
    Closed,
    Listen,
    CookieWait,
    CookieEchoed,
    Established,
    ShutdownPending,
    ShutdownSent,
    ShutdownReceived,
    ShutdownAckSent,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Closed => "CLOSED",
            Self::Listen => "LISTEN",
            Self::CookieWait => "COOKIE-WAIT",
            Self::CookieEchoed => "COOKIE-ECHOED",
            Self::Established => "ESTABLISHED",
            Self::ShutdownPending => "SHUTDOWN-PENDING",
            Self::ShutdownSent => "SHUTDOWN-SENT",
            Self::ShutdownReceived => "SHUTDOWN-RECEIVED",
            Self::ShutdownAckSent => "SHUTDOWN-ACK-SENT",
        })
    }
}

/// Every SCTP socket of every network namespace a process lives in; those of
/// the caller's own only where it may not enter others.
///
/// # Errors
/// The kernel's refusal.
pub fn all() -> Result<Vec<Socket>> {
    let held = holders::scan(None);
    let mut found = Vec::new();
    let mut own = true;
    for ns in holders::namespaces() {
        match in_namespace(ns) {
            Ok(sockets) => {
                own = false;
                found.extend(sockets);
            }
            Err(e) if e.errno() == Some(libc::EPERM) => {}
            Err(e) => return Err(e),
        }
    }
    if own {
        found = diag::read()?;
    }
    Ok(named(found, held))
}

/// What one process holds.
///
/// # Errors
/// No such process, no right to look at it, or the kernel's refusal.
pub fn of_process(pid: i32) -> Result<Vec<Socket>> {
    let ns =
        File::open(format!("/proc/{pid}/ns/net")).map_err(Error::sys(format!("process {pid}")))?;
    let held = holders::scan(Some(pid));
    let mut found = named(in_namespace(ns)?, held);
    found.retain(|s| !s.holders.is_empty());
    Ok(found)
}

fn named(mut sockets: Vec<Socket>, mut held: HashMap<u32, Vec<Holder>>) -> Vec<Socket> {
    // Several associations may hang on one socket.
    for s in &mut sockets {
        s.holders = held.entry(s.inode).or_default().clone();
    }
    sockets.sort_by(|a, b| (&a.local, &a.peer).cmp(&(&b.local, &b.peer)));
    sockets
}

/// A namespace is entered by a thread of its own, which then ends.
fn in_namespace(ns: File) -> Result<Vec<Socket>> {
    let worker = std::thread::spawn(move || {
        setns(ns, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::sys("cannot enter network namespace")(e.into()))?;
        diag::read()
    });
    worker
        .join()
        .unwrap_or(Err(Error::BadImage("list thread ended early")))
}
