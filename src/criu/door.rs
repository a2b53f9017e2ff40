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
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::error::{Context, Error, Result};
use super::gtp::Restore as Gtp;
use super::{departed, netns, proc};
use crate::lock::{self, Doorstep, Port};
use crate::netlink::local_addresses;
use crate::proto::record::Body;
use crate::sctp::addr;
use crate::sctp::repair::Repair;

/// At init: the network namespace we are to restore into may be locked already, for a short time in case we never get
/// here. From now on the lock is ours to lift.
pub fn keep_locked() {
    let prolong = || -> Result<()> {
        for netns in netns::open_here().doing(|| "cannot look at CRIU's descriptors")? {
            netns::within_open(netns.as_fd(), || {
                if lock::status()?.everything.is_some() {
                    lock::lock_everything(lock::LIMIT)?;
                }
                Ok(())
            })?;
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
    /// What arrives in the meantime goes no further.
    doorstep: Option<Doorstep>,
    /// All tasks, once the root has come by.
    tree: Option<HashSet<i32>>,
    /// Whether others live there.
    shared: HashMap<(u64, u64), bool>,
}

impl Door {
    /// At init, when all images are known to be good: nothing gets to the sockets
    /// in `dir`, nor to those bound to `gtp`, before they are there. What goes to
    /// addresses this host has already is for `telecr lock`, which comes earlier.
    pub fn locked(dir: BorrowedFd<'_>, gtp: &Gtp) -> Self {
        let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let doorstep = Visitors::of(&path, gtp.addresses()).keep_out();
        Self {
            doorstep: doorstep.unwrap_or_else(|e| {
                log::warn!(
                    "packets may end the associations before they are restored, \
                     should the runtime bring their addresses up only now: {e}"
                );
                None
            }),
            ..Self::default()
        }
    }

    /// At `RESUME_DEVICES_LATE`, when all sockets are there and all links made:
    /// lets packets into the network namespace of a task, the root first. Where
    /// others live, only to those that have a socket there; to all, if this
    /// restore has made GTP `links`, whose subscribers have none.
    ///
    /// # Errors
    /// The lock is still there.
    pub fn let_in(&mut self, pid: i32, links: bool) -> Result<()> {
        let shared = self.is_shared(pid)?;
        let open = || match (shared, links) {
            (true, true) => Ok(lock::unlock_all()?),
            (true, false) => narrow(),
            (false, _) => Ok(lock::unlock_everything()?),
        };
        netns::of_task(pid, || match open() {
            Err(Error::Lock(lock::Error::NoNftables)) => Ok(()),
            other => other,
        })?;
        self.doorstep = None;
        Ok(())
    }

    /// Lifts the lock for the sockets of a task.
    pub(super) fn open(
        &mut self,
        pid: i32,
        repair: &mut Repair,
        sockets: &[OwnedFd],
    ) -> Result<()> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        let mut ports: HashSet<Port> = HashSet::new();
        for socket in sockets {
            let endpoint = repair
                .endpoint(socket.as_fd())
                .map_err(|source| Error::Repair {
                    what: format!("a socket of {pid}"),
                    source,
                })?;
            for at in endpoint.addrs.iter().filter_map(|a| addr::parse(a)) {
                addresses.push(at.ip());
                ports.insert(Port::sctp(at.port()));
            }
        }
        if !self.is_shared(pid)? {
            return unlock_addresses(pid, addresses);
        }
        let ports: Vec<Port> = ports.into_iter().collect();
        let known = netns::of_task(pid, || {
            lock::open(&ports, lock::LIMIT)?;
            bound(addresses)
        })?;
        Ok(lock::unlock(&known)?)
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
        let others = || -> std::io::Result<bool> {
            let pids = fs::read_dir("/proc")?.flatten();
            let mut pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
            Ok(pids.any(|p| !tree.contains(&p) && netns::of(p).is_ok_and(|n| n == theirs)))
        };
        let shared = theirs != here && others().doing(|| "cannot list the processes")?;
        self.shared.insert(theirs, shared);
        Ok(shared)
    }
}

/// Where those who must not come in yet want to go.
#[derive(Default)]
struct Visitors {
    addresses: HashSet<IpAddr>,
    ports: HashSet<Port>,
}

impl Visitors {
    /// To the sockets in the images of a directory, and those of GTP links.
    fn of(dir: &Path, gtp: HashSet<SocketAddr>) -> Self {
        let mut all = Self::default();
        for at in gtp {
            all.addresses.insert(at.ip());
            all.ports.insert(Port::udp(at.port()));
        }
        for mut reader in departed::images(dir) {
            while let Ok(Some(body)) = reader.next_record() {
                match body {
                    Body::Endpoint(endpoint) => {
                        let bound: Vec<_> = endpoint
                            .addrs
                            .iter()
                            .filter_map(|a| addr::parse(a))
                            .collect();
                        all.ports.extend(bound.iter().map(|a| Port::sctp(a.port())));
                        all.addresses.extend(bound.iter().map(SocketAddr::ip));
                        if !bound.iter().any(|a| a.ip().is_unspecified()) {
                            break;
                        }
                    }
                    // Bound to any: its associations know which these are.
                    Body::Association(asoc) => {
                        let local = asoc.local_addrs.iter().filter_map(|a| addr::parse(a));
                        all.addresses.extend(local.map(|a| a.ip()));
                    }
                    _ => {}
                }
            }
        }
        all
    }

    fn keep_out(self) -> Result<Option<Doorstep>> {
        let here: HashSet<IpAddr> = addresses_here()?.into_iter().collect();
        let mut addresses: Vec<IpAddr> = self.addresses.iter().map(IpAddr::to_canonical).collect();
        addresses.retain(|a| !here.contains(a) && is_global(*a));
        if addresses.is_empty() {
            return Ok(None);
        }
        let ports: Vec<Port> = self.ports.into_iter().collect();
        Ok(Some(Doorstep::lock(&addresses, &ports)?))
    }
}

/// Not one that many hosts have.
fn is_global(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
    !address.is_unspecified() && !address.is_loopback() && !link_local
}

/// Locks the addresses of this network namespace instead of the whole.
fn narrow() -> Result<()> {
    if lock::status()?.everything.is_none() {
        return Ok(());
    }
    lock::lock(&addresses_here()?, lock::LIMIT)?;
    log::info!(
        "others live in this network namespace: its addresses stay locked for what is still to come; \
         `telecr unlock --all` when all are there"
    );
    Ok(lock::unlock_everything()?)
}

fn addresses_here() -> Result<Vec<IpAddr>> {
    let found = local_addresses().map_err(|e| Error::Other(e.to_string()))?;
    Ok(found.into_iter().collect())
}

/// All of this network namespace, where a socket is bound to any.
fn bound(mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>> {
    if addresses.iter().any(IpAddr::is_unspecified) {
        addresses.extend(addresses_here()?);
    }
    addresses.retain(|a| !a.is_unspecified());
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Removes the packet lock of addresses that sockets of a task are bound to: in its network namespace, and where CRIU runs
/// if that is another, because packets may come through it.
pub(super) fn unlock_addresses(pid: i32, addresses: Vec<IpAddr>) -> Result<()> {
    let known = netns::of_task(pid, || {
        let known = bound(addresses)?;
        lock::unlock(&known)?;
        Ok(known)
    })?;
    Ok(lock::unlock(&known)?)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sched::{unshare, CloneFlags};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn is_shared(child: &Child) -> bool {
        let pid = i32::try_from(child.id()).unwrap();
        Door::default().is_shared(pid).unwrap()
    }

    #[test]
    fn others_in_a_network_namespace_are_seen() {
        let ours = sleeper();
        assert!(!is_shared(&ours), "a host's network was taken for a pod's");
        end(ours);
        let worker = std::thread::spawn(|| {
            if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: no network namespace: {e}");
                return;
            }
            let (first, second) = (sleeper(), sleeper());
            assert!(is_shared(&first));
            end(second);
            assert!(!is_shared(&first));
            end(first);
        });
        worker.join().unwrap();
    }
}
