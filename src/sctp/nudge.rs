// SPDX-License-Identifier: GPL-2.0-only
//! Has a peer send again at once what it waits to send again.
//!
//! While an association was frozen the T3-rtx timer of its peer has doubled with
//! each try, up to a minute (RFC 9260, 6.3.3 E2 and 7.3). Nothing that SCTP itself
//! could say makes a sender retransmit before that timer fires: a SACK of nothing
//! new does not, nor a HEARTBEAT. What does is an ICMP "Fragmentation Needed" or
//! "Packet Too Big" of less than the path MTU in use: all that is outstanding goes
//! again in the new size (RFC 9260, 7.2.4; `sctp_icmp_frag_needed()` in Linux), and
//! the congestion window is left alone. So one is sent that asks for four bytes
//! less. The peer forgets it after a while, ten minutes in Linux
//! (`net.ipv4.route.mtu_expires`), and until then only a still smaller one is news
//! to it. So this host gets the same message about its own packets: it remembers the
//! size as long as the peer, the next dump finds it as the path MTU, and the next
//! host asks for four bytes less again; as does this host itself, where something else
//! has come to it since with the same peer. A peer whose network drops ICMP waits for
//! its timer.
//!
//! The size must be news to the association. Linux remembers it for the whole path, and
//! an association that sends anything meanwhile, a SACK of what it hears, has learnt it
//! when its own message comes, and does not send again. So of several associations of a
//! path all but the first are sent theirs right before they wake. Linux sends nothing
//! again either where it finds the peer's socket in use by its program at that very
//! moment (`sctp_icmp_frag_needed()`). Peers from which no data comes, or not all, are
//! therefore asked a second time after a restore by CRIU ([`Reminder`]), again for four
//! bytes less.

mod reminder;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use etherparse::{icmpv4, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type};
use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use nix::sys::socket::{
    sendto, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
    SockaddrIn6,
};

use super::list::diag;
use super::{addr, route, Result};
use crate::proto::Association;
pub use reminder::Reminder;

/// Bytes of the path MTU given up; SCTP packets are a multiple of it.
const LESS: u32 = 4;
/// IPv6 knows no smaller link (RFC 8200, 5), IPv4 none that telecr would ask for.
const LEAST: u32 = 1280;

/// What one ICMP message is about: packets of an association from a peer to one of
/// the addresses it knows this host by; or the other way round, in a mirror, a message
/// from this host to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nudge {
    /// The address and port of who is told, the peer.
    peer: SocketAddr,
    /// Where its packets go, this host.
    local: SocketAddr,
    /// The verification tag of these packets.
    tag: u32,
    /// IP packet size to ask for, in bytes.
    mtu: u32,
    mirror: bool,
    /// The tag of this host's by which the association is known here.
    here: u32,
    /// The DATA chunks it had received by then.
    heard: u64,
}

/// The messages that wake one association's peer, and those by which this host
/// remembers them; none while there is no association yet, and none over UDP
/// (RFC 6951), whose datagrams are of no interest to the SCTP of the peer.
#[must_use]
pub fn nudges(asoc: &Association) -> Vec<Nudge> {
    let (Some(tag), None | Some(0)) = (asoc.my_vtag, asoc.encap_port) else {
        return Vec::new();
    };
    let mut found: Vec<Nudge> = Vec::new();
    let heard = asoc.stats.as_ref().map_or(0, |s| {
        let counts = [s.outofseqtsns, s.idupchunks, s.iuodchunks, s.iodchunks];
        let counts = counts.into_iter().flatten();
        counts.fold(0, u64::wrapping_add)
    });
    let port = |p: Option<u32>| p.and_then(|p| u16::try_from(p).ok()).unwrap_or_default();
    let (here, there) = (port(asoc.local_port), port(asoc.peer_port));
    for local in asoc.local_addrs.iter().filter_map(|a| addr::parse(a)) {
        let local = plain(local, here);
        // Any one of the peer's addresses of this family will do: its packets to
        // `local` are found by the destination and the ports.
        let path = asoc.paths.iter().find_map(|p| {
            let peer = plain(p.addr.as_deref().and_then(addr::parse)?, there);
            let mtu = p.pathmtu?.checked_sub(LESS).filter(|m| *m >= LEAST)?;
            (peer.is_ipv4() == local.is_ipv4()).then_some((peer, mtu))
        });
        if let Some((peer, mtu)) = path {
            found.push(Nudge {
                peer,
                local,
                tag,
                mtu,
                mirror: false,
                here: tag,
                heard,
            });
            found.extend(asoc.peer_vtag.map(|their_tag| Nudge {
                peer: local,
                local: peer,
                tag: their_tag,
                mtu,
                mirror: true,
                here: tag,
                heard,
            }));
        }
    }
    found
}

