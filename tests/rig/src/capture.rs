// SPDX-License-Identifier: GPL-2.0-only
//! Reads a capture back and counts what an SCTP peer would notice.

pub mod answers;
pub mod wake;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::outcome::Outcome;

/// One direction of one association.
type Flow = (IpAddr, IpAddr, u16, u16);

/// What a capture shows of the SCTP traffic on one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// SCTP packets in the whole capture.
    pub packets: u64,
    /// SCTP packets in the window.
    pub in_window: u64,
    /// INIT, INIT ACK, COOKIE ECHO or COOKIE ACK in the window.
    pub init: u64,
    /// ABORT in the window.
    pub abort: u64,
    /// SHUTDOWN, SHUTDOWN ACK or SHUTDOWN COMPLETE in the window.
    pub shutdown: u64,
    /// Directions of associations in which more than one verification tag was used.
    pub changed_tags: u64,
    /// Longest silence from the service towards any peer in the window, in milliseconds.
    pub gap_ms: u64,
    /// Hosts (MAC addresses) that sent from the service's address in the window.
    pub senders: u64,
}

impl Wire {
    /// Notes the figures that must be zero when the peer noticed nothing.
    pub fn judge(&self, outcome: &mut Outcome) {
        outcome.figure("sctp_packets", self.in_window);
        outcome.zero("init_packets", self.init);
        outcome.zero("abort_packets", self.abort);
        outcome.zero("shutdown_packets", self.shutdown);
        outcome.zero("changed_tags", self.changed_tags);
        outcome.require(self.in_window > 100, || {
            "the capture is all but empty".into()
        });
    }
}

/// Looks at the packets of `port`; those between `from` and `to` are the window.
pub fn analyse(pcap: &[u8], port: u16, from: SystemTime, to: SystemTime) -> Wire {
    let mut wire = Wire::default();
    let mut tags: BTreeMap<Flow, BTreeSet<u32>> = BTreeMap::new();
    let mut senders = BTreeSet::new();
    let mut last: BTreeMap<Flow, SystemTime> = BTreeMap::new();
    for (when, frame) in records(pcap) {
        let Some(packet) = sctp(frame) else { continue };
        let (source_port, dest_port) = (packet.flow.2, packet.flow.3);
        if source_port != port && dest_port != port {
            continue;
        }
        wire.packets += 1;
        let kinds = chunks(packet.chunks);
        // An INIT carries tag 0, and an ABORT may refuse an association that never was; all else carries the tag agreed on.
        if packet.tag != 0 && !kinds.contains(&6) {
            tags.entry(packet.flow).or_default().insert(packet.tag);
        }
        let heard = last.insert(packet.flow, when);
        if when < from || when > to {
            continue;
        }
        if let Some(silence) = heard
            .filter(|_| source_port == port)
            .and_then(|h| when.duration_since(h).ok())
        {
            wire.gap_ms = wire
                .gap_ms
                .max(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX));
        }
        wire.in_window += 1;
        let any = |set: &[u8]| u64::from(kinds.iter().any(|k| set.contains(k)));
        wire.init += any(&[1, 2, 10, 11]);
        wire.abort += any(&[6]);
        wire.shutdown += any(&[7, 8, 14]);
        if source_port == port {
            senders.insert(frame.get(6..12).map(<[u8]>::to_vec));
        }
    }
    wire.changed_tags = tags.values().filter(|t| t.len() > 1).count() as u64;
    wire.senders = senders.len() as u64;
    wire
}

/// The records of a pcap file as our switch writes it, up to the first that is cut short.
fn records(pcap: &[u8]) -> impl Iterator<Item = (SystemTime, &[u8])> {
    let mut rest = pcap.get(24..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let word = |at: usize| {
            rest.get(at..at + 4)?
                .try_into()
                .ok()
                .map(u32::from_le_bytes)
        };
        let since = Duration::from_secs(word(0)?.into()) + Duration::from_micros(word(4)?.into());
        let len = word(8)? as usize;
        let frame = rest.get(16..16 + len)?;
        rest = rest.get(16 + len..)?;
        Some((UNIX_EPOCH + since, frame))
    })
}

