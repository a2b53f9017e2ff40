// SPDX-License-Identifier: GPL-2.0-only
//! Lifts the packet lock when the tasks of a restore are complete.
//!
//! Where others live in their network namespace, as in a pod, more may have to
//! come: there all addresses stay locked, and only the ports of what is
//! complete are opened.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::error::{Context, Error, Result};
use super::{netns, proc};
use crate::lock::{self, Port};
use crate::netlink::local_addresses;
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
    /// All tasks, once the root has come by.
    tree: Option<HashSet<i32>>,
    /// Whether others live there.
    shared: HashMap<(u64, u64), bool>,
}

impl Door {
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
        })
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
