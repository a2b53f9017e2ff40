// SPDX-License-Identifier: GPL-2.0-only
//! The expressions rules are made of (`linux/netfilter/nf_tables.h`).

use super::encode::Family;
use crate::netlink::nft::{be32, LIST_ELEM};
use crate::netlink::{Result, Writer};

/// The register of all that one will do for.
pub(super) const REGISTER: u32 = 1;
/// Its first four bytes; the next ones follow.
const FIRST_WORD: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;
pub(super) const EQUAL: u32 = 0;
pub(super) const AT_MOST: u32 = 3;
/// Keys of `meta`.
pub(super) const PROTOCOL: u32 = 1;
pub(super) const NFPROTO: u32 = 15;
pub(super) const L4PROTO: u32 = 16;

/// A base of `payload`.
pub(super) const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Where the destination port stands in the header of SCTP and UDP.
const DESTINATION: u32 = 2;
const UDP_HEADER: u32 = 8;

/// GTPv1-U (3GPP TS 29.281, 4.4.2.1) and GTPv0 (GSM TS 09.60, 11.1.3).
pub(crate) const GTP_PORTS: [u16; 2] = [2152, 3386];

pub(super) fn udp_port(out: &mut Writer, port: u16) -> Result<()> {
    protocol(out, libc::IPPROTO_UDP)?;
    first_fragment(out)?;
    load_payload(out, TRANSPORT_HEADER, DESTINATION, 2)?;
    compare(out, EQUAL, &port.to_be_bytes())
}

/// Has the rule end unless a set has the place this packet is for. `inside` is the
/// protocol that it carries in UDP.
pub(super) fn among_places(
    out: &mut Writer,
    family: Family,
    inside: Option<i32>,
    set: &str,
) -> Result<()> {
    let next = FIRST_WORD + family.len() / 4;
    first_fragment(out)?;
    load_payload(out, NETWORK_HEADER, family.offset(), family.len())?;
    let header = match inside {
        Some(inside) => {
            let number = u8::try_from(inside).unwrap_or_default();
            value(out, next, &[number, 0, 0, 0])?;
            UDP_HEADER
        }
        None => {
            load_meta_to(out, next, L4PROTO)?;
            0
        }
    };
    load_payload_to(out, next + 1, TRANSPORT_HEADER, header + DESTINATION, 2)?;
    lookup(out, set)
}

pub(super) fn lookup(out: &mut Writer, set: &str) -> Result<()> {
    expression(out, "lookup", |e| {
        e.put_str(1, set)?;
        be32(e, 2, REGISTER)
    })
}

pub(super) fn expression(
    out: &mut Writer,
    name: &str,
    fill: impl FnOnce(&mut Writer) -> Result<()>,
) -> Result<()> {
    out.nest(LIST_ELEM, |e| {
        e.put_str(1, name)?;
        e.nest(2, fill)
    })
}

pub(super) fn load_meta(out: &mut Writer, key: u32) -> Result<()> {
    load_meta_to(out, REGISTER, key)
}

fn load_meta_to(out: &mut Writer, register: u32, key: u32) -> Result<()> {
    expression(out, "meta", |e| {
        be32(e, 1, register)?;
        be32(e, 2, key)
    })
}

pub(super) fn load_payload(out: &mut Writer, base: u32, offset: u32, len: u32) -> Result<()> {
    load_payload_to(out, REGISTER, base, offset, len)
}

fn load_payload_to(
    out: &mut Writer,
    register: u32,
    base: u32,
    offset: u32,
    len: u32,
) -> Result<()> {
    expression(out, "payload", |e| {
        be32(e, 1, register)?;
        be32(e, 2, base)?;
        be32(e, 3, offset)?;
        be32(e, 4, len)
    })
}

/// Has the rule end at an IP fragment that is not the first, which has no ports. Three bytes, because the kernel's short
/// cut for two or four takes whatever stands there (`nft_payload_fast_eval()`).
pub(super) fn first_fragment(out: &mut Writer) -> Result<()> {
    load_payload(out, TRANSPORT_HEADER, 0, 3)
}

/// `meta l4proto NUMBER`
pub(super) fn protocol(out: &mut Writer, number: i32) -> Result<()> {
    load_meta(out, L4PROTO)?;
    compare(out, EQUAL, &[u8::try_from(number).unwrap_or_default()])
}

pub(super) fn compare(out: &mut Writer, how: u32, value: &[u8]) -> Result<()> {
    expression(out, "cmp", |e| {
        be32(e, 1, REGISTER)?;
        be32(e, 2, how)?;
        e.nest(3, |data| data.put(1, value))
    })
}

/// A value of at most four bytes.
pub(super) fn value(out: &mut Writer, register: u32, bytes: &[u8]) -> Result<()> {
    expression(out, "immediate", |e| {
        be32(e, 1, register)?;
        e.nest(2, |data| data.put(1, bytes))
    })
}

pub(super) fn verdict(out: &mut Writer, code: u32) -> Result<()> {
    expression(out, "immediate", |e| {
        be32(e, 1, VERDICT_REGISTER)?;
        e.nest(2, |data| data.nest(2, |verdict| be32(verdict, 1, code)))
    })
}
