// SPDX-License-Identifier: GPL-2.0-only
//! The addresses of this network namespace (`RTM_GETADDR`).

use std::collections::HashSet;
use std::net::IpAddr;

use neli::consts::rtnl::{Ifa, Rtm};

use super::settled::settled;
use super::{Attrs, Error, Message, Protocol, Result, Socket};

/// Length of `struct ifaddrmsg`.
const HEADER: usize = 8;

/// Every address assigned to an interface of the current network namespace.
///
/// # Errors
/// Those of the netlink socket.
pub fn local_addresses() -> Result<HashSet<IpAddr>> {
    settled(listed)
}

fn listed() -> Result<HashSet<IpAddr>> {
    let mut socket = Socket::open(Protocol::Route)?;
    let mut found = HashSet::new();
    let msg = Message::new(u16::from(Rtm::Getaddr), 0, &[0; HEADER]);
    socket.dump(msg, |payload| {
        let attrs = payload
            .get(HEADER..)
            .map(Attrs::new)
            .ok_or(Error::Malformed("no address header"))?;
        // On a point-to-point link IFA_ADDRESS is the peer.
        for kind in [Ifa::Local, Ifa::Address] {
            if let Some(ip) = attrs.find(u16::from(kind))?.and_then(ip) {
                found.insert(ip);
                break;
            }
        }
        Ok::<(), Error>(())
    })?;
    Ok(found)
}

/// An address in network byte order, told apart by its length.
pub fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_them() {
        let all = local_addresses().unwrap();
        assert!(all.contains(&IpAddr::from([127, 0, 0, 1])), "{all:?}");
    }
}
