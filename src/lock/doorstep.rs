// SPDX-License-Identifier: GPL-2.0-only
//! The lock at the doorstep: for what is not here yet, nor its network namespace.
//!
//! Where the runtime gives a container its addresses in the middle of a restore,
//! nobody can lock its namespace before. But all that comes to it from outside
//! passes a device of the host, before a bridge, a macvlan device or routing takes
//! it further: there, in the table `netdev telecr`, it is dropped. SCTP in UDP
//! (RFC 6951) is not looked into, and passes, as do IP fragments but for the
//! first: they have no port, and may be for somebody who is here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::encode::{self, Family};
use super::expr::{among_places, compare, load_meta, verdict, ACCEPT, DROP, EQUAL, PROTOCOL};
use super::ruleset::{missing, read, settle, transaction, ATTEMPTS};
use super::{Place, Result};
use crate::netlink::nft::{
    be32, DELSETELEM, DELTABLE, GETSETELEM, LIST_ELEM, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM,
    NEWTABLE,
};
use crate::netlink::{self, nft, Message, Writer};

/// `NFPROTO_NETDEV`
const NETDEV: u8 = 5;
/// Before all others.
const PRIORITY: i32 = -500;
/// Less than a chain can have (`NFT_NETDEVICE_MAX`).
const DEVICES: usize = 200;

/// Drops what comes from outside to these places for so long, over any device
/// there is now; what is locked already stays so. For a place that is locked the
/// time begins anew.
///
/// # Errors
/// No nftables for devices in this kernel, or no `CAP_NET_ADMIN`.
pub fn lock(places: &[Place], expiry: Duration) -> Result<()> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match transaction(&establish(places, expiry, &devices()?)?) {
            // A device has just gone.
            Err(e) if missing(&e) && attempt < ATTEMPTS => {}
            other => return Ok(other?),
        }
    }
}

/// Lets through again what goes to the places that `which` names; with the last
/// one the whole table goes.
///
/// # Errors
/// As [`lock`].
pub fn unlock(which: impl Fn(&Place) -> bool) -> Result<()> {
    settle(nft::message(DELTABLE, 0, NETDEV, &named()?), || {
        let now = status()?;
        let (gone, left): (Vec<Place>, Vec<Place>) = now.keys().partition(|place| which(place));
        Ok(match left.is_empty() {
            // Where the time of all was over, the chains are still there.
            true => None,
            false => Some(remove(&gone)?),
        })
    })
}

/// What is locked, and for how long still.
pub(super) fn status() -> Result<BTreeMap<Place, Duration>> {
    let mut found = BTreeMap::new();
    for family in Family::BOTH {
        let list = || -> netlink::Result<Message> {
            let mut w = named()?;
            w.put_str(2, set(family))?;
            Ok(nft::message(GETSETELEM, 0, NETDEV, &w))
        };
        let all = read(list)?;
        found.extend(
            all.iter()
                .filter_map(|(k, left)| Some((encode::place(k)?, *left))),
        );
    }
    Ok(found)
}

/// The devices of this network namespace, without loopback.
fn devices() -> netlink::Result<Vec<String>> {
    let all = nix::net::if_::if_nameindex().map_err(|e| netlink::Error::Io {
        what: "list of devices",
        source: e.into(),
    })?;
    let names = all.iter().filter_map(|d| d.name().to_str().ok());
    Ok(names
        .filter(|name| *name != "lo")
        .map(str::to_owned)
        .collect())
}

/// Makes table and sets, whether or not they are there, and chains for these
/// devices beside those of earlier locks.
fn establish(
    places: &[Place],
    expiry: Duration,
    devices: &[String],
) -> netlink::Result<Vec<Message>> {
    let mut all = vec![create(NEWTABLE, &named()?)];
    for (family, id) in Family::BOTH.into_iter().zip(1..) {
        let (name, kind) = (set(family), family.place());
        let set = encode::set(named()?, name, kind, encode::SET_TIMEOUT, id)?;
        all.push(create(NEWSET, &set));
    }
    let add = elements(NEWSETELEM, places, Some(expiry))?;
    // Kernels before 6.12 do not change the time of one that is there.
    all.extend(add.clone());
    all.extend(remove(places)?);
    all.extend(add);
    for (n, some) in devices.chunks(DEVICES).enumerate() {
        let name = format!("ingress-{}-{n}", std::process::id());
        all.push(chain(&name, some)?);
        for family in Family::BOTH {
            all.push(rule(&name, family)?);
        }
    }
    Ok(all)
}

