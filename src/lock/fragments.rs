// SPDX-License-Identifier: GPL-2.0-only
//! What becomes of IP fragments at a locked address, in a network namespace of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header};
use nix::sys::socket::{
    sendto, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
};

use super::ruleset::tests::in_namespace;

const WHILE: Duration = Duration::from_secs(60);
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const GTP: u16 = 2152;
/// What the first of two fragments carries, a multiple of eight.
const FIRST: usize = 64;

/// Both ends of loopback: a GTP-U socket, and one that sends packets as they are.
struct Ends {
    server: UdpSocket,
    raw: OwnedFd,
}

impl Ends {
    fn new() -> Self {
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let server = UdpSocket::bind((HERE, GTP)).unwrap();
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let raw = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        );
        Self {
            server,
            raw: raw.unwrap(),
        }
    }

    /// Sends one fragment of a packet with this number.
    fn send(&self, id: u16, is_first: bool) {
        let udp = [40000, GTP, 8 + 2 * 56, 0].map(u16::to_be_bytes);
        let payload = match is_first {
            true => [udp.concat(), vec![1; FIRST - 8]].concat(),
            false => vec![2; FIRST - 8],
        };
        let units = u16::try_from(FIRST / 8).unwrap();
        let mut header = Ipv4Header::new(
            u16::try_from(payload.len()).unwrap(),
            64,
            IpNumber::UDP,
            HERE.octets(),
            HERE.octets(),
        )
        .unwrap();
        header.identification = id;
        header.dont_fragment = false;
        header.more_fragments = is_first;
        header.fragment_offset = IpFragOffset::try_new(if is_first { 0 } else { units }).unwrap();
        header.header_checksum = header.calc_header_checksum();
        let packet = [&header.to_bytes()[..], &payload].concat();
        let to = SockaddrIn::new(127, 0, 0, 1, 0);
        sendto(self.raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    }

    fn arrives(&self) -> bool {
        self.server.recv(&mut [0; 200]).is_ok()
    }
}

#[test]
fn those_of_a_dropped_packet_are_not_joined_to_another() {
    in_namespace(|| {
        let ends = Ends::new();
        for first in [true, false] {
            ends.send(7, first);
        }
        assert!(ends.arrives());
        // Without a lock this is what happens.
        ends.send(8, false);
        ends.send(8, true);
        assert!(ends.arrives());
        super::lock(&[HERE.into()], WHILE).unwrap();
        for first in [true, false] {
            ends.send(9, first);
        }
        assert!(!ends.arrives());
        super::unlock(&[HERE.into()]).unwrap();
        ends.send(9, true);
        assert!(!ends.arrives(), "joined to what was dropped");
        ends.send(9, false);
        assert!(ends.arrives());
    });
}
