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

use super::door::{addresses_here, is_global};
use super::error::{Context, Result};
use super::scan::Plan;
use super::{names, netns, proc, sockets, sys};
use crate::lock::{self, Place};
use crate::netlink::local_addresses;
use crate::proto::record::Body;
use crate::sctp::addr;
use crate::sctp::repair::Repair;
use crate::{image, sctp};

/// How often the guard looks whether the addresses are still here.
const LOOK: Duration = Duration::from_millis(50);
/// How long a restore waits for a guard to end.
const EVICTION: Duration = Duration::from_secs(2);

/// Keeps the sockets of a dead process tree frozen until their addresses have
/// left this host. Returns at once when the tree lives or speaks to nobody.
pub(crate) fn hold(plan: &Plan) {
    if plan.sockets.is_empty() {
        return;
    }
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
    let mut told = false;
    while begin.elapsed() < lock::LIMIT {
        match left() {
            Ok(true) => return,
            // Better too long than an answer for somebody who has left.
            Err(e) if !told => {
                log::error!("cannot read the addresses of this host: {e}; trying on");
                told = true;
            }
            Ok(false) | Err(_) => {}
        }
        sleep(LOOK);
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
/// UDP sockets bound to `gtp`, needs. `places` says where all of these are reached.
pub(crate) fn evict(dir: &Path, gtp: HashSet<SocketAddr>, places: &HashSet<Place>) {
    let mut wanted = wanted(dir);
    wanted.extend(gtp);
    if wanted.is_empty() {
        return;
    }
    let reached: HashSet<IpAddr> = places.iter().map(|(ip, _)| *ip).collect();
    let begin = Instant::now();
    loop {
        for pid in guards(names::DEPARTED) {
            let Some(addresses) = in_the_way(pid, &wanted, &reached) else {
                continue;
            };
            log::info!("the sockets of an earlier dump, held by process {pid}, make room");
            // The silence the guard has kept until now is the packet lock's from here
            // on; it ends when the restored sockets wake, and outlasts a failed attempt.
            let locked = match addresses.is_empty() {
                true => Ok(()),
                false => lock::lock(&addresses, lock::LIMIT),
            };
            if let Err(e) = locked {
                log::warn!("packets may end the associations before they are restored: {e}");
            }
            end(pid);
        }
        // One whose tasks have only just died will be the next.
        let mut soon = guards(names::GUARD).into_iter();
        let settles = soon.any(|pid| in_the_way(pid, &wanted, &reached).is_some());
        if !settles || begin.elapsed() > EVICTION {
            return;
        }
        sleep(LOOK);
    }
}

/// The addresses for which this host has to keep quiet instead of a guard, if that
/// holds what is wanted. Not one of another container, as far as the images say where
/// theirs is `reached`: that one has a network namespace of its own, where the
/// addresses are others.
fn in_the_way(
    pid: i32,
    wanted: &HashSet<SocketAddr>,
    reached: &HashSet<IpAddr>,
) -> Option<Vec<IpAddr>> {
    let socket = held(pid, wanted)?;
    let look = || Ok(addresses_here()?);
    let local = netns::within_socket(socket.as_fd(), look).unwrap_or_default();
    let mut addresses: HashSet<IpAddr> = wanted.iter().map(|a| a.ip().to_canonical()).collect();
    if addresses.iter().any(IpAddr::is_unspecified) {
        addresses.retain(|a| !a.is_unspecified());
        addresses.extend(&local);
    }
    let home = home(socket.as_fd());
    if home == Home::Elsewhere && !reached.is_empty() && local.is_disjoint(reached) {
        return None;
    }
    if home != Home::Here {
        // What is reached is locked at the devices already ([`super::door`]).
        addresses.retain(|a| is_global(*a) && reached.is_empty());
    }
    Some(addresses.into_iter().collect())
}

/// Where the network namespace of a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// This process is in it.
    Here,
    /// This process has it open, to restore into.
    Open,
    Elsewhere,
}

fn home(socket: BorrowedFd<'_>) -> Home {
    let is = |known: &(u64, u64)| {
        sockets::netns(socket)
            .and_then(|ns| sys::file_id(ns.as_fd()))
            .is_ok_and(|theirs| theirs == *known)
    };
    let open = netns::open_here().unwrap_or_default();
    if netns::own().is_ok_and(|own| is(&own)) {
        Home::Here
    } else if open
        .iter()
        .any(|ns| sys::file_id(ns.as_fd()).is_ok_and(|id| is(&id)))
    {
        Home::Open
    } else {
        Home::Elsewhere
    }
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
    let processes = proc::all().unwrap_or_default().into_iter();
    let is_one = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim_end() == name)
    };
    processes.filter(is_one).collect()
}