fn named() -> netlink::Result<Writer> {
    let mut w = Writer::new();
    w.put_str(1, super::TABLE)?;
    Ok(w)
}

fn create(kind: u16, attrs: &Writer) -> Message {
    nft::message(kind, libc::NLM_F_CREATE, NETDEV, attrs)
}

fn remove(places: &[Place]) -> netlink::Result<Vec<Message>> {
    elements(DELSETELEM, places, None)
}

fn elements(
    kind: u16,
    places: &[Place],
    expiry: Option<Duration>,
) -> netlink::Result<Vec<Message>> {
    encode::by_place(places, |family, keys| {
        let w = encode::elements_of(named()?, set(family), keys, expiry)?;
        Ok(create(kind, &w))
    })
}

fn set(family: Family) -> &'static str {
    match family {
        Family::V4 => "places4",
        Family::V6 => "places6",
    }
}

fn chain(name: &str, devices: &[String]) -> netlink::Result<Message> {
    let mut w = named()?;
    w.put_str(3, name)?;
    w.nest(4, |hook| {
        be32(hook, 1, 0)?; // NF_NETDEV_INGRESS
        hook.put(2, &PRIORITY.to_be_bytes())?;
        hook.nest(4, |list| {
            devices.iter().try_for_each(|d| list.put_str(LIST_ELEM, d))
        })
    })?;
    be32(&mut w, 5, ACCEPT)?;
    w.put_str(7, "filter")?;
    Ok(create(NEWCHAIN, &w))
}

fn rule(chain: &str, family: Family) -> netlink::Result<Message> {
    let mut w = named()?;
    w.put_str(2, chain)?;
    w.nest(4, |e| {
        load_meta(e, PROTOCOL)?;
        compare(e, EQUAL, &family.ethertype().to_be_bytes())?;
        among_places(e, family, None, set(family))?;
        verdict(e, DROP)
    })?;
    let append = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    Ok(nft::message(NEWRULE, append, NETDEV, &w))
}

#[cfg(test)]
mod tests {
    use super::super::{in_namespace, Port};
    use super::*;

    const WHILE: Duration = Duration::from_secs(60);

    #[test]
    fn places_come_and_go() {
        in_namespace(|| {
            // A device for the chain. Without one there is no chain, and all the same no error.
            let tap = std::process::Command::new("ip")
                .args(["tuntap", "add", "tap0", "mode", "tap"])
                .status();
            println!("a device: {tap:?}");
            let at = |ip: &str, port| (ip.parse().unwrap(), port);
            let s1 = at("192.0.2.1", Port::sctp(36412));
            let s6a = at("2001:db8::1", Port::sctp(3868));
            let mapped = at("::ffff:192.0.2.1", Port::sctp(36412));
            unlock(|_| true).unwrap();
            lock(&[s1, mapped], WHILE / 2).unwrap();
            lock(&[s1, s6a, at("192.0.2.1", Port::udp(2152))], WHILE).unwrap();
            let now = status().unwrap();
            assert_eq!(now.len(), 3, "{now:?}");
            assert!(now[&s1] > WHILE / 2, "{now:?}");
            unlock(|place| *place == s1).unwrap();
            assert_eq!(status().unwrap().len(), 2);
            // All with the table of the other hook, where there is none.
            super::super::unlock_all().unwrap();
            assert_eq!(status().unwrap().len(), 0);
        });
    }

    #[test]
    fn nothing_stays_where_the_time_is_over() {
        in_namespace(|| {
            let place = ("192.0.2.1".parse().unwrap(), Port::sctp(36412));
            lock(&[place], Duration::from_millis(50)).unwrap();
            let begin = std::time::Instant::now();
            while !status().unwrap().is_empty() {
                assert!(begin.elapsed() < WHILE, "{:?}", status());
                std::thread::sleep(Duration::from_millis(10));
            }
            unlock(|_| false).unwrap();
            let table = nft::message(DELTABLE, 0, NETDEV, &named().unwrap());
            assert!(missing(&transaction(&[table]).unwrap_err()));
        });
    }
}
