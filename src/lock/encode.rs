// SPDX-License-Identifier: GPL-2.0-only
//! Messages of nftables, as pure functions.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Port;
use crate::netlink::nft::{
    be32, DELRULE, DELSETELEM, DELTABLE, GETSETELEM, LIST_ELEM, NEWCHAIN, NEWSET, NEWSETELEM,
    NEWTABLE,
};
use crate::netlink::{nft, Attrs, Message, Result, Writer};

/// `NFPROTO_INET`: one table for both families.
const INET: u8 = 1;

/// `NFT_SET_TIMEOUT`: what is in the set goes by itself.
pub(super) const SET_TIMEOUT: u32 = 0x10;

/// `inet_proto . inet_service`, a protocol and a port of it: two types of six bits each.
pub(super) const PORT_TYPE: u32 = 12 << 6 | 13;
/// Each part of a key of several has four bytes, or a multiple.
pub(super) const PORT_LEN: u32 = 8;

/// The set that holds the families of which every packet is dropped.
pub(super) const EVERYTHING: &str = "everything";

/// The set of ports that are open at a locked address.
pub(super) const OPEN: &str = "open";

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

/// The sets of addresses, and those of families and ports.
pub(super) fn new_sets() -> Result<Vec<Message>> {
    const NF_PROTO: u32 = 2;
    let of = |w| Ok(message(NEWSET, libc::NLM_F_CREATE, &w));
    let set = |name, kind, id| of(set(in_table()?, name, kind, SET_TIMEOUT, id)?);
    let family = |f: Family, id| set(f.set(), (f.key_type(), f.len()), id);
    Ok(vec![
        family(Family::V4, 1)?,
        family(Family::V6, 2)?,
        set(EVERYTHING, (NF_PROTO, 1), 3)?,
        set(OPEN, (PORT_TYPE, PORT_LEN), 4)?,
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
pub(super) fn add_open(ports: &[Port]) -> Result<Message> {
    let keys: Vec<Vec<u8>> = ports.iter().map(port_key).collect();
    elements(NEWSETELEM, libc::NLM_F_CREATE, OPEN, &keys, None)
}

pub(super) fn port_key(port: &Port) -> Vec<u8> {
    let [high, low] = port.number.to_be_bytes();
    vec![port.protocol, 0, 0, 0, high, low, 0, 0]
}

/// What [`port_key`] has made.
pub(super) fn port(key: &[u8]) -> Option<Port> {
    let [protocol, _, _, _, high, low, _, _] = *<&[u8; 8]>::try_from(key).ok()?;
    let number = u16::from_be_bytes([high, low]);
    Some(Port { protocol, number })
}

/// Closes all that [`add_open`] has opened.
pub(super) fn close() -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(2, OPEN)?;
    Ok(message(DELSETELEM, 0, &w))
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
    fn a_set_knows_its_key() {
        let sets = new_sets().unwrap();
        let attrs = Attrs::new(&sets[1].payload()[4..]);
        assert_eq!(attrs.find(2).unwrap(), Some(&b"local6\0"[..]));
        assert_eq!(attrs.find(5).unwrap(), Some(&[0, 0, 0, 16][..]));
    }
}
