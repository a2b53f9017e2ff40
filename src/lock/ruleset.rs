// SPDX-License-Identifier: GPL-2.0-only
//! Transactions on the table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::encode::{self, Family};
use super::{rules, Error, Result};
use crate::netlink::{self, nft, Message, Protocol, Socket};

/// Reads and changes meet those of others so often before giving up.
const ATTEMPTS: usize = 8;

fn transaction(body: &[Message]) -> netlink::Result<()> {
    let (begin, end) = nft::frame();
    Socket::open(Protocol::Netfilter)?.transaction(&begin, body, &end)
}

/// What the kernel says where there is no table or no such address.
fn missing(e: &netlink::Error) -> bool {
    e.errno() == Some(libc::ENOENT)
}

/// Adds, for each family present, the message `make` makes of its addresses.
fn by_family(
    body: &mut Vec<Message>,
    addrs: impl Iterator<Item = IpAddr> + Clone,
    make: fn(Family, &[IpAddr]) -> netlink::Result<Message>,
) -> netlink::Result<()> {
    for family in Family::BOTH {
        let some: Vec<IpAddr> = addrs.clone().filter(|a| Family::of(*a) == family).collect();
        // A thousand at a time stay far below the limit of a nest.
        for part in some.chunks(1000) {
            body.push(make(family, part)?);
        }
    }
    Ok(())
}

/// An IPv4 address written as IPv6 arrives as IPv4.
fn canonical(addrs: &[IpAddr]) -> BTreeSet<IpAddr> {
    addrs.iter().map(IpAddr::to_canonical).collect()
}

pub(super) fn lock(addrs: &[IpAddr]) -> Result<()> {
    let body = |rules: Vec<Message>| {
        let mut body = vec![
            encode::new_table()?,
            encode::new_set(Family::V4, 1)?,
            encode::new_set(Family::V6, 2)?,
            encode::new_chain()?,
            encode::flush_chain()?,
        ];
        body.extend(rules);
        by_family(&mut body, canonical(addrs).iter().copied(), encode::add)?;
        Ok::<_, netlink::Error>(body)
    };
    let all = [rules::always()?, rules::without_socket()?].concat();
    match transaction(&body(all)?) {
        Err(e) if missing(&e) => {
            log::warn!("this kernel has no nft_socket: TCP connections and masqueraded subscribers are not locked");
            Ok(transaction(&body(rules::always()?)?)?)
        }
        other => Ok(other?),
    }
}

pub(super) fn unlock(addrs: &[IpAddr]) -> Result<()> {
    let unwanted = canonical(addrs);
    for _ in 0..ATTEMPTS {
        let locked = status()?;
        if locked.is_subset(&unwanted) {
            return unlock_all();
        }
        let mut body = Vec::new();
        by_family(
            &mut body,
            locked.intersection(&unwanted).copied(),
            encode::remove,
        )?;
        match transaction(&body) {
            // Somebody else has unlocked one of them: look again.
            Err(e) if missing(&e) => {}
            other => return Ok(other?),
        }
    }
    Err(netlink::Error::Interrupted.into())
}

pub(super) fn unlock_all() -> Result<()> {
    match transaction(&[encode::delete_table()?]) {
        Err(e) if missing(&e) => Ok(()),
        other => Ok(other?),
    }
}

pub(super) fn status() -> Result<BTreeSet<IpAddr>> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut found = BTreeSet::new();
    for family in Family::BOTH {
        for attempt in 1.. {
            let read = socket.dump(encode::list(family)?, |payload| {
                found.extend(encode::addresses(payload)?);
                Ok::<(), netlink::Error>(())
            });
            match read {
                Err(netlink::Error::Interrupted) if attempt < ATTEMPTS => {}
                Err(e) if missing(&e) => break,
                Err(e) => return Err(Error::from(e)),
                Ok(()) => break,
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
