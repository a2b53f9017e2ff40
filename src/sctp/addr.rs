// SPDX-License-Identifier: GPL-2.0-only
//! `struct sockaddr_in` and `sockaddr_in6` as bytes, as the kernel hands them out.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::netlink::attr::array;

/// Length of `struct sockaddr_in`.
const V4: usize = 16;
/// Length of `struct sockaddr_in6`.
const V6: usize = 28;

/// Reads an address of exactly the length of its family.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
    let port = u16::from_be_bytes(array(bytes, 2)?);
    match (family, bytes.len()) {
        (libc::AF_INET, V4) => {
            let ip = Ipv4Addr::from(array::<4>(bytes, 4)?);
            Some(SocketAddrV4::new(ip, port).into())
        }
        (libc::AF_INET6, V6) => {
            let flow = u32::from_be_bytes(array(bytes, 4)?);
            let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
            let scope = u32::from_ne_bytes(array(bytes, 24)?);
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

/// Reads an address at the front of a longer structure (`sockaddr_storage`).
#[must_use]
pub fn parse_storage(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
    parse(bytes.get(..if family == libc::AF_INET6 { V6 } else { V4 })?)
}

/// Writes an address as the structure of its family.
#[must_use]
pub fn bytes(addr: SocketAddr) -> Vec<u8> {
    // AF_INET and AF_INET6 fit.
    let family = |f: i32| u16::try_from(f).unwrap_or_default().to_ne_bytes();
    let mut out = Vec::with_capacity(V6);
    match addr {
        SocketAddr::V4(a) => {
            out.extend(family(libc::AF_INET));
            out.extend(a.port().to_be_bytes());
            out.extend(a.ip().octets());
            out.resize(V4, 0);
        }
        SocketAddr::V6(a) => {
            out.extend(family(libc::AF_INET6));
            out.extend(a.port().to_be_bytes());
            out.extend(a.flowinfo().to_be_bytes());
            out.extend(a.ip().octets());
            out.extend(a.scope_id().to_ne_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_round_trip() {
        for text in ["192.0.2.1:36412", "[2001:db8::1]:36412", "0.0.0.0:0"] {
            let a: SocketAddr = text.parse().unwrap();
            assert_eq!(parse(&bytes(a)), Some(a));
        }
    }

    #[test]
    fn other_lengths_and_families_are_refused() {
        let a = bytes("192.0.2.1:1".parse().unwrap());
        assert_eq!(parse(&a[..8]), None);
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&[0; V4]), None);
    }
}
