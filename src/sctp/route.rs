// SPDX-License-Identifier: GPL-2.0-only
//! What this host knows of the way to another.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use super::sockopt;

/// `IP_MTU` and `IPV6_MTU`.
const MTU: [(i32, i32); 2] = [
    (libc::IPPROTO_IP, libc::IP_MTU),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU),
];

/// The path MTU from `local` to `peer` in bytes, in the current network namespace, with what routers and peers have said
/// of it.
pub(super) fn mtu(local: IpAddr, peer: SocketAddr) -> io::Result<u32> {
    let (level, name) = match peer {
        SocketAddr::V4(_) => MTU[0],
        SocketAddr::V6(_) => MTU[1],
    };
    let socket = UdpSocket::bind((local, 0))?;
    // Nothing is sent: the socket only learns its route.
    socket.connect(peer)?;
    sockopt::get_number(socket.as_fd(), level, name).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{unshare, CloneFlags};

    use super::*;

    fn ip(words: &str) {
        let done = Command::new("ip").args(words.split(' ')).status();
        assert!(done.unwrap().success(), "ip {words}");
    }

    #[test]
    fn what_is_known_of_a_path_counts() {
        let worker = std::thread::spawn(|| {
            if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: no network namespace: {e}");
                return;
            }
            let mtu = |place: &str| {
                let peer: SocketAddr = place.parse().unwrap();
                let local = if peer.is_ipv4() {
                    "192.0.2.1"
                } else {
                    "2001:db8::1"
                };
                mtu(local.parse().unwrap(), peer)
            };
            assert!(mtu("192.0.2.9:1").is_err());
            ip("link set lo mtu 1500 up");
            ip("address add 192.0.2.1/24 dev lo");
            ip("address add 2001:db8::1/64 dev lo nodad");
            ip("route add 192.0.2.9 dev lo mtu 1496");
            ip("route add 2001:db8::9 dev lo mtu 1492");
            assert_eq!(mtu("192.0.2.8:1").unwrap(), 1500);
            assert_eq!(mtu("192.0.2.9:1").unwrap(), 1496);
            assert_eq!(mtu("[2001:db8::8]:1").unwrap(), 1500);
            assert_eq!(mtu("[2001:db8::9]:1").unwrap(), 1492);
        });
        worker.join().unwrap();
    }
}
