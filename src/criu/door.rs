// SPDX-License-Identifier: GPL-2.0-only
//! Lifts the packet lock when the tasks of a restore are complete.
//!
//! Where others live in their network namespace, as in a pod, more may have to
//! come: there all addresses stay locked, and only the ports of what is
//! complete are opened.
//!
//! A runtime may also give its container the addresses only while CRIU restores
//! it: until then they are locked at the host's own devices.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::error::{Context, Error, Result};
use super::gtp::Restore as Gtp;
use super::{departed, netns, proc, sockets, sys};
use crate::lock::{self, doorstep, Place, Port};
use crate::netlink::local_addresses;
use crate::proto::record::Body;
use crate::sctp::addr;
use crate::sctp::repair::Repair;

/// At init: the network namespace we are to restore into may be locked already, for a short time in case we never get
/// here. From now on the lock is ours to lift.
pub fn keep_locked() {
    let prolong = || -> Result<()> {
        for netns in netns::open_here().doing(|| "cannot look at CRIU's descriptors")? {
            netns::within_open(netns.as_fd(), || Ok(lock::renew(lock::LIMIT)?))?;
        }
        Ok(())
    };
    if let Err(e) = prolong() {
        log::warn!("the packet lock may end early: {e}");
    }
}

/// The network namespaces of the tasks of one restore.
#[derive(Default)]
pub struct Door {
    /// Where the sockets and GTP links will be reached from outside: by then not
    /// locked at the host's devices any more, by this restore or by one before it.
    places: HashSet<Place>,
    /// All tasks, once the root has come by.
    tree: Option<HashSet<i32>>,
    /// Whether others live there.
    shared: HashMap<(u64, u64), bool>,
}

impl Door {
    /// At init, when all images are known to be good: nothing from outside gets to
    /// the sockets in `dir`, nor to GTP links, before they are there, and for a
    /// while longer should the restore fail. What goes to addresses this host has
    /// already is for `telecr lock`, which comes earlier.
    pub fn locked(dir: BorrowedFd<'_>, gtp: &Gtp) -> Self {
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let mut places = places(&path, gtp);
        places.retain(|(ip, _)| is_global(*ip));
        if let Err(e) = lock_ahead(&places) {
            log::warn!(
                "packets may end the associations before they are restored, \
                 should the runtime bring their addresses up only now: {e}"
            );
        }
        Self {
            places,
            ..Self::default()
        }
    }

    /// Where the sockets and links of this restore will be reached from outside.
    pub(super) fn places(&self) -> &HashSet<Place> {
        &self.places
    }

    /// At `RESUME_DEVICES_LATE`, when all sockets are there and all links made:
    /// lets packets into the network namespace of a task, the root first. Where
    /// others live, only to those that have a socket there; to all, if this
    /// restore has made GTP `links`, whose subscribers have none.
    ///
    /// # Errors
    /// The lock is still there.
    pub fn let_in(&mut self, pid: i32, links: bool) -> Result<()> {
        let places = std::mem::take(&mut self.places);
        let outside = match places.is_empty() {
            true => Ok(()),
            false => unless_absent(doorstep::unlock(|place| places.contains(place))),
        };
        let shared = self.is_shared(pid)?;
        let gtp = match shared && !links {
            true => gtp_sockets(pid)?,
            false => HashSet::new(),
        };
        let open = || match (shared, links) {
            (true, true) => lock::unlock_all(),
            (true, false) => narrow(gtp),
            (false, _) => lock::unlock_everything(),
        };
        netns::of_task(pid, || Ok(unless_absent(open())?))?;
        Ok(outside?)
    }

    /// Lifts the lock for the SCTP sockets of a task.
    pub(super) fn open(
        &mut self,
        pid: i32,
        repair: &mut Repair,
        sockets: &[OwnedFd],
    ) -> Result<()> {
        let mut places: HashSet<Place> = HashSet::new();
        for socket in sockets {
            let endpoint = repair
                .endpoint(socket.as_fd())
                .map_err(|source| Error::Repair {
                    what: format!("a socket of {pid}"),
                    source,
                })?;
            let bound = endpoint.addrs.iter().filter_map(|a| addr::parse(a));
            places.extend(bound.map(|at| (at.ip(), Port::sctp(at.port()))));
        }
        let addresses = |places: HashSet<Place>| places.into_iter().map(|(ip, _)| ip).collect();
        if !self.is_shared(pid)? {
            return unlock_addresses(pid, addresses(places));
        }
        let reached = netns::of_task(pid, || {
            let reached = reached(places)?;
            let all: Vec<Place> = reached.iter().copied().collect();
            unless_absent(lock::open(&all))?;
            Ok(reached)
        })?;
        let known: Vec<IpAddr> = addresses(reached);
        Ok(unless_absent(lock::unlock(&known))?)
    }

    /// Do others than the tasks live in the network namespace of one of them?
    /// Not asked of the one CRIU is in, which is a host's.
    fn is_shared(&mut self, pid: i32) -> Result<bool> {
        let theirs = netns::of(pid).doing(|| format!("cannot look at process {pid}"))?;
        if let Some(known) = self.shared.get(&theirs) {
            return Ok(*known);
        }
        let tree = match &mut self.tree {
            Some(tree) => tree,
            none => {
                let tree = proc::tree(pid).doing(|| format!("cannot walk the tree of {pid}"))?;
                none.insert(tree.into_iter().collect())
            }
        };
        let here = netns::own().doing(|| "cannot look at CRIU's network namespace")?;
        let other = || -> std::io::Result<Option<i32>> {
            let mut pids = proc::all()?.into_iter();
            Ok(pids.find(|p| !tree.contains(p) && netns::is_home(*p, theirs)))
        };
        let other = match theirs == here {
            true => None,
            false => other().doing(|| "cannot list the processes")?,
        };
        if let Some(other) = other {
            log::info!("process {other} lives in the network namespace of {pid} too");
        }
        self.shared.insert(theirs, other.is_some());
        Ok(other.is_some())
    }
}

