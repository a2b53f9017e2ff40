// SPDX-License-Identifier: GPL-2.0-only
//! What becomes of IP fragments at either lock, in a network namespace of its own.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header};
use nix::sys::socket::{
    sendto, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
};

use super::ruleset::tests::in_namespace;
use super::{doorstep, Place, Port};

const WHILE: Duration = Duration::from_secs(60);
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const GTP: Port = Port {
    protocol: 17,
    number: 2152,
};
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
        let server = UdpSocket::bind((HERE, GTP.number)).unwrap();
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
        let udp = [40000, GTP.number, 8 + 2 * 56, 0].map(u16::to_be_bytes);
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

/// A packet in two fragments comes to a lock; later one with the same number.
fn nothing_is_left_over(lock: impl FnOnce(), unlock: impl FnOnce()) {
    let ends = Ends::new();
    for first in [true, false] {
        ends.send(7, first);
    }
    assert!(ends.arrives());
    // Without a lock this is what happens.
    ends.send(8, false);
    ends.send(8, true);
    assert!(ends.arrives());
    lock();
    for first in [true, false] {
        ends.send(9, first);
    }
    assert!(!ends.arrives());
    unlock();
    ends.send(9, true);
    assert!(!ends.arrives(), "joined to what was dropped");
    ends.send(9, false);
    assert!(ends.arrives());
}

#[test]
fn those_of_a_dropped_packet_are_not_joined_to_another() {
    in_namespace(|| {
        nothing_is_left_over(
            || super::lock(&[HERE.into()], WHILE).unwrap(),
            || super::unlock(&[HERE.into()]).unwrap(),
        );
    });
}

#[test]
fn nor_are_they_at_the_doorstep() {
    in_namespace(|| {
        let place = |port| -> Place { (IpAddr::from(HERE), port) };
        let gtp = place(GTP);
        nothing_is_left_over(
            || {
                doorstep::lock_at(&["lo".into()], &[gtp, place(Port::udp(3386))], WHILE).unwrap();
                assert_eq!(doorstep::status().unwrap().len(), 2);
            },
            || doorstep::unlock(|p| *p == gtp || p.1.number == 3386).unwrap(),
        );
    });
}

#[test]
fn at_the_doorstep_they_stay_out_with_the_last_port() {
    in_namespace(|| {
        let ends = Ends::new();
        let gtp = [GTP, Port::udp(3386)].map(|port| (IpAddr::from(HERE), port));
        doorstep::lock_at(&["lo".into()], &gtp, WHILE).unwrap();
        let mut id = 0;
        let mut passes = || {
            id += 1;
            ends.send(id, true);
            ends.send(id, false);
            ends.arrives()
        };
        assert!(!passes());
        // Its first fragment is let in, the other is not yet.
        doorstep::unlock(|p| *p == gtp[0]).unwrap();
        assert!(!passes());
        doorstep::lock_at(&["lo".into()], &gtp[..1], WHILE).unwrap();
        doorstep::unlock(|p| *p == gtp[1]).unwrap();
        doorstep::unlock(|p| *p == gtp[0]).unwrap();
        assert!(passes());
    });
}
