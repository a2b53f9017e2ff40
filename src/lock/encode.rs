// SPDX-License-Identifier: GPL-2.0-only
//! Messages of nftables, as pure functions.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{Place, Port};
use crate::netlink::nft::{
    be32, DELRULE, DELSETELEM, DELTABLE, GETSETELEM, LIST_ELEM, NEWCHAIN, NEWSET, NEWSETELEM,
    NEWTABLE,
};
use crate::netlink::{self, nft, Attrs, Message, Result, Writer};

/// `NFPROTO_INET`: one table for both families.
const INET: u8 = 1;

/// `NFT_SET_TIMEOUT`: what is in the set goes by itself.
pub(super) const SET_TIMEOUT: u32 = 0x10;

/// `inet_proto . inet_service`, a protocol and a port of it: two types of six bits each.
const PORT_TYPE: u32 = 12 << 6 | 13;
/// Each part of a key of several has four bytes, or a multiple.
const PORT_LEN: u32 = 8;

/// The set that holds the families of which every packet is dropped.
pub(super) const EVERYTHING: &str = "everything";

pub(super) const CHAIN: &str = "prerouting";
/// Before connection tracking, so that nothing remembers a dropped packet.
const RAW_PRIORITY: i32 = -300;

/// One of the two families an address can be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub(super) fn set(self) -> &'static str {
        match self {
            Self::V4 => "local4",
            Self::V6 => "local6",
        }
    }

    /// The set of places that are open at locked addresses.
    pub(super) fn open(self) -> &'static str {
        match self {
            Self::V4 => "open4",
            Self::V6 => "open6",
        }
    }

    /// Type and length of the key of a set of places.
    pub(super) fn place(self) -> (u32, u32) {
        (self.key_type() << 12 | PORT_TYPE, self.len() + PORT_LEN)
    }

    /// Number of the data type, for `nft list` to print addresses.
    pub(super) fn key_type(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
        }
    }

    pub(super) fn len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Where the destination address stands in the IP header.
    pub(super) fn offset(self) -> u32 {
        match self {
            Self::V4 => 16,
            Self::V6 => 24,
        }
    }

    /// As a link names it.
    pub(super) fn ethertype(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }

    /// Those of these addresses that are of it, each once. An IPv4 address
    /// written as IPv6 arrives as IPv4.
    pub(super) fn among(self, addrs: &[IpAddr]) -> Vec<IpAddr> {
        let canonical: BTreeSet<IpAddr> = addrs.iter().map(IpAddr::to_canonical).collect();
        let ours = canonical.into_iter().filter(|a| Self::of(*a) == self);
        ours.collect()
    }

    pub(super) fn nfproto(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

pub(super) fn message(kind: u16, flags: i32, attrs: &Writer) -> Message {
    nft::message(kind, flags, INET, attrs)
}

pub(super) fn in_table() -> Result<Writer> {
    let mut w = Writer::new();
    w.put_str(1, super::TABLE)?;
    Ok(w)
}

pub(super) fn new_table() -> Result<Message> {
    Ok(message(NEWTABLE, libc::NLM_F_CREATE, &in_table()?))
}

pub(super) fn delete_table() -> Result<Message> {
    Ok(message(DELTABLE, 0, &in_table()?))
}

pub(super) fn new_chain() -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(3, CHAIN)?;
    w.nest(4, |hook| {
        be32(hook, 1, 0)?; // NF_INET_PRE_ROUTING
        hook.put(2, &RAW_PRIORITY.to_be_bytes())
    })?;
    be32(&mut w, 5, 1)?; // policy accept
    w.put_str(7, "filter")?;
    Ok(message(NEWCHAIN, libc::NLM_F_CREATE, &w))
}

