// SPDX-License-Identifier: GPL-2.0-only
//! Messages of nftables, as pure functions.

use std::net::IpAddr;

use crate::netlink::nft::{
    be32, DELRULE, DELSETELEM, DELTABLE, GETSETELEM, LIST_ELEM, NEWCHAIN, NEWSET, NEWSETELEM,
    NEWTABLE,
};
use crate::netlink::{nft, Attrs, Message, Result, Writer};

/// `NFPROTO_INET`: one table for both families.
const INET: u8 = 1;

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
    fn key_type(self) -> u32 {
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

pub(super) fn new_set(family: Family, id: u32) -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(2, family.set())?;
    be32(&mut w, 3, 0)?;
    be32(&mut w, 4, family.key_type())?;
    be32(&mut w, 5, family.len())?;
    be32(&mut w, 10, id)?;
    Ok(message(NEWSET, libc::NLM_F_CREATE, &w))
}

/// Empties the chain, so that setting it up again does not double the rules.
pub(super) fn flush_chain() -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(2, CHAIN)?;
    Ok(message(DELRULE, 0, &w))
}

/// Addresses in or out of the set of their family.
fn elements(kind: u16, flags: i32, family: Family, addrs: &[IpAddr]) -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(2, family.set())?;
    w.nest(3, |list| {
        for addr in addrs {
            list.nest(LIST_ELEM, |elem| {
                elem.nest(1, |key| match addr {
                    IpAddr::V4(a) => key.put(1, &a.octets()),
                    IpAddr::V6(a) => key.put(1, &a.octets()),
                })
            })?;
        }
        Ok(())
    })?;
    Ok(message(kind, flags, &w))
}

pub(super) fn add(family: Family, addrs: &[IpAddr]) -> Result<Message> {
    elements(NEWSETELEM, libc::NLM_F_CREATE, family, addrs)
}

pub(super) fn remove(family: Family, addrs: &[IpAddr]) -> Result<Message> {
    elements(DELSETELEM, 0, family, addrs)
}

pub(super) fn list(family: Family) -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(2, family.set())?;
    Ok(message(GETSETELEM, 0, &w))
}

/// The addresses in one reply to [`list`].
pub(super) fn addresses(payload: &[u8]) -> Result<Vec<IpAddr>> {
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
        found.extend(crate::netlink::ip(value));
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
            let _ = addresses(&bytes);
        }

        #[test]
        fn addresses_are_read_as_written(v4: [u8; 4], v6: [u8; 16]) {
            for addr in [IpAddr::from(v4), IpAddr::from(v6)] {
                let msg = add(Family::of(addr), &[addr]).unwrap();
                prop_assert_eq!(addresses(msg.payload()).unwrap(), vec![addr]);
            }
        }
    }

    #[test]
    fn a_set_knows_its_key() {
        let msg = new_set(Family::V6, 2).unwrap();
        let attrs = Attrs::new(&msg.payload()[4..]);
        assert_eq!(attrs.find(2).unwrap(), Some(&b"local6\0"[..]));
        assert_eq!(attrs.find(5).unwrap(), Some(&[0, 0, 0, 16][..]));
    }
}