/// A socket bound to one of these that a guard holds.
fn held(pid: i32, wanted: &HashSet<SocketAddr>) -> Option<OwnedFd> {
    let sockets = || -> std::io::Result<Vec<OwnedFd>> {
        let pidfd = sys::pidfd_open(pid)?;
        let sockets = proc::descriptors(pid)?
            .into_iter()
            .filter(|(_, l)| l.starts_with("socket:["));
        sockets
            .map(|(fd, _)| sys::pidfd_getfd(pidfd.as_fd(), fd))
            .collect()
    };
    // For the first SCTP socket: it would have the kernel load its module.
    let mut repair = None;
    let mut sctp = |socket: &OwnedFd| {
        let repair = repair.get_or_insert_with(|| Repair::open().ok());
        let endpoint = repair.as_mut().map(|r| r.endpoint(socket.as_fd()));
        matches!(endpoint, Some(Ok(e)) if e
            .addrs
            .iter()
            .filter_map(|a| addr::parse(a))
            .any(|a| wanted.contains(&a)))
    };
    sockets()
        .ok()?
        .into_iter()
        .find(|s| match sockets::protocol(s.as_fd()) {
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use nix::fcntl::{fcntl, FcntlArg, FdFlag};

    use super::*;

    #[test]
    fn a_guard_of_another_container_is_left_alone() {
        lock::in_namespace(|| {
            for args in [
                ["link", "set", "lo", "up"].as_slice(),
                &["address", "add", "192.0.2.1/32", "dev", "lo"],
                &["address", "add", "192.0.2.3/32", "dev", "lo"],
            ] {
                assert!(Command::new("ip").args(args).status().unwrap().success());
            }
            let held = UdpSocket::bind("0.0.0.0:2152").unwrap();
            fcntl(&held, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            let mut guard = Command::new("sleep").arg("60").spawn().unwrap();
            let pid = i32::try_from(guard.id()).unwrap();
            let ips = |all: &[&str]| -> HashSet<IpAddr> {
                all.iter().map(|a| a.parse().unwrap()).collect()
            };
            let wanted = HashSet::from(["0.0.0.0:2152".parse().unwrap()]);
            let quiet = |reached: &[&str]| {
                let found = in_the_way(pid, &wanted, &ips(reached))?;
                Some(found.into_iter().collect::<HashSet<_>>())
            };
            assert_eq!(quiet(&["192.0.2.2"]), None);
            assert_eq!(quiet(&["192.0.2.1", "192.0.2.2"]), Some(ips(&[])));
            // Nothing says where the socket is reached.
            assert_eq!(quiet(&[]), Some(ips(&["192.0.2.1", "192.0.2.3"])));
            let other = HashSet::from(["0.0.0.0:36412".parse().unwrap()]);
            assert_eq!(in_the_way(pid, &other, &ips(&["192.0.2.1"])), None);
            // A restore into its very network namespace.
            let _netns = File::open(format!("/proc/{pid}/ns/net")).unwrap();
            assert_eq!(quiet(&["192.0.2.2"]), Some(ips(&[])));
            assert_eq!(quiet(&[]), Some(ips(&["192.0.2.1", "192.0.2.3"])));
            guard.kill().unwrap();
            guard.wait().unwrap();
        });
    }
}