/// The sets of addresses, families and places.
pub(super) fn new_sets() -> Result<Vec<Message>> {
    const NF_PROTO: u32 = 2;
    let of = |w| Ok(message(NEWSET, libc::NLM_F_CREATE, &w));
    let set = |name, kind, id| of(set(in_table()?, name, kind, SET_TIMEOUT, id)?);
    let family = |f: Family, id| set(f.set(), (f.key_type(), f.len()), id);
    Ok(vec![
        family(Family::V4, 1)?,
        family(Family::V6, 2)?,
        set(EVERYTHING, (NF_PROTO, 1), 3)?,
        set(Family::V4.open(), Family::V4.place(), 4)?,
        set(Family::V6.open(), Family::V6.place(), 5)?,
    ])
}

/// A set in the table named in `w`.
pub(super) fn set(
    mut w: Writer,
    name: &str,
    (key_type, len): (u32, u32),
    flags: u32,
    id: u32,
) -> Result<Writer> {
    w.put_str(2, name)?;
    be32(&mut w, 3, flags)?;
    be32(&mut w, 4, key_type)?;
    be32(&mut w, 5, len)?;
    be32(&mut w, 10, id)?;
    Ok(w)
}

/// Empties the chain, so that setting it up again does not double the rules.
pub(super) fn flush_chain() -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(2, CHAIN)?;
    Ok(message(DELRULE, 0, &w))
}

/// Keys in or out of a set, for a while.
fn elements(
    kind: u16,
    flags: i32,
    set: &str,
    keys: &[Vec<u8>],
    expiry: Option<Duration>,
) -> Result<Message> {
    Ok(message(
        kind,
        flags,
        &elements_of(in_table()?, set, keys, expiry)?,
    ))
}

/// Keys of a set in the table named in `w`.
pub(super) fn elements_of(
    mut w: Writer,
    set: &str,
    keys: &[Vec<u8>],
    expiry: Option<Duration>,
) -> Result<Writer> {
    w.put_str(2, set)?;
    w.nest(3, |list| {
        for key in keys {
            list.nest(LIST_ELEM, |elem| {
                elem.nest(1, |k| k.put(1, key))?;
                match expiry {
                    Some(after) => {
                        let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                        elem.put(4, &ms.to_be_bytes())
                    }
                    None => Ok(()),
                }
            })?;
        }
        Ok(())
    })?;
    Ok(w)
}

/// Keys into a set, to expire after this long from now whether or not they were in it: kernels before 6.12 do not change
/// the time of one that is there.
fn renew(set: &str, keys: &[Vec<u8>], after: Duration) -> Result<Vec<Message>> {
    let add = || elements(NEWSETELEM, libc::NLM_F_CREATE, set, keys, Some(after));
    let del = elements(DELSETELEM, 0, set, keys, None)?;
    Ok(vec![add()?, del, add()?])
}

fn keys(addrs: &[IpAddr]) -> Vec<Vec<u8>> {
    addrs.iter().copied().map(key).collect()
}

