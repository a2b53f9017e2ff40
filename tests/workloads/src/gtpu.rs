// SPDX-License-Identifier: GPL-2.0-only
//! GTP-U packets with an IPv4 and UDP packet inside, built and taken apart in user space.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

/// UDP port of GTPv1-U (3GPP TS 29.281).
pub const PORT: u16 = 2152;
/// UDP port of GTPv0 (GSM TS 09.60).
pub const PORT_V0: u16 = 3386;
/// Message type G-PDU.
const G_PDU: u8 = 255;
/// Message type error indication.
pub const ERROR_INDICATION: u8 = 26;
/// Message type echo request.
pub const ECHO_REQUEST: u8 = 1;
/// Message type echo response.
pub const ECHO_RESPONSE: u8 = 2;

/// A G-PDU for `teid` with a UDP packet from a UE.
pub fn uplink(teid: u32, from: SocketAddrV4, to: SocketAddrV4, words: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64).udp(from.port(), to.port());
    let mut inner = Vec::with_capacity(builder.size(words.len()));
    // Writing to a Vec cannot fail, and the packet is short.
    let _ = builder.write(&mut inner, words);
    let length = u16::try_from(inner.len()).unwrap_or_default();
    let mut packet = vec![0x30, G_PDU];
    packet.extend(length.to_be_bytes());
    packet.extend(teid.to_be_bytes());
    packet.extend(inner);
    packet
}

/// What came through a tunnel.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A UDP packet for a UE.
    Packet {
        /// The tunnel it came through.
        teid: u32,
        /// The UE's address and port.
        to: SocketAddrV4,
        /// What it says.
        words: &'a [u8],
    },
    /// A message of GTP itself.
    Signal(u8),
    /// None of these.
    Other,
}

/// Takes a GTP-U packet apart.
pub fn take(packet: &[u8]) -> Seen<'_> {
    let (Some(kind), Some(teid)) = (packet.get(1), packet.get(4..8)) else {
        return Seen::Other;
    };
    if *kind != G_PDU {
        return Seen::Signal(*kind);
    }
    let teid = teid.try_into().map_or(0, u32::from_be_bytes);
    let inner = packet.get(8..).unwrap_or_default();
    let Ok(sliced) = SlicedPacket::from_ip(inner) else {
        return Seen::Other;
    };
    match (sliced.net, sliced.transport) {
        (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => Seen::Packet {
            teid,
            to: SocketAddrV4::new(
                Ipv4Addr::from(ip.header().destination()),
                udp.destination_port(),
            ),
            words: udp.payload(),
        },
        _ => Seen::Other,
    }
}

/// An echo response to an echo request with this header, or none.
pub fn echo_response(request: &[u8]) -> Option<Vec<u8>> {
    let sequence = request.get(8..10)?;
    let mut answer = vec![0x32, ECHO_RESPONSE, 0, 6, 0, 0, 0, 0];
    answer.extend(sequence);
    // No N-PDU number, no extension header; then the recovery element.
    answer.extend([0, 0, 14, 0]);
    Some(answer)
}

/// The tunnels of the rig: the one of UE `n` is known to both ends without a word.
#[derive(Clone, Copy, Debug)]
pub struct Ue(pub u32);

impl Ue {
    /// TEID of its packets to the network.
    pub fn uplink_teid(self) -> u32 {
        0x1000_0000 + self.0
    }

    /// TEID of the packets it gets.
    pub fn downlink_teid(self) -> u32 {
        0x2000_0000 + self.0
    }

    /// Its address, in 10.60.0.0/14. The lower half of the pool is masqueraded, the upper half is routed, in turns.
    pub fn address(self) -> Ipv4Addr {
        let half = (self.0 % 2) << 17;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 60, 0, 0)) + half + 256 + self.0 / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_up_can_be_taken_apart() {
        let from = SocketAddrV4::new(Ue(7).address(), 4000);
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 45, 0, 4), 7000);
        let packet = uplink(0x1234, from, to, b"words");
        let words = &b"words"[..];
        assert_eq!(
            take(&packet),
            Seen::Packet {
                teid: 0x1234,
                to,
                words
            }
        );
        assert_eq!(
            take(&[0x32, 1, 0, 4, 0, 0, 0, 0]),
            Seen::Signal(ECHO_REQUEST)
        );
        assert_eq!(take(&[]), Seen::Other);
    }

    #[test]
    fn ues_differ() {
        let all: std::collections::HashSet<Ipv4Addr> =
            (0..100_000).map(|n| Ue(n).address()).collect();
        assert_eq!(all.len(), 100_000);
    }
}
