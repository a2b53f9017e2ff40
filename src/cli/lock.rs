// SPDX-License-Identifier: GPL-2.0-only
//! `telecr lock`, `unlock` and `status`: the packet lock by hand.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context};
use nix::errno::Errno;
use nix::sched::{setns, CloneFlags};
use nix::sys::statfs::{statfs, NSFS_MAGIC};
use serde::Serialize;
use telecr::lock;

use super::{output, table::Table};

/// Where `ip netns` and podman keep names of network namespaces.
const NAMED: &str = "/run/netns";

/// Lock addresses, or a network namespace as a whole when none are given.
pub(super) fn lock(
    netns: Option<&Path>,
    addresses: &[IpAddr],
    expiry: Duration,
) -> anyhow::Result<()> {
    within(netns, || {
        if addresses.is_empty() {
            lock::lock_everything(expiry)?;
        } else {
            lock::lock(addresses, expiry)?;
        }
        Ok(())
    })
}

/// Unlock addresses, or all there is.
pub(super) fn unlock(netns: Option<&Path>, addresses: &[IpAddr], all: bool) -> anyhow::Result<()> {
    if !all {
        return within(netns, || {
            lock::unlock(addresses)?;
            let addresses: HashSet<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
            Ok(lock::doorstep::unlock(|(ip, _)| addresses.contains(ip))?)
        });
    }
    if netns.is_some() {
        return within(netns, || Ok(lock::unlock_all()?));
    }
    let mut failed = Ok(());
    for place in places() {
        match within(place.as_deref(), || Ok(lock::unlock_all()?)) {
            Err(e) if is_none(place.as_deref()) => log::info!("{e:#}"),
            // The others shall not stay locked for that.
            Err(e) if failed.is_ok() => failed = Err(e),
            Err(e) => log::warn!("{e:#}"),
            Ok(()) => {}
        }
    }
    failed
}

/// One locked thing, for people and machines.
#[derive(Serialize)]
struct Row {
    /// The network namespace; none for that of the caller.
    netns: Option<PathBuf>,
    /// None for the whole namespace.
    address: Option<IpAddr>,
    /// A port of it alone, as `sctp/3868`: at the host's devices, for an address that may not be here yet.
    port: Option<String>,
    expires_in_s: u64,
}

impl Row {
    /// What is locked, for people.
    fn what(&self) -> String {
        match (self.address, &self.port) {
            (None, _) => "everything".to_owned(),
            (Some(address), None) => address.to_string(),
            (Some(address), Some(port)) => format!("{address} {port}"),
        }
    }
}

/// Print what is locked, here and in all named network namespaces.
pub(super) fn status(json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for netns in places() {
        let status = match within(netns.as_deref(), || Ok(lock::status()?)) {
            Ok(status) => status,
            Err(_) if is_none(netns.as_deref()) => continue,
            Err(e) => return Err(e),
        };
        let whole = status.everything.map(|left| (None, None, left));
        let single = status.addresses.into_iter();
        let ahead = status.doorstep.into_iter();
        let all = whole
            .into_iter()
            .chain(single.map(|(ip, left)| (Some(ip), None, left)))
            .chain(ahead.map(|((ip, port), left)| (Some(ip), Some(port.to_string()), left)));
        rows.extend(all.map(|(address, port, left)| Row {
            netns: netns.clone(),
            address,
            port,
            expires_in_s: left.as_secs(),
        }));
    }
    let mut out = output::open();
    if json {
        writeln!(out, "{}", serde_json::to_string(&rows)?)?;
    } else if rows.is_empty() {
        writeln!(out, "nothing is locked")?;
    } else {
        let mut table = Table::new(&["LOCKED", "EXPIRES IN", "NETWORK NAMESPACE"]);
        for row in rows {
            table.row(vec![
                row.what(),
                format!("{} s", row.expires_in_s),
                row.netns
                    .map_or_else(String::new, |n| n.display().to_string()),
            ]);
        }
        write!(out, "{table}")?;
    }
    Ok(out.flush()?)
}

/// This network namespace and all that have a name.
fn places() -> Vec<Option<PathBuf>> {
    let named = std::fs::read_dir(NAMED).into_iter().flatten().flatten();
    let mut named: Vec<PathBuf> = named.map(|e| e.path()).collect();
    named.sort();
    std::iter::once(None)
        .chain(named.into_iter().map(Some))
        .collect()
}

/// Whether there is no network namespace behind a name: a container may have ended
/// just now, and a crash can leave an empty file.
fn is_none(named: Option<&Path>) -> bool {
    let Some(path) = named else { return false };
    match statfs(path) {
        Ok(place) => place.filesystem_type() != NSFS_MAGIC,
        Err(e) => e == Errno::ENOENT,
    }
}

/// Works in another network namespace, if one is given, on a thread of its own.
pub(super) fn within<T: Send>(
    netns: Option<&Path>,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let Some(netns) = netns else {
        return work();
    };
    let enter = || -> anyhow::Result<()> {
        let file = File::open(netns)?;
        Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
    };
    let there = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter().with_context(|| format!("cannot enter {}", netns.display()))?;
            work()
        });
        thread.join()
    });
    match there {
        Ok(done) => done,
        Err(_) => bail!("a thread in {} has panicked", netns.display()),
    }
}
