// SPDX-License-Identifier: GPL-2.0-only
//! The keeper: a small process that outlives CRIU and takes a GTP link away
//! when the tasks it belonged to have left.
//!
//! Until the dump has ended nobody knows whether the tasks will live, so the
//! keeper waits. Once they are dead it keeps the link, and its copies of the
//! sockets, as long as their addresses are on this host: the kernel goes on to
//! serve the subscribers meanwhile, and no packet draws an error on which peers
//! give up tunnels. When the addresses have left it deletes the link, which
//! would stay with all its routes otherwise.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use super::error::{Context, Error, Result};
use super::gtp::{Dumped, GtpDump};
use super::rescue::{fate, Fate};
use super::{departed, guard, logger, sockets, sys};
use crate::gtp::link;
use crate::netlink::local_addresses;

/// Time between two looks at the tasks.
const LOOK: Duration = Duration::from_millis(20);

/// How long the addresses on the subscribers' side have to follow those of the
/// sockets. They may be the host's own, and stay.
const OTHER_SIDE: Duration = Duration::from_secs(2);

/// Forks the keeper and waits until it watches.
pub(crate) fn start(dump: &GtpDump, stays_stopped: bool) -> Result<()> {
    let (mut line, theirs) = UnixStream::pair().doing(|| "cannot make a socket pair")?;
    let criu_pid = sys::my_pid();
    let criu = sys::pidfd_open(criu_pid).doing(|| "cannot open our own process")?;
    let mut tasks: Vec<(i32, OwnedFd)> = Vec::new();
    for socket in &dump.sockets {
        if tasks.iter().all(|(pid, _)| *pid != socket.pid) {
            let pidfd = sys::pidfd_open(socket.pid)
                .doing(|| format!("cannot open process {}", socket.pid))?;
            tasks.push((socket.pid, pidfd));
        }
    }
    let watch = Watch {
        tasks,
        criu,
        criu_pid,
        stays_stopped,
    };
    sys::fork_orphan(|| {
        // An unwinding panic must not reach CRIU's frames, not even in a copy of them.
        let _ = catch_unwind(AssertUnwindSafe(|| keep(dump, &watch, &theirs)));
    })
    .doing(|| "cannot fork the keeper of GTP links")?;
    drop(theirs);
    let mut ready = [0];
    line.read_exact(&mut ready)
        .doing(|| "the keeper of GTP links ended before it was ready")
}

/// What the keeper looks at.
struct Watch {
    tasks: Vec<(i32, OwnedFd)>,
    criu: OwnedFd,
    criu_pid: i32,
    stays_stopped: bool,
}

/// The keeper's life, after the fork.
fn keep(dump: &GtpDump, watch: &Watch, line: &UnixStream) {
    logger::leave_criu();
    let mut own = vec![line.as_raw_fd(), watch.criu.as_raw_fd()];
    own.extend(watch.tasks.iter().map(|(_, t)| t.as_raw_fd()));
    own.extend(dump.sockets.iter().map(|s| s.file.as_raw_fd()));
    if let Err(e) = guard::detach(own) {
        log::error!("the keeper of GTP links cannot settle: {e}");
        return;
    }
    sys::ordinary_priority();
    let mut line = line;
    if line.write_all(b"r").is_err() || !watch.all_die() {
        return;
    }
    for namespace in &dump.namespaces {
        let Some(socket) = dump.sockets.get(namespace.socket) else {
            continue;
        };
        let bound = dump
            .sockets
            .iter()
            .filter_map(|s| sockets::bound_to(s.file.as_fd()));
        let bound: HashSet<IpAddr> = bound.map(|a| a.ip()).collect();
        if let Err(e) = departed::enter(socket.file.as_fd(), &bound) {
            log::error!("{e}");
            continue;
        }
        let mut since: Option<Instant> = None;
        departed::hold_until(|| {
            let here = local_addresses()?;
            let outside = namespace.outer.is_disjoint(&here);
            if !left(&bound, here) {
                since = None;
                return Ok(false);
            }
            // What still comes for subscribers would draw errors without the link.
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            Ok(outside || waited > OTHER_SIDE)
        });
        if let Err(e) = delete(&namespace.links) {
            log::error!("{e}");
        }
    }
}

impl Watch {
    /// Waits for the end of the tasks; `false` as soon as one runs by itself.
    fn all_die(&self) -> bool {
        let mut free_before = false;
        loop {
            let ended = |fd: &OwnedFd| {
                matches!(sys::wait_readable(&[fd.as_fd()], 0).as_deref(), Ok([true]))
            };
            let criu_alive = !ended(&self.criu);
            let fates: Vec<Fate> = self
                .tasks
                .iter()
                .map(|(pid, fd)| {
                    let criu = criu_alive.then_some(self.criu_pid);
                    fate(*pid, fd.as_fd(), criu, self.stays_stopped)
                })
                .collect();
            if fates.iter().all(|f| *f == Fate::Dead) {
                return true;
            }
            // Seen twice: between taking a SIGKILL and dying a task looks alive.
            let free = fates.contains(&Fate::Free);
            if free && free_before {
                return false;
            }
            free_before = free;
            std::thread::sleep(LOOK);
        }
    }
}

/// Deletes the links that are still what they were.
fn delete(links: &[Dumped]) -> Result<()> {
    let failed = |source| Error::Gtp {
        what: "cannot remove a GTP link that has moved".into(),
        source,
    };
    for there in link::list().map_err(failed)? {
        if links
            .iter()
            .any(|l| l.ifindex == there.ifindex && l.name == there.name)
        {
            link::delete(there.ifindex).map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether the addresses the sockets answer for have left this host. A socket
/// bound to any address cannot tell which one moves.
fn left(bound: &HashSet<IpAddr>, here: HashSet<IpAddr>) -> bool {
    let known = bound.iter().any(|ip| !ip.is_unspecified());
    if known {
        return bound.is_disjoint(&here);
    }
    here.iter().all(IpAddr::is_loopback)
}
