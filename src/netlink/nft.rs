// SPDX-License-Identifier: GPL-2.0-only
//! What all who speak to nfnetlink share (`linux/netfilter/nfnetlink.h`,
//! `nf_tables.h`).

use super::attr::array;
use super::{Attrs, Error, Message, Result, Socket, Writer};

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub(crate) const NEWTABLE: u16 = 0;
pub(crate) const DELTABLE: u16 = 2;
pub(crate) const NEWCHAIN: u16 = 3;
pub(crate) const GETCHAIN: u16 = 4;
pub(crate) const NEWRULE: u16 = 6;
pub(crate) const GETRULE: u16 = 7;
pub(crate) const DELRULE: u16 = 8;
pub(crate) const NEWSET: u16 = 9;
pub(crate) const NEWSETELEM: u16 = 12;
pub(crate) const GETSETELEM: u16 = 13;
pub(crate) const DELSETELEM: u16 = 14;
const GETGEN: u16 = 16;

/// `NFTA_LIST_ELEM`, also the only value in some nests.
pub(crate) const LIST_ELEM: u16 = 1;

/// `struct nfgenmsg`.
pub(crate) fn header(family: u8, resource: u16) -> [u8; 4] {
    let [hi, lo] = resource.to_be_bytes();
    [family, 0, hi, lo]
}

/// A message of nftables.
pub(crate) fn message(kind: u16, flags: i32, family: u8, attrs: &Writer) -> Message {
    Message::new(NFTABLES << 8 | kind, flags, &header(family, 0)).with(attrs)
}

/// Begin and end of a transaction. The kernel refuses one as a whole with
/// `ERESTART` if anything has changed in this network namespace since `seen`.
pub(crate) fn frame(seen: Option<Generation>) -> Result<(Message, Message)> {
    let bound = |kind| Message::new(kind, libc::NLM_F_REQUEST, &header(0, NFTABLES));
    let mut attrs = Writer::new();
    if let Some(Generation(id)) = seen {
        be32(&mut attrs, 1, id)?; // NFNL_BATCH_GENID
    }
    Ok((bound(BATCH_BEGIN).with(&attrs), bound(BATCH_END)))
}

/// What each change of the tables of a network namespace counts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u32);

/// The present one.
///
/// # Errors
/// Those of the netlink socket.
pub(crate) fn generation(socket: &mut Socket) -> Result<Generation> {
    let mut found = None;
    socket.request(message(GETGEN, 0, 0, &Writer::new()), |payload| {
        found = generation_in(payload)?;
        Ok(())
    })?;
    found.ok_or(Error::Malformed("no generation of the tables"))
}

fn generation_in(payload: &[u8]) -> Result<Option<Generation>> {
    let attrs = Attrs::new(payload.get(4..).unwrap_or_default());
    let id = attrs.find(1)?.and_then(|id| array(id, 0)); // NFTA_GEN_ID
    Ok(id.map(u32::from_be_bytes).map(Generation))
}

/// A number as nfnetlink wants it.
pub(crate) fn be32(w: &mut Writer, kind: u16, value: u32) -> Result<()> {
    w.put(kind, &value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_reply_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = generation_in(&bytes);
        }
    }

    #[test]
    fn a_generation_is_read() {
        let mut attrs = Writer::new();
        be32(&mut attrs, 1, 7).unwrap();
        let reply = message(0, 0, 0, &attrs);
        assert_eq!(generation_in(reply.payload()).unwrap(), Some(Generation(7)));
    }
}
