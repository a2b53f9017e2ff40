// SPDX-License-Identifier: GPL-2.0-only
//! Transactions on the table.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::encode::{self, Family};
use super::{rules, Error, Place, Result, Status};
use crate::netlink::{self, nft, Message, Protocol, Socket};

/// Reads and changes meet those of others so often before giving up.
pub(super) const ATTEMPTS: usize = 50;

pub(super) fn transaction(body: &[Message]) -> netlink::Result<()> {
    let (begin, end) = nft::frame(None)?;
    Socket::open(Protocol::Netfilter)?.transaction(&begin, body, &end)
}

/// Carries out what `plan` makes of what is locked, or `removal` of the table where
/// it makes nothing of it; if others have changed anything meanwhile, it plans again.
pub(super) fn settle(
    removal: Message,
    plan: impl Fn() -> Result<Option<Vec<Message>>>,
) -> Result<()> {
    let removal = [removal];
    let mut socket = Socket::open(Protocol::Netfilter)?;
    for _ in 0..ATTEMPTS {
        let (begin, end) = nft::frame(Some(nft::generation(&mut socket)?))?;
        let planned = plan()?;
        let body = planned.as_deref().unwrap_or(&removal);
        if body.is_empty() {
            return Ok(());
        }
        match socket.transaction(&begin, body, &end) {
            Err(e) if e.errno() == Some(libc::ERESTART) => {}
            Err(e) if missing(&e) && planned.is_none() => return Ok(()),
            // The time of one of them was over just now.
            Err(e) if missing(&e) => {}
            other => return Ok(other?),
        }
    }
    Err(netlink::Error::Interrupted.into())
}

/// What the kernel says where there is no table or no such address.
pub(super) fn missing(e: &netlink::Error) -> bool {
    e.errno() == Some(libc::ENOENT)
}

/// Calls `make` for the addresses of each family present, a thousand at a time: these stay far below the limit of a nest.
fn by_family(
    addrs: &[IpAddr],
    mut make: impl FnMut(Family, &[IpAddr]) -> netlink::Result<()>,
) -> netlink::Result<()> {
    for family in Family::BOTH {
        let some = family.among(addrs);
        some.chunks(1000).try_for_each(|part| make(family, part))?;
    }
    Ok(())
}

/// Makes table, sets and rules, whether or not they are there, and carries out `more`.
fn establish(more: &[Message]) -> Result<()> {
    let body = |rules: Vec<Message>| {
        let mut body = vec![encode::new_table()?];
        body.extend(encode::new_sets()?);
        body.push(encode::new_chain()?);
        body.push(encode::flush_chain()?);
        body.extend(rules::everything()?);
        body.extend(rules);
        body.extend_from_slice(more);
        Ok::<_, netlink::Error>(body)
    };
    // What not every kernel has, and whether it is wanted.
    for (sockets, whole) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut all = rules::always()?;
        if sockets {
            all.extend(rules::without_socket()?);
        }
        if whole {
            all.extend(rules::whole_packets()?);
        }
        match transaction(&body(all)?) {
            Err(e) if missing(&e) && (sockets || whole) => continue,
            other => other?,
        }
        if !sockets {
            log::warn!("this kernel has no nft_socket: TCP connections and masqueraded subscribers are not locked");
        }
        if !whole {
            log::warn!(
                "this kernel has no nft_tproxy: fragments of dropped packets may spoil later ones"
            );
        }
        break;
    }
    Ok(())
}

/// Nothing that an earlier lock has left open stays so.
pub(super) fn lock(addrs: &[IpAddr], expiry: Duration) -> Result<()> {
    let mut body = encode::close()?;
    body.extend(add(addrs, expiry)?);
    establish(&body)
}

fn add(addrs: &[IpAddr], expiry: Duration) -> netlink::Result<Vec<Message>> {
    let mut body = Vec::new();
    by_family(addrs, |family, part| {
        body.extend(encode::add(family, part, expiry)?);
        Ok(())
    })?;
    Ok(body)
}

