// SPDX-License-Identifier: GPL-2.0-only
//! After a dump: nothing on this host may answer for associations that left.
//!
//! The tasks are dead, their addresses still here: a packet that arrives now
//! would be out of the blue, and the ABORT it draws would end the association
//! that is about to live elsewhere. As long as a copy of the frozen sockets is
//! open, the kernel drops such packets in silence. So the guard keeps its
//! copies until the addresses have left ([`hold`]), or until a restore on this
//! very host needs the ports ([`evict`]).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::BufReader;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use super::error::{Context, Result};
use super::scan::Plan;
use super::{names, netns, proc, sockets, sys};
use crate::netlink::local_addresses;
use crate::proto::record::Body;
use crate::sctp::addr;
use crate::sctp::repair::Repair;
use crate::{image, lock, sctp};

/// How often the guard looks whether the addresses are still here.
const LOOK: Duration = Duration::from_millis(50);
/// How long a restore waits for a guard to end.
const EVICTION: Duration = Duration::from_secs(2);

/// Keeps the sockets of a dead process tree frozen until their addresses have
/// left this host. Returns at once when the tree lives or speaks to nobody.
pub(crate) fn hold(plan: &Plan) {
    let departed = match addresses(plan) {
        Ok(departed) => departed,
        Err(e) => {
            log::error!("cannot read the sockets that left: {e}");
            return;
        }
    };
    let Some(socket) = plan.sockets.first().filter(|_| !departed.is_empty()) else {
        return;
    };
    if let Err(e) = enter(socket.file.as_fd(), &departed) {
        log::error!("{e}");
        return;
    }
    hold_until(|| Ok(local_addresses()?.is_disjoint(&departed)));
}

/// Enters the network namespace of a socket that left. When that is a container's,
/// the host may go on forwarding to it for a while, and would answer with an ICMP
/// error once the container is gone: it keeps quiet for these addresses.
pub(crate) fn enter(socket: BorrowedFd<'_>, departed: &HashSet<IpAddr>) -> Result<()> {
    let what = || "cannot ask for the network namespace of the sockets that left";
    let theirs = sockets::netns(socket)
        .and_then(|ns| sys::file_id(ns.as_fd()))
        .doing(what)?;
    if netns::own().doing(what)? == theirs {
        return Ok(());
    }
    let mut known: Vec<IpAddr> = departed.iter().copied().collect();
    known.retain(|a| !a.is_unspecified() && !a.is_loopback());
    if let Err(e) = lock::lock(&known, lock::LIMIT) {
        log::warn!("this host may answer for a container that left: {e}");
    }
    sockets::enter_netns(socket)
        .doing(|| "cannot enter the network namespace of the sockets that left")
}

/// Holds what this process has open until `left` says that it is needed no
/// more, or for ten minutes. It may be ended at any time: nothing is left to
/// rescue.
pub(crate) fn hold_until(mut left: impl FnMut() -> crate::netlink::Result<bool>) {
    if let Err(e) = fs::write("/proc/self/comm", names::DEPARTED) {
        log::error!("cannot take the name {}: {e}", names::DEPARTED);
        return;
    }
    // From here on `evict` may end us.
    sys::let_sigterm_end_us();
    let begin = Instant::now();
    while begin.elapsed() < lock::LIMIT {
        match left() {
            Ok(true) => return,
            Ok(false) => sleep(LOOK),
            Err(e) => {
                log::error!("cannot read the addresses of this host: {e}");
                return;
            }
        }
    }
}

/// Local addresses of all associations; none when a socket is not frozen any more.
fn addresses(plan: &Plan) -> sctp::Result<HashSet<IpAddr>> {
    let mut repair = Repair::open()?;
    let mut found = HashSet::new();
    for socket in &plan.sockets {
        if !repair.is_frozen(socket.file.as_fd())? {
            return Ok(HashSet::new());
        }
        repair.associations(socket.file.as_fd(), |asoc| {
            let parsed = asoc.local_addrs.iter().filter_map(|a| addr::parse(a));
            found.extend(parsed.map(|a| a.ip().to_canonical()));
            Ok(())
        })?;
    }
    Ok(found)
}

