// SPDX-License-Identifier: GPL-2.0-only
//! The rules of the lock's chain.

use super::encode::{in_table, message, Family, CHAIN, EVERYTHING, OPEN};
use crate::netlink::nft::{be32, LIST_ELEM, NEWRULE};
use crate::netlink::{Message, Result, Writer};

const REGISTER: u32 = 1;
/// The second four bytes of it.
const SECOND_WORD: u32 = 9;
const VERDICT_REGISTER: u32 = 0;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
/// Keys of `meta`.
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;

/// GTPv1-U (3GPP TS 29.281, 4.4.2.1) and GTPv0 (GSM TS 09.60, 11.1.3).
const GTP_PORTS: [u16; 2] = [2152, 3386];

/// For a namespace that is locked as a whole: nothing but ICMPv6 gets through,
/// without which no neighbour finds the host.
pub(super) fn everything() -> Result<Vec<Message>> {
    let neighbours = append(|e| {
        protocol(e, libc::IPPROTO_ICMPV6)?;
        verdict(e, ACCEPT)
    })?;
    let drop = append(|e| {
        load_meta(e, NFPROTO)?;
        lookup(e, EVERYTHING)?;
        verdict(e, DROP)
    })?;
    Ok(vec![neighbours, drop])
}

/// The port on which this network namespace takes SCTP over UDP (RFC 6951), where it does.
fn sctp_udp_port() -> Option<u16> {
    // Of this thread's namespace. Without the sctp module there is no such file, and no such port.
    let text = std::fs::read_to_string("/proc/sys/net/sctp/udp_port").ok()?;
    text.trim().parse().ok().filter(|port| *port != 0)
}

/// What is dropped unless its port is open, in the order of the chain: SCTP, over
/// UDP too, and GTP, whose sockets may be here before their tunnels are.
pub(super) fn always() -> Result<Vec<Message>> {
    let mut rules = Vec::new();
    let encapsulated = sctp_udp_port();
    for family in Family::BOTH {
        rules.push(rule(family, |e| {
            load_meta(e, L4PROTO)?;
            open(e, DESTINATION)
        })?);
        rules.push(rule(family, |e| {
            protocol(e, libc::IPPROTO_SCTP)?;
            verdict(e, DROP)
        })?);
        if let Some(port) = encapsulated {
            rules.push(rule(family, |e| {
                udp_port(e, port)?;
                load_number(e, libc::IPPROTO_SCTP)?;
                open(e, UDP_HEADER + DESTINATION)
            })?);
        }
        for port in GTP_PORTS.into_iter().chain(encapsulated) {
            rules.push(rule(family, |e| {
                udp_port(e, port)?;
                verdict(e, DROP)
            })?);
        }
    }
    Ok(rules)
}

/// Lets through what goes to an open port of the protocol in the register.
fn open(out: &mut Writer, port_at: u32) -> Result<()> {
    load_payload_to(SECOND_WORD, out, TRANSPORT_HEADER, port_at, 2)?;
    lookup(out, OPEN)?;
    verdict(out, ACCEPT)
}

fn udp_port(out: &mut Writer, port: u16) -> Result<()> {
    protocol(out, libc::IPPROTO_UDP)?;
    load_payload(out, TRANSPORT_HEADER, DESTINATION, 2)?;
    compare(out, EQUAL, &port.to_be_bytes())
}

/// TCP and UDP packets that no socket of this host waits for: of connections
/// that are not here yet, or of subscribers behind the address. They would draw
/// a reset or an ICMP error. Needs the kernel's `nft_socket`.
pub(super) fn without_socket() -> Result<Vec<Message>> {
    const TRANSPARENT: u32 = 0;
    let mut rules = Vec::new();
    for family in Family::BOTH {
        rules.push(rule(family, |e| {
            expression(e, "socket", |e| {
                be32(e, 1, TRANSPARENT)?;
                be32(e, 2, REGISTER)
            })?;
            // Where there is no socket, the rule ends at the expression above;
            // where there is one, it says 0 or 1.
            compare(e, NOT_EQUAL, &[2])?;
            verdict(e, ACCEPT)
        })?);
        for number in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            rules.push(rule(family, |e| {
                protocol(e, number)?;
                verdict(e, DROP)
            })?);
        }
    }
    Ok(rules)
}

/// A base of `payload`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Where the destination port stands in the header of SCTP and UDP.
const DESTINATION: u32 = 2;
const UDP_HEADER: u32 = 8;

/// `ip daddr @SET`, and what `more` adds.
fn rule(family: Family, more: impl FnOnce(&mut Writer) -> Result<()>) -> Result<Message> {
    append(|e| {
        load_meta(e, NFPROTO)?;
        compare(e, EQUAL, &[family.nfproto()])?;
        load_payload(e, NETWORK_HEADER, family.offset(), family.len())?;
        lookup(e, family.set())?;
        more(e)
    })
}

/// A rule at the end of the chain.
fn append(fill: impl FnOnce(&mut Writer) -> Result<()>) -> Result<Message> {
    let mut w = in_table()?;
    w.put_str(2, CHAIN)?;
    w.nest(4, fill)?;
    let append = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    Ok(message(NEWRULE, append, &w))
}

fn lookup(out: &mut Writer, set: &str) -> Result<()> {
    expression(out, "lookup", |e| {
        e.put_str(1, set)?;
        be32(e, 2, REGISTER)
    })
}

fn expression(
    out: &mut Writer,
    name: &str,
    fill: impl FnOnce(&mut Writer) -> Result<()>,
) -> Result<()> {
    out.nest(LIST_ELEM, |e| {
        e.put_str(1, name)?;
        e.nest(2, fill)
    })
}

fn load_meta(out: &mut Writer, key: u32) -> Result<()> {
    expression(out, "meta", |e| {
        be32(e, 1, REGISTER)?;
        be32(e, 2, key)
    })
}

fn load_payload(out: &mut Writer, base: u32, offset: u32, len: u32) -> Result<()> {
    load_payload_to(REGISTER, out, base, offset, len)
}

fn load_payload_to(
    register: u32,
    out: &mut Writer,
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

/// `meta l4proto NUMBER`
fn protocol(out: &mut Writer, number: i32) -> Result<()> {
    load_meta(out, L4PROTO)?;
    compare(out, EQUAL, &[u8::try_from(number).unwrap_or_default()])
}

fn compare(out: &mut Writer, how: u32, value: &[u8]) -> Result<()> {
    expression(out, "cmp", |e| {
        be32(e, 1, REGISTER)?;
        be32(e, 2, how)?;
        e.nest(3, |data| data.put(1, value))
    })
}

/// A number of a protocol, as `meta l4proto` loads it.
fn load_number(out: &mut Writer, number: i32) -> Result<()> {
    expression(out, "immediate", |e| {
        be32(e, 1, REGISTER)?;
        let word = [u8::try_from(number).unwrap_or_default(), 0, 0, 0];
        e.nest(2, |data| data.put(1, &word))
    })
}

fn verdict(out: &mut Writer, code: u32) -> Result<()> {
    expression(out, "immediate", |e| {
        be32(e, 1, VERDICT_REGISTER)?;
        e.nest(2, |data| data.nest(2, |verdict| be32(verdict, 1, code)))
    })
}
