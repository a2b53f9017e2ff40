// SPDX-License-Identifier: GPL-2.0-only
//! The rules of the lock's chain.

use super::encode::{in_table, message, Family, CHAIN, EVERYTHING};
use super::expr::{
    among_places, compare, expression, first_fragment, load_meta, load_payload, lookup, protocol,
    udp_port, value, verdict, ACCEPT, AT_MOST, DROP, EQUAL, GTP_PORTS, NETWORK_HEADER, NFPROTO,
    REGISTER,
};
use crate::netlink::nft::{be32, NEWRULE};
use crate::netlink::{Message, Result, Writer};

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
        rules.push(rule(family, |e| to_open(e, family, None))?);
        rules.push(rule(family, |e| {
            protocol(e, libc::IPPROTO_SCTP)?;
            first_fragment(e)?;
            verdict(e, DROP)
        })?);
        if let Some(port) = encapsulated {
            rules.push(rule(family, |e| {
                udp_port(e, port)?;
                to_open(e, family, Some(libc::IPPROTO_SCTP))
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

/// Lets through what goes to an open place.
fn to_open(out: &mut Writer, family: Family, inside: Option<i32>) -> Result<()> {
    among_places(out, family, inside, family.open())?;
    verdict(out, ACCEPT)
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
            compare(e, AT_MOST, &[1])?;
            verdict(e, ACCEPT)
        })?);
        for number in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            rules.push(rule(family, |e| {
                protocol(e, number)?;
                first_fragment(e)?;
                verdict(e, DROP)
            })?);
        }
    }
    Ok(rules)
}

/// Has the kernel put IP fragments together ahead of this chain, all of this network
/// namespace, as it does where a rule has a `tproxy`; this one never comes to it. Else
/// only the first one would be dropped, which has the port, and the others wait half a
/// minute for one with their number. Linux counts the packets of each connected SCTP
/// socket on its own, of many from 0, so one of another association soon has it, and
/// what is made of both is lost. Needs the kernel's `nft_tproxy`.
pub(super) fn whole_packets() -> Result<Vec<Message>> {
    const NO_FAMILY: u8 = 0;
    let rule = append(|e| {
        load_meta(e, NFPROTO)?;
        compare(e, EQUAL, &[NO_FAMILY])?;
        // nft would not read back a `tproxy` of no protocol.
        protocol(e, libc::IPPROTO_UDP)?;
        value(e, REGISTER, &GTP_PORTS[0].to_be_bytes())?;
        expression(e, "tproxy", |e| {
            be32(e, 1, NO_FAMILY.into())?; // any
            be32(e, 3, REGISTER)
        })
    })?;
    Ok(vec![rule])
}

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
