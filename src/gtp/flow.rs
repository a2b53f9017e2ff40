// SPDX-License-Identifier: GPL-2.0-only
//! Connections of subscribers that the kernel tracks (`ctnetlink`). Without
//! them a masqueraded flow would come out of another port after the move, and
//! the host on the internet would take it for another one.

use std::collections::HashSet;
use std::net::IpAddr;

use super::nat::Subscribers;
use super::{Error, Result};
use crate::netlink::nft::header;
use crate::netlink::{self, Attrs, Message, Protocol, Socket, Writer};
use crate::proto::Flows;

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_NEW`, `_GET` and `_DELETE`.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = 1 << 8 | 1;
const CT_DELETE: u16 = 1 << 8 | 2;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const FAMILIES: [u8; 2] = [2, 10];

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const NAT_SRC: u16 = 6;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const NAT_DST: u16 = 13;
const ZONE: u16 = 18;
const LABELS: u16 = 22;

/// Bits of the status that may be set: SEEN_REPLY, ASSURED, CONFIRMED.
const SETTABLE: u32 = 2 | 4 | 8;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`: the windows are not known on the other host.
const LIBERAL: u8 = 8;
/// Seconds a flow has at least, once restored: its packets were refreshing it
/// on the other host after it was read, and some may have been lost since.
const LEAST_TIME: u32 = 60;
/// Flows sent at once: should all be refused, the answers fit the kernel's
/// default receive buffer.
const TOGETHER: usize = 128;
/// Bytes of flows in a record.
const FULL: usize = 256 * 1024;

/// Reads the flows of subscribers, some thousand at a time, and answers how
/// many there are. `outer` gets the addresses subscribers are translated to.
///
/// # Errors
/// Those of the netlink socket, or of `each`.
pub fn read(
    who: &Subscribers<'_>,
    outer: &mut HashSet<IpAddr>,
    mut each: impl FnMut(Flows) -> Result<()>,
) -> Result<u64> {
    let mut count = 0;
    for family in FAMILIES {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let mut found = Flows {
            family: family.into(),
            flows: Vec::new(),
        };
        let mut bytes = 0;
        let msg = Message::new(CT_GET, 0, &header(family, 0));
        let read = socket.dump(msg, |payload| {
            let attrs = Attrs::new(payload.get(4..).unwrap_or_default());
            if let Some(flow) = request(&attrs, who)? {
                count += 1;
                bytes += flow.len();
                remember(outer, &flow)?;
                found.flows.push(flow);
                if bytes > FULL {
                    bytes = 0;
                    let flows = std::mem::take(&mut found.flows);
                    each(Flows { flows, ..found })?;
                }
            }
            Ok::<(), Error>(())
        });
        match read {
            // No connection tracking here.
            Err(e) if e.errno() == Some(libc::EOPNOTSUPP) => {}
            other => other?,
        }
        if !found.flows.is_empty() {
            each(found)?;
        }
    }
    Ok(count)
}

/// An end of a flow: address, and port or what stands for it.
type End<'a> = (&'a [u8], Option<&'a [u8]>);

/// Source and destination in a tuple.
fn ends<'a>(tuple: &'a [u8]) -> netlink::Result<Option<(End<'a>, End<'a>)>> {
    let tuple = Attrs::new(tuple);
    let (Some(ip), Some(proto)) = (tuple.find(1)?, tuple.find(2)?) else {
        return Ok(None);
    };
    let (ip, proto) = (Attrs::new(ip), Attrs::new(proto));
    // CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST.
    let source = ip.find(1)?.or(ip.find(3)?);
    let dest = ip.find(2)?.or(ip.find(4)?);
    // CTA_PROTO_SRC_PORT and _DST_PORT; an ICMP id stands for both.
    let id = proto.find(4)?.or(proto.find(7)?);
    let (from, to) = (proto.find(2)?.or(id), proto.find(3)?.or(id));
    Ok(source.zip(dest).map(|(s, d)| ((s, from), (d, to))))
}

/// What makes the same flow on another host; `None` when it is no subscriber's.
fn request(attrs: &Attrs<'_>, who: &Subscribers<'_>) -> netlink::Result<Option<Vec<u8>>> {
    let (Some(orig), Some(reply), Some(timeout)) = (
        attrs.find(TUPLE_ORIG)?,
        attrs.find(TUPLE_REPLY)?,
        attrs.find(TIMEOUT)?,
    ) else {
        return Ok(None);
    };
    let (Some((source, dest)), Some((replier, answered))) = (ends(orig)?, ends(reply)?) else {
        return Ok(None);
    };
    if !who.contain(source.0) && !who.contain(dest.0) {
        return Ok(None);
    }
    let translated = answered != source || replier != dest;
    let mut w = Writer::new();
    w.put_nest_bytes(TUPLE_ORIG, orig)?;
    if translated {
        // The kernel translates only what is not translated yet.
        w.nest(TUPLE_REPLY, |w| inverse(w, orig))?;
    } else {
        w.put_nest_bytes(TUPLE_REPLY, reply)?;
    }
    let status = attrs.find(STATUS)?.and_then(|v| v.try_into().ok());
    let status = status.map_or(0, u32::from_be_bytes) & SETTABLE;
    w.put(STATUS, &status.to_be_bytes())?;
    let left = timeout.try_into().map_or(0, u32::from_be_bytes);
    w.put(TIMEOUT, &left.max(LEAST_TIME).to_be_bytes())?;
    if let Some(info) = attrs.find(PROTOINFO)? {
        w.nest(PROTOINFO, |w| protocol(w, info))?;
    }
    for kind in [MARK, ZONE, LABELS] {
        if let Some(value) = attrs.find(kind)? {
            w.put(kind, value)?;
        }
    }
    if answered != source {
        w.nest(NAT_SRC, |w| translation(w, answered))?;
    }
    if replier != dest {
        w.nest(NAT_DST, |w| translation(w, replier))?;
    }
    Ok(Some(w.bytes().to_vec()))
}