/// Locks those of the places that this host does not have yet.
fn lock_ahead(places: &HashSet<Place>) -> lock::Result<()> {
    let here = addresses_here()?;
    let ahead: Vec<Place> = places
        .iter()
        .filter(|(ip, _)| !here.contains(ip))
        .copied()
        .collect();
    if !ahead.is_empty() {
        doorstep::lock(&ahead, lock::LIMIT)?;
        log::info!(
            "{} ports are locked at this host's devices until the restore is complete; should it fail, \
             for ten minutes, until the next one is complete, or until `telecr unlock --all`",
            ahead.len()
        );
    }
    Ok(())
}

/// Where there is no nftables, nothing is locked.
fn unless_absent(unlocked: lock::Result<()>) -> lock::Result<()> {
    match unlocked {
        Err(lock::Error::NoNftables) => Ok(()),
        other => other,
    }
}

/// Where the sockets in the images of a directory and the GTP links will be reached.
fn places(dir: &Path, gtp: &Gtp) -> HashSet<Place> {
    let mut all = gtp.places();
    for mut reader in departed::images(dir) {
        // Bound to any address: its associations know which these are.
        let mut any: HashSet<Port> = HashSet::new();
        while let Ok(Some(body)) = reader.next_record() {
            match body {
                Body::Endpoint(endpoint) => {
                    for at in endpoint.addrs.iter().filter_map(|a| addr::parse(a)) {
                        let port = Port::sctp(at.port());
                        all.insert((at.ip().to_canonical(), port));
                        if at.ip().is_unspecified() {
                            any.insert(port);
                        }
                    }
                    if any.is_empty() {
                        break;
                    }
                }
                Body::Association(asoc) => {
                    let local = asoc.local_addrs.iter().filter_map(|a| addr::parse(a));
                    for ip in local.map(|a| a.ip().to_canonical()) {
                        all.extend(any.iter().map(|port| (ip, *port)));
                    }
                }
                _ => {}
            }
        }
    }
    all
}

/// Where the sockets of a task for GTP are bound.
fn gtp_sockets(pid: i32) -> Result<HashSet<Place>> {
    let what = || format!("cannot look at the sockets of {pid}");
    let pidfd = sys::pidfd_open(pid).doing(what)?;
    let mut found = HashSet::new();
    let listed = proc::descriptors(pid).doing(what)?;
    for (fd, _) in listed
        .iter()
        .filter(|(_, link)| link.starts_with("socket:["))
    {
        let file = sys::pidfd_getfd(pidfd.as_fd(), *fd).doing(what)?;
        if sockets::protocol(file.as_fd()).doing(what)? == Some(libc::IPPROTO_UDP) {
            let bound = sockets::bound_to(file.as_fd());
            let ours = bound.filter(|at| lock::GTP_PORTS.contains(&at.port()));
            found.extend(ours.map(|at| (at.ip(), Port::udp(at.port()))));
        }
    }
    Ok(found)
}

/// Not one that many hosts have.
pub(super) fn is_global(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
    !address.is_unspecified() && !address.is_loopback() && !link_local
}

/// Locks the addresses of this network namespace instead of the whole, but for what is bound there.
fn narrow(bound: HashSet<Place>) -> lock::Result<()> {
    let open: Vec<Place> = reached(bound)?.into_iter().collect();
    let here: Vec<IpAddr> = addresses_here()?.into_iter().collect();
    if lock::narrow(&here, &open, lock::LIMIT)? {
        log::warn!(
            "others live in this network namespace: SCTP and GTP reach only what is restored, for ten minutes \
             or until `telecr unlock --all`, when all are there"
        );
    }
    Ok(())
}

/// Where sockets that are bound there are reached: at all addresses of this network namespace, if bound to any.
fn reached(bound: HashSet<Place>) -> lock::Result<HashSet<Place>> {
    let (any, mut reached): (HashSet<Place>, HashSet<Place>) =
        bound.into_iter().partition(|(ip, _)| ip.is_unspecified());
    if !any.is_empty() {
        for ip in addresses_here()? {
            reached.extend(any.iter().map(|(_, port)| (ip, *port)));
        }
    }
    Ok(reached)
}

/// All addresses of this network namespace.
pub(super) fn addresses_here() -> lock::Result<HashSet<IpAddr>> {
    Ok(local_addresses()?)
}

/// Removes the packet lock of addresses that sockets of a task are bound to: in its network namespace, and where CRIU runs
/// if that is another, because packets may come through it.
pub(super) fn unlock_addresses(pid: i32, bound: Vec<IpAddr>) -> Result<()> {
    let reached = netns::of_task(pid, || {
        let reached = lock::reached(bound)?;
        unless_absent(lock::unlock(&reached))?;
        Ok(reached)
    })?;
    Ok(unless_absent(lock::unlock(&reached))?)
}

#[cfg(test)]
mod tests;