/// An IPv4-mapped address is IPv4 on the wire.
fn plain(a: SocketAddr, port: u16) -> SocketAddr {
    match (a.ip().to_canonical(), a) {
        (IpAddr::V6(ip), SocketAddr::V6(a)) => SocketAddrV6::new(ip, port, 0, a.scope_id()).into(),
        (ip, _) => SocketAddr::new(ip, port),
    }
}

/// Sends nudges, and knows the paths of those it has sent.
#[derive(Debug, Default)]
pub struct Nudger {
    /// What is asked for at most, in bytes, by both ends of a path.
    sizes: HashMap<[IpAddr; 2], u32>,
    /// What was sent, and may have to be once more.
    sent: Vec<Nudge>,
    sockets: Sockets,
}

/// Raw sockets, each from its first message on.
#[derive(Debug, Default)]
struct Sockets {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Nudger {
    /// Sends them from the current network namespace, which is always the same. Call it
    /// when nothing drops the packets of the associations any more, in the order of
    /// [`wake::each`](super::wake::each).
    ///
    /// # Errors
    /// No raw socket (CAP_NET_RAW), or the first message that could not be sent; the
    /// others have been tried.
    pub fn send(&mut self, nudges: &[Nudge]) -> io::Result<()> {
        let fitted: Vec<Nudge> = nudges.iter().filter_map(|n| self.fitted(n)).collect();
        self.sent.extend_from_slice(&fitted);
        self.sockets.send_all(&fitted)
    }

    /// Whom it may have to ask once more: all it has nudged since it was asked last.
    ///
    /// # Errors
    /// No `sock_diag` socket.
    pub fn reminder(&mut self) -> Result<Option<Reminder>> {
        let sent = std::mem::take(&mut self.sent);
        let sockets = std::mem::take(&mut self.sockets);
        if sent.is_empty() {
            return Ok(None);
        }
        let diag = diag::open()?;
        Ok(Some(Reminder::new(sent, sockets, diag)))
    }

    /// Has anybody been nudged on this path?
    pub(super) fn knows(&self, nudge: &Nudge) -> bool {
        self.sizes.contains_key(&nudge.ends())
    }

    /// A path that others have made smaller already is asked for less than that: the peer may know it, too. Not for less
    /// than any link has.
    fn fitted(&mut self, nudge: &Nudge) -> Option<Nudge> {
        let fresh = || {
            route::mtu(nudge.local.ip(), nudge.peer).map_or(u32::MAX, |m| m.saturating_sub(LESS))
        };
        let most = *self.sizes.entry(nudge.ends()).or_insert_with(fresh);
        nudge.of(nudge.mtu.min(most))
    }
}

impl Sockets {
    /// The first failure, after all have been tried.
    fn send_all(&mut self, nudges: &[Nudge]) -> io::Result<()> {
        let mut result = Ok(());
        for nudge in nudges {
            result = result.and(self.send(nudge)?);
        }
        result
    }

    /// What the kernel says of this one, unless none can be sent at all.
    fn send(&mut self, nudge: &Nudge) -> io::Result<io::Result<()>> {
        let open =
            |family, protocol| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
        let bytes = nudge.message();
        let sent = match nudge.peer {
            SocketAddr::V4(peer) => {
                let fd = match self.v4.take() {
                    Some(fd) => fd,
                    None => open(AddressFamily::Inet, SockProtocol::Icmp)?,
                };
                let to = SockaddrIn::from(SocketAddrV4::new(*peer.ip(), 0));
                let sent = sendto(fd.as_raw_fd(), &bytes, &to, MsgFlags::MSG_DONTWAIT);
                self.v4 = Some(fd);
                sent
            }
            SocketAddr::V6(peer) => {
                let fd = match self.v6.take() {
                    Some(fd) => fd,
                    None => open(AddressFamily::Inet6, SockProtocol::IcmpV6)?,
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(*peer.ip(), 0, 0, peer.scope_id()));
                let sent = sendto(fd.as_raw_fd(), &bytes, &to, MsgFlags::MSG_DONTWAIT);
                self.v6 = Some(fd);
                sent
            }
        };
        Ok(sent.map(drop).map_err(io::Error::from))
    }
}

impl Nudge {
    /// Not for the peer, but what this host remembers the size by.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        self.mirror
    }