/// Ends guards that hold a port which an SCTP image in `dir`, or one of the
/// UDP sockets bound to `gtp`, needs.
pub(crate) fn evict(dir: &Path, gtp: HashSet<SocketAddr>) {
    let mut wanted = wanted(dir);
    wanted.extend(gtp);
    if wanted.is_empty() {
        return;
    }
    let begin = Instant::now();
    loop {
        for pid in guards(names::DEPARTED) {
            if holds(pid, &wanted) {
                log::info!("the sockets of an earlier dump, held by process {pid}, make room");
                // The silence the guard has kept until now is the packet lock's from here
                // on; it ends when the restored sockets wake, and outlasts a failed attempt.
                if let Err(e) = lock::lock(&answering(&wanted), lock::LIMIT) {
                    log::warn!("packets may end the associations before they are restored: {e}");
                }
                end(pid);
            }
        }
        // One whose tasks have only just died will be the next.
        let settles = guards(names::GUARD).iter().any(|g| holds(*g, &wanted));
        if !settles || begin.elapsed() > EVICTION {
            return;
        }
        sleep(LOOK);
    }
}

/// The addresses that answer for these sockets: all of this host for a socket
/// bound to any.
fn answering(wanted: &HashSet<SocketAddr>) -> Vec<IpAddr> {
    let mut found: HashSet<IpAddr> = wanted.iter().map(|a| a.ip().to_canonical()).collect();
    if found.iter().any(IpAddr::is_unspecified) {
        found.extend(local_addresses().unwrap_or_default());
        found.retain(|a| !a.is_unspecified());
    }
    found.into_iter().collect()
}

/// Bound addresses of the sockets in the images.
fn wanted(dir: &Path) -> HashSet<SocketAddr> {
    let mut found = HashSet::new();
    for mut reader in images(dir) {
        while let Ok(Some(body)) = reader.next_record() {
            if let Body::Endpoint(e) = body {
                found.extend(e.addrs.iter().filter_map(|a| addr::parse(a)));
                break;
            }
        }
    }
    found
}

/// The images of SCTP sockets in a directory, without those that cannot be read.
pub(super) fn images(dir: &Path) -> impl Iterator<Item = image::Reader<BufReader<File>>> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        entry.file_name().to_str().and_then(names::image_id)?;
        image::Reader::new(BufReader::new(File::open(entry.path()).ok()?)).ok()
    })
}

/// Guards on this host that go by this name: [`names::DEPARTED`] those that have
/// nothing to do but to hold sockets.
fn guards(name: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim_end() == name)
        })
        .collect()
}

/// Does the guard hold a socket bound to one of these?
fn holds(pid: i32, wanted: &HashSet<SocketAddr>) -> bool {
    let sockets = || -> std::io::Result<Vec<OwnedFd>> {
        let pidfd = sys::pidfd_open(pid)?;
        let sockets = proc::descriptors(pid)?
            .into_iter()
            .filter(|(_, l)| l.starts_with("socket:["));
        sockets
            .map(|(fd, _)| sys::pidfd_getfd(pidfd.as_fd(), fd))
            .collect()
    };
    // Without repair mode there are no SCTP sockets to ask.
    let mut repair = Repair::open().ok();
    let mut sctp = |socket: &OwnedFd| {
        let endpoint = repair.as_mut().map(|r| r.endpoint(socket.as_fd()));
        matches!(endpoint, Some(Ok(e)) if e
            .addrs
            .iter()
            .filter_map(|a| addr::parse(a))
            .any(|a| wanted.contains(&a)))
    };
    let held = match sockets() {
        Ok(held) => held,
        Err(_) => return false,
    };
    held.iter().any(|s| match sockets::protocol(s.as_fd()) {
        Ok(Some(libc::IPPROTO_SCTP)) => sctp(s),
        Ok(Some(libc::IPPROTO_UDP)) => {
            sockets::bound_to(s.as_fd()).is_some_and(|a| wanted.contains(&a))
        }
        _ => false,
    })
}

/// Its copies of the sockets are closed in repair mode: silently.
fn end(pid: i32) {
    let Ok(pidfd) = sys::pidfd_open(pid) else {
        return;
    };
    if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
        let limit = i32::try_from(EVICTION.as_millis()).unwrap_or(i32::MAX);
        if !matches!(
            sys::wait_readable(&[pidfd.as_fd()], limit).as_deref(),
            Ok([true])
        ) {
            log::warn!("process {pid} does not let go of the sockets of an earlier dump");
        }
    }
}