pub(super) fn renew(expiry: Duration) -> Result<()> {
    change(|now| {
        let addrs: Vec<IpAddr> = now.addresses.keys().copied().collect();
        let mut body = add(&addrs, expiry)?;
        if now.everything.is_some() {
            body.extend(encode::add_everything(expiry)?);
        }
        Ok(Some(body))
    })
}

pub(super) fn lock_everything(expiry: Duration) -> Result<()> {
    let mut body = encode::close()?;
    body.extend(encode::add_everything(expiry)?);
    establish(&body)
}

pub(super) fn open(places: &[Place]) -> Result<()> {
    change(|now| {
        Ok(Some(match now.addresses.is_empty() {
            true => Vec::new(),
            false => encode::add_open(places)?,
        }))
    })
}

pub(super) fn narrow(addrs: &[IpAddr], places: &[Place], expiry: Duration) -> Result<bool> {
    let narrowed = Cell::new(false);
    change(|now| {
        narrowed.set(now.everything.is_some());
        let mut body = Vec::new();
        if narrowed.get() {
            body.extend(add(addrs, expiry)?);
            body.push(encode::remove_everything()?);
        }
        if narrowed.get() || !now.addresses.is_empty() {
            body.extend(encode::add_open(places)?);
        }
        Ok(Some(body))
    })?;
    Ok(narrowed.get())
}

pub(super) fn unlock(addrs: &[IpAddr]) -> Result<()> {
    let unwanted: BTreeSet<IpAddr> = addrs.iter().map(IpAddr::to_canonical).collect();
    change(|now| {
        let (gone, left): (Vec<IpAddr>, Vec<IpAddr>) =
            now.addresses.keys().partition(|a| unwanted.contains(a));
        if left.is_empty() && now.everything.is_none() {
            return Ok(None);
        }
        let mut body = Vec::new();
        by_family(&gone, |family, part| {
            body.push(encode::remove(family, part)?);
            Ok(())
        })?;
        Ok(Some(body))
    })
}

pub(super) fn unlock_everything() -> Result<()> {
    change(|now| {
        if now.addresses.is_empty() {
            return Ok(None);
        }
        Ok(Some(match now.everything {
            Some(_) => vec![encode::remove_everything()?],
            None => Vec::new(),
        }))
    })
}

/// [`settle`]s on what `plan` makes of what is locked.
fn change(plan: impl Fn(&Status) -> netlink::Result<Option<Vec<Message>>>) -> Result<()> {
    settle(encode::delete_table()?, || Ok(plan(&status()?)?))
}

/// The table of addresses goes.
pub(super) fn unlock_all() -> Result<()> {
    match transaction(&[encode::delete_table()?]) {
        Err(e) if missing(&e) => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn status() -> Result<Status> {
    let mut found = Status::default();
    for family in Family::BOTH {
        for (key, left) in read(|| encode::list(family))? {
            if let Some(ip) = netlink::ip(&key) {
                found.addresses.insert(ip, left);
            }
        }
    }
    let everything = read(encode::list_everything)?;
    found.everything = everything.into_iter().map(|(_, left)| left).min();
    Ok(found)
}

/// What is in a set; nothing where there is none.
pub(super) fn read(
    list: impl Fn() -> netlink::Result<Message>,
) -> Result<Vec<(Vec<u8>, Duration)>> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut found = Vec::new();
        let done = socket.dump(list()?, |payload| {
            let some = encode::listed(payload)?;
            found.extend(some.into_iter().map(|(key, left)| (key.to_vec(), left)));
            Ok::<(), netlink::Error>(())
        });
        match done {
            Err(netlink::Error::Interrupted) if attempt < ATTEMPTS => {}
            Err(e) if missing(&e) => return Ok(Vec::new()),
            Err(e) => return Err(Error::from(e)),
            Ok(()) => return Ok(found),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