    /// Both ends of the path, the same in either direction.
    pub(super) fn ends(&self) -> [IpAddr; 2] {
        let mut ends = [self.peer.ip(), self.local.ip()];
        ends.sort_unstable();
        ends
    }

    /// The same for another size, unless that is too small.
    fn of(&self, mtu: u32) -> Option<Self> {
        (mtu >= LEAST).then_some(Self { mtu, ..*self })
    }

    /// The ICMP message: its header, and the front of a packet it answers.
    fn message(&self) -> Vec<u8> {
        // Ports and tag are all of an SCTP packet that matters (RFC 9260, appendix C).
        let mut sctp = Vec::with_capacity(8);
        sctp.extend(self.peer.port().to_be_bytes());
        sctp.extend(self.local.port().to_be_bytes());
        sctp.extend(self.tag.to_be_bytes());
        match (self.peer.ip(), self.local.ip()) {
            (IpAddr::V4(peer), IpAddr::V4(local)) => self.message4(peer, local, &sctp),
            (IpAddr::V6(peer), IpAddr::V6(local)) => self.message6(peer, local, &sctp),
            _ => Vec::new(),
        }
    }

    fn message4(&self, peer: Ipv4Addr, local: Ipv4Addr, sctp: &[u8]) -> Vec<u8> {
        let mut ip = Ipv4Header {
            total_len: u16::try_from(self.mtu.saturating_add(LESS)).unwrap_or(u16::MAX),
            time_to_live: 64,
            protocol: IpNumber::SCTP,
            source: peer.octets(),
            destination: local.octets(),
            dont_fragment: true,
            ..Ipv4Header::default()
        };
        ip.header_checksum = ip.calc_header_checksum();
        let payload = [&ip.to_bytes()[..], sctp].concat();
        let next_hop_mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        let kind = Icmpv4Type::DestinationUnreachable(
            icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu },
        );
        let header = Icmpv4Header::with_checksum(kind, &payload).to_bytes();
        [&header[..], &payload].concat()
    }

    fn message6(&self, peer: Ipv6Addr, local: Ipv6Addr, sctp: &[u8]) -> Vec<u8> {
        let ip = Ipv6Header {
            payload_length: u16::try_from(self.mtu.saturating_add(LESS))
                .unwrap_or(u16::MAX)
                .saturating_sub(40),
            next_header: IpNumber::SCTP,
            hop_limit: 64,
            source: peer.octets(),
            destination: local.octets(),
            ..Ipv6Header::default()
        };
        let payload = [&ip.to_bytes()[..], sctp].concat();
        // The kernel fills in the checksum, which covers the source it chooses.
        let header = Icmpv6Header::new(Icmpv6Type::PacketTooBig { mtu: self.mtu }).to_bytes();
        [&header[..], &payload].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Path;

    fn asoc(local: &[&str], peer: &[&str], mtu: u32) -> Association {
        let bytes = |a: &&str| addr::bytes(a.parse().unwrap());
        Association {
            my_vtag: Some(0x0102_0304),
            peer_vtag: Some(0x0506_0708),
            local_port: Some(36412),
            peer_port: Some(5000),
            local_addrs: local.iter().map(bytes).collect(),
            paths: peer
                .iter()
                .map(|a| Path {
                    addr: Some(bytes(a)),
                    pathmtu: Some(mtu),
                    ..Path::default()
                })
                .collect(),
            ..Association::default()
        }
    }

    #[test]
    fn a_message_quotes_a_packet_of_the_peer() {
        let found = nudges(&asoc(&["192.0.2.1:36412"], &["192.0.2.9:5000"], 1500));
        let [nudge, mirror] = found[..] else {
            panic!("{found:?}")
        };
        // This host is told the same of the packets it sends.
        assert_eq!((mirror.peer, mirror.local), (nudge.local, nudge.peer));
        assert_eq!((mirror.tag, mirror.mtu), (0x0506_0708, nudge.mtu));
        assert!(mirror.is_mirror() && !nudge.is_mirror());
        let bytes = nudge.message();
        // Type 3, code 4, next-hop MTU 1496.
        assert_eq!(bytes[..2], [3, 4]);
        assert_eq!(bytes[6..8], 1496u16.to_be_bytes());
        // Quoted: from the peer to us, SCTP, both ports, our tag.
        assert_eq!(bytes[8 + 9], 132);
        assert_eq!(bytes[8 + 12..8 + 16], [192, 0, 2, 9]);
        assert_eq!(bytes[8 + 16..8 + 20], [192, 0, 2, 1]);
        assert_eq!(bytes[28..30], 5000u16.to_be_bytes());
        assert_eq!(bytes[30..32], 36412u16.to_be_bytes());
        assert_eq!(bytes[32..], [1, 2, 3, 4]);
        // RFC 1071: the sum over a message with its checksum is all ones.
        let sum = bytes
            .chunks(2)
            .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
            .sum::<u32>();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }

    #[test]
    fn each_local_address_gets_one_of_its_family() {
        let both = asoc(
            &["[::ffff:192.0.2.1]:36412", "[2001:db8::1]:36412"],
            &["[2001:db8::9]:5000", "192.0.2.9:5000"],
            9000,
        );
        let found = nudges(&both);
        let pairs: Vec<String> = found
            .iter()
            .map(|n| format!("{} {} {}", n.local, n.peer, n.mtu))
            .collect();
        assert_eq!(
            pairs,
            [
                "192.0.2.1:36412 192.0.2.9:5000 8996",
                "192.0.2.9:5000 192.0.2.1:36412 8996",
                "[2001:db8::1]:36412 [2001:db8::9]:5000 8996",
                "[2001:db8::9]:5000 [2001:db8::1]:36412 8996"
            ]
        );
        let message = found[2].message();
        assert_eq!(message[..2], [2, 0]);
        assert_eq!(message[4..8], 8996u32.to_be_bytes());
        assert_eq!(message.len(), 8 + 40 + 8);
    }

    #[test]
    fn both_ends_are_asked_for_the_same() {
        let found = nudges(&asoc(&["192.0.2.1:36412"], &["192.0.2.9:5000"], 1500));
        let mut nudger = Nudger::default();
        let ends = found[0].ends();
        assert_eq!(ends, found[1].ends());
        assert!(!nudger.knows(&found[0]));
        nudger.sizes.insert(ends, 1492);
        assert!(nudger.knows(&found[0]));
        for nudge in &found {
            assert_eq!(nudge.mtu, 1496);
            assert_eq!(nudger.fitted(nudge).unwrap().mtu, 1492);
        }
        nudger.sizes.insert(ends, 9000);
        assert_eq!(nudger.fitted(&found[0]).unwrap().mtu, 1496);
        nudger.sizes.insert(ends, 1276);
        assert!(nudger.fitted(&found[0]).is_none());
    }

    #[test]
    fn who_is_reminded_is_asked_for_less_again() {
        let found = nudges(&asoc(&["192.0.2.1:36412"], &["192.0.2.9:5000"], 1500));
        for nudge in &found {
            // Both messages go by the tag of the association here.
            assert_eq!(nudge.here, 0x0102_0304);
            assert_eq!(nudge.of(nudge.mtu - LESS).unwrap().mtu, 1492);
            assert!(nudge.of(1279).is_none());
        }
        assert!(Nudger::default().reminder().unwrap().is_none());
    }

    #[test]
    fn small_links_and_tunnels_are_left_alone() {
        assert!(nudges(&asoc(&["192.0.2.1:1"], &["192.0.2.9:2"], 1280)).is_empty());
        assert!(nudges(&asoc(&["192.0.2.1:1"], &["192.0.2.9:2"], 0)).is_empty());
        let mut tunnel = asoc(&["192.0.2.1:1"], &["192.0.2.9:2"], 1500);
        tunnel.encap_port = Some(9899);
        assert!(nudges(&tunnel).is_empty());
    }
}