struct Packet<'a> {
    flow: Flow,
    tag: u32,
    chunks: &'a [u8],
}

/// Finds the SCTP packet in an Ethernet frame (IPv4 or IPv6 without extension headers, not fragmented).
fn sctp(frame: &[u8]) -> Option<Packet<'_>> {
    let half = |b: &[u8], at: usize| b.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let ip = frame.get(14..)?;
    let (source, dest, body): (IpAddr, IpAddr, &[u8]) = match half(frame, 12)? {
        0x0800 => {
            let header = usize::from(ip.first()? & 15) * 4;
            let total = usize::from(half(ip, 2)?);
            (*ip.get(9)? == 132 && half(ip, 6)? & 0x1fff == 0).then_some(())?;
            let addr = |at: usize| {
                ip.get(at..at + 4)?
                    .try_into()
                    .ok()
                    .map(|b: [u8; 4]| Ipv4Addr::from(b))
            };
            (addr(12)?.into(), addr(16)?.into(), ip.get(header..total)?)
        }
        0x86dd => {
            (*ip.get(6)? == 132).then_some(())?;
            let addr = |at: usize| {
                ip.get(at..at + 16)?
                    .try_into()
                    .ok()
                    .map(|b: [u8; 16]| Ipv6Addr::from(b))
            };
            let len = usize::from(half(ip, 4)?);
            (addr(8)?.into(), addr(24)?.into(), ip.get(40..40 + len)?)
        }
        _ => return None,
    };
    let tag = body.get(4..8)?.try_into().ok().map(u32::from_be_bytes)?;
    Some(Packet {
        flow: (source, dest, half(body, 0)?, half(body, 2)?),
        tag,
        chunks: body.get(12..)?,
    })
}

fn chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [kind, _, high, low, ..] = bytes {
        kinds.push(*kind);
        let len = usize::from(u16::from_be_bytes([*high, *low]))
            .max(4)
            .next_multiple_of(4);
        bytes = bytes.get(len..).unwrap_or(&[]);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: u16, dest: u16, tag: u32, chunks: &[&[u8]]) -> Vec<u8> {
        let mut sctp = [source.to_be_bytes(), dest.to_be_bytes()].concat();
        sctp.extend_from_slice(&tag.to_be_bytes());
        sctp.extend_from_slice(&[0; 4]);
        sctp.extend(chunks.concat());
        let mut f = vec![0; 12];
        f.extend_from_slice(&[8, 0, 0x45, 0]);
        f.extend_from_slice(&u16::try_from(20 + sctp.len()).expect("short").to_be_bytes());
        f.extend_from_slice(&[0, 0, 0, 0, 64, 132, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend(sctp);
        f
    }

    fn pcap(frames: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let mut out = vec![0; 24];
        for (second, f) in frames {
            let len = u32::try_from(f.len()).expect("short").to_le_bytes();
            out.extend([second.to_le_bytes(), [0; 4], len, len].concat());
            out.extend(f);
        }
        out
    }

    #[test]
    fn counts_only_the_window_and_sees_a_changed_tag() {
        let (data, abort, init): (&[u8], &[u8], &[u8]) =
            (&[0, 3, 0, 5, 9, 0, 0, 0], &[6, 0, 0, 4], &[1, 0, 0, 4]);
        let file = pcap(&[
            (1, frame(5, 36412, 0, &[init])),
            (2, frame(5, 36412, 77, &[data])),
            (12, frame(5, 36412, 77, &[data, abort])),
            (13, frame(5, 36412, 78, &[data])),
            (14, frame(5, 99, 1, &[abort])),
            (30, frame(36412, 5, 9, &[abort])),
        ]);
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        let expect = Wire {
            packets: 5,
            in_window: 2,
            abort: 1,
            changed_tags: 1,
            ..Wire::default()
        };
        assert_eq!(analyse(&file, 36412, at(10), at(20)), expect);
        assert_eq!(
            analyse(&file[..file.len() - 3], 36412, at(0), at(5)).init,
            1
        );
    }
}