pub(super) fn key(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn families() -> Vec<Vec<u8>> {
    Family::BOTH.map(|f| vec![f.nfproto()]).to_vec()
}

pub(super) fn add(family: Family, addrs: &[IpAddr], after: Duration) -> Result<Vec<Message>> {
    renew(family.set(), &keys(addrs), after)
}

pub(super) fn remove(family: Family, addrs: &[IpAddr]) -> Result<Message> {
    elements(DELSETELEM, 0, family.set(), &keys(addrs), None)
}

pub(super) fn add_everything(after: Duration) -> Result<Vec<Message>> {
    renew(EVERYTHING, &families(), after)
}

pub(super) fn remove_everything() -> Result<Message> {
    elements(DELSETELEM, 0, EVERYTHING, &families(), None)
}

/// They stay open until [`close`].
pub(super) fn add_open(places: &[Place]) -> Result<Vec<Message>> {
    let flags = libc::NLM_F_CREATE;
    by_place(places, |family, keys| {
        elements(NEWSETELEM, flags, family.open(), keys, None)
    })
}

/// Closes all that [`add_open`] has opened.
pub(super) fn close() -> Result<Vec<Message>> {
    let emptied = Family::BOTH.map(|family| {
        let mut w = in_table()?;
        w.put_str(2, family.open())?;
        Ok(message(DELSETELEM, 0, &w))
    });
    emptied.into_iter().collect()
}

/// Calls `make` for the keys of the places of each family, a thousand at a time:
/// these stay far below the limit of a nest.
pub(super) fn by_place(
    places: &[Place],
    mut make: impl FnMut(Family, &[Vec<u8>]) -> Result<Message>,
) -> Result<Vec<Message>> {
    let canonical = places.iter().map(|(ip, port)| (ip.to_canonical(), *port));
    let places: BTreeSet<Place> = canonical.collect();
    let mut all = Vec::new();
    for family in Family::BOTH {
        let ours = places.iter().filter(|(ip, _)| Family::of(*ip) == family);
        let keys: Vec<Vec<u8>> = ours.map(place_key).collect();
        for some in keys.chunks(1000) {
            all.push(make(family, some)?);
        }
    }
    Ok(all)
}

pub(super) fn place_key((ip, port): &Place) -> Vec<u8> {
    let [high, low] = port.number.to_be_bytes();
    let mut key = key(*ip);
    key.extend([port.protocol, 0, 0, 0, high, low, 0, 0]);
    key
}

/// What [`place_key`] has made.
pub(super) fn place(key: &[u8]) -> Option<Place> {
    let (ip, port) = key.split_at_checked(key.len().checked_sub(8)?)?;
    let [protocol, _, _, _, high, low, _, _] = *<&[u8; 8]>::try_from(port).ok()?;
    let number = u16::from_be_bytes([high, low]);
    Some((netlink::ip(ip)?, Port { protocol, number }))
}

pub(super) fn list(family: Family) -> Result<Message> {
    list_set(family.set())
}

pub(super) fn list_everything() -> Result<Message> {
    list_set(EVERYTHING)
}

fn list_set(set: &str) -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(2, set)?;
    Ok(message(GETSETELEM, 0, &w))
}

/// The keys in one reply to a listing, and how long they have still.
pub(super) fn listed(payload: &[u8]) -> Result<Vec<(&[u8], Duration)>> {
    let mut found = Vec::new();
    let attrs = Attrs::new(payload.get(4..).unwrap_or_default());
    let Some(list) = attrs.find(3)? else {
        return Ok(found);
    };
    for elem in Attrs::new(list) {
        let (_, elem) = elem?;
        let Some(key) = Attrs::new(elem).find(1)? else {
            continue;
        };
        let Some(value) = Attrs::new(key).find(1)? else {
            continue;
        };
        let ms = Attrs::new(elem)
            .find(5)?
            .and_then(|b| <[u8; 8]>::try_from(b).ok())
            .map_or(0, u64::from_be_bytes);
        found.push((value, Duration::from_millis(ms)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_reply_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = listed(&bytes);
        }

        #[test]
        fn addresses_are_read_as_written(v4: [u8; 4], v6: [u8; 16]) {
            for addr in [IpAddr::from(v4), IpAddr::from(v6)] {
                let messages = add(Family::of(addr), &[addr], Duration::from_secs(1)).unwrap();
                let read = listed(messages[0].payload()).unwrap();
                prop_assert_eq!(crate::netlink::ip(read[0].0), Some(addr));
            }
        }
    }

    #[test]
    fn a_place_is_read_as_written() {
        for ip in ["192.0.2.1", "2001:db8::1"] {
            let there = (ip.parse().unwrap(), Port::sctp(0x1234));
            assert_eq!(place(&place_key(&there)), Some(there));
        }
        for len in 0..24 {
            let _ = place(&vec![0; len]);
        }
    }

    #[test]
    fn a_set_knows_its_key() {
        let sets = new_sets().unwrap();
        let attrs = Attrs::new(&sets[1].payload()[4..]);
        assert_eq!(attrs.find(2).unwrap(), Some(&b"local6\0"[..]));
        assert_eq!(attrs.find(5).unwrap(), Some(&[0, 0, 0, 16][..]));
    }
}