/// Remembers the address a flow's subscriber is translated to, if it is.
fn remember(outer: &mut HashSet<IpAddr>, request: &[u8]) -> netlink::Result<()> {
    if outer.len() >= MAX_OUTER {
        return Ok(());
    }
    if let Some(source) = Attrs::new(request).find(NAT_SRC)? {
        let source = Attrs::new(source);
        outer.extend(source.find(1)?.or(source.find(4)?).and_then(netlink::ip));
    }
    Ok(())
}

/// The tuple of untranslated answers to what has the tuple `orig`
/// (`nf_ct_invert_tuple()`).
fn inverse(w: &mut Writer, orig: &[u8]) -> netlink::Result<()> {
    for part in Attrs::new(orig) {
        let (kind, value) = part?;
        if !matches!(kind, 1 | 2) {
            w.put(kind, value)?; // the zone
            continue;
        }
        w.nest(kind, |w| {
            for attr in Attrs::new(value) {
                let (attr, value) = attr?;
                match (kind, attr, value) {
                    // CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST.
                    (1, 1 | 3, _) => w.put(attr + 1, value)?,
                    (1, 2 | 4, _) => w.put(attr - 1, value)?,
                    // CTA_PROTO_SRC_PORT and _DST_PORT.
                    (2, 2, _) => w.put(3, value)?,
                    (2, 3, _) => w.put(2, value)?,
                    // CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMPV6_TYPE.
                    (2, 5 | 8, [question]) => w.put(attr, &[answer(attr, *question)])?,
                    _ => w.put(attr, value)?,
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The type of ICMP messages that answer those of this type, and the reverse.
fn answer(attr: u16, question: u8) -> u8 {
    match (attr, question) {
        (5, 8) => 0,
        (5, 0) => 8,
        (5, 13 | 15 | 17) | (8, 128) => question + 1,
        (5, 14 | 16 | 18) | (8, 129) => question - 1,
        (8, 139) => 140,
        (8, 140) => 139,
        _ => question,
    }
}

/// `CTA_NAT_*`: exactly this address and port.
fn translation(w: &mut Writer, (ip, port): End<'_>) -> netlink::Result<()> {
    let (min, max) = if ip.len() == 4 { (1, 2) } else { (4, 5) };
    w.put(min, ip)?;
    w.put(max, ip)?;
    let Some(port) = port else { return Ok(()) };
    w.nest(3, |w| {
        w.put(1, port)?;
        w.put(2, port)
    })
}

/// The state of a connection-oriented protocol.
fn protocol(w: &mut Writer, info: &[u8]) -> netlink::Result<()> {
    const TCP: u16 = 1;
    const FLAGS: [u16; 2] = [4, 5];
    for attr in Attrs::new(info) {
        let (kind, value) = attr?;
        if kind != TCP {
            w.put_nest_bytes(kind, value)?;
            continue;
        }
        w.nest(TCP, |w| {
            for attr in Attrs::new(value) {
                let (kind, value) = attr?;
                match value {
                    // Flags and the mask of those to set.
                    [flags, _] if FLAGS.contains(&kind) => {
                        let flags = flags | LIBERAL;
                        w.put(kind, &[flags, flags])?;
                    }
                    _ => w.put(kind, value)?,
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Outer addresses that are remembered: more than a host has.
const MAX_OUTER: usize = 4096;

/// Adds flows; answers how many are tracked now. One that cannot be added is
/// no reason to lose all: its sender may come out of another port. `outer`
/// gets the addresses subscribers were translated to.
///
/// # Errors
/// Those of the netlink socket.
pub fn add(flows: &Flows, outer: &mut HashSet<IpAddr>) -> Result<u64> {
    let family = u8::try_from(flows.family)
        .ok()
        .filter(|f| FAMILIES.contains(f))
        .ok_or(Error::BadImage("flows are of an unknown family"))?;
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut tracked = 0;
    for some in flows.flows.chunks(TOGETHER) {
        for flow in some {
            remember(outer, flow)?;
        }
        let refused = send(&mut socket, CT_NEW, family, some)?;
        // What CRIU has restored of its own is tracked, but not translated.
        let known: Vec<&Vec<u8>> = refused
            .iter()
            .filter(|(_, e)| e.errno() == Some(libc::EEXIST))
            .filter_map(|(place, _)| some.get(*place))
            .collect();
        let mut lost: Vec<(usize, netlink::Error)> = refused
            .into_iter()
            .filter(|(_, e)| e.errno() != Some(libc::EEXIST))
            .collect();
        if !known.is_empty() {
            send(&mut socket, CT_DELETE, family, known.iter().copied())?;
            lost.extend(send(&mut socket, CT_NEW, family, known.iter().copied())?);
        }
        tracked += some.len().saturating_sub(lost.len());
        for (_, e) in lost {
            warn(&e);
        }
    }
    Ok(u64::try_from(tracked).unwrap_or_default())
}

fn warn(e: &netlink::Error) {
    const WHAT: &str = "a subscriber's connection is not tracked any more";
    match e.errno() {
        Some(libc::ENOMEM) => {
            log::warn!("{WHAT}, for the table is full; raise net.netfilter.nf_conntrack_max");
        }
        _ => log::warn!("{WHAT}: {e}"),
    }
}

/// Sends a request for each of some flows; answers the refusals.
fn send<'a>(
    socket: &mut Socket,
    kind: u16,
    family: u8,
    flows: impl IntoIterator<Item = &'a Vec<u8>>,
) -> Result<Vec<(usize, netlink::Error)>> {
    let mut batch = socket.batch();
    let flags = if kind == CT_NEW {
        libc::NLM_F_CREATE | libc::NLM_F_EXCL
    } else {
        0
    };
    for flow in flows {
        batch.push(kind, flags, &header(family, 0), |w| {
            w.append(flow);
            Ok(())
        })?;
    }
    let mut refused = Vec::new();
    socket.run_each(&mut batch, |place, e| refused.push((place, e)))?;
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let who = Subscribers { links: &[], prefixes: &[(vec![10, 60, 0, 0], 14)] };
            let _ = request(&Attrs::new(&bytes), &who);
        }
    }

    fn tuple(w: &mut Writer, kind: u16, from: ([u8; 4], u16), to: ([u8; 4], u16)) {
        w.nest(kind, |w| {
            w.nest(1, |w| {
                w.put(1, &from.0)?;
                w.put(2, &to.0)
            })?;
            w.nest(2, |w| {
                w.put(1, &[17])?;
                w.put(2, &from.1.to_be_bytes())?;
                w.put(3, &to.1.to_be_bytes())
            })
        })
        .unwrap();
    }

    #[test]
    fn a_masqueraded_flow_keeps_its_port() {
        let who = Subscribers {
            links: &[],
            prefixes: &[(vec![10, 60, 0, 0], 14)],
        };
        let (ue, host, spgw) = ([10, 60, 1, 2], [192, 0, 2, 1], [192, 0, 2, 9]);
        let mut w = Writer::new();
        tuple(&mut w, TUPLE_ORIG, (ue, 4000), (host, 53));
        tuple(&mut w, TUPLE_REPLY, (host, 53), (spgw, 61000));
        w.put(STATUS, &0x19au32.to_be_bytes()).unwrap();
        w.put(TIMEOUT, &30u32.to_be_bytes()).unwrap();
        let bytes = request(&Attrs::new(w.bytes()), &who).unwrap().unwrap();
        let made = Attrs::new(&bytes);
        assert_eq!(made.find(STATUS).unwrap(), Some(&[0, 0, 0, 10][..]));
        assert_eq!(made.find(TIMEOUT).unwrap(), Some(&[0, 0, 0, 60][..]));
        let nat = Attrs::new(made.find(NAT_SRC).unwrap().unwrap());
        assert_eq!(nat.find(1).unwrap(), Some(&spgw[..]));
        let port = Attrs::new(nat.find(3).unwrap().unwrap());
        assert_eq!(port.find(1).unwrap(), Some(&61000u16.to_be_bytes()[..]));
        assert_eq!(made.find(NAT_DST).unwrap(), None);
        let mut outer = HashSet::new();
        remember(&mut outer, &bytes).unwrap();
        assert_eq!(outer, HashSet::from([spgw.into()]));
        // Untranslated, or the kernel would find nothing to translate.
        let mut untranslated = Writer::new();
        tuple(&mut untranslated, TUPLE_REPLY, (host, 53), (ue, 4000));
        let wanted = Attrs::new(untranslated.bytes());
        let wanted = wanted
            .find(TUPLE_REPLY)
            .unwrap()
            .and_then(|t| ends(t).unwrap());
        let reply = made.find(TUPLE_REPLY).unwrap();
        assert_eq!(reply.and_then(|t| ends(t).unwrap()), wanted);

        let other = Subscribers {
            links: &[],
            prefixes: &[(vec![10, 99, 0, 0], 16)],
        };
        assert_eq!(request(&Attrs::new(w.bytes()), &other).unwrap(), None);
    }
}
