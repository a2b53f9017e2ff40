// SPDX-License-Identifier: GPL-2.0-only
//! Which socket belongs to which link.
//!
//! The kernel does not tell. But each tunnel of a link holds a reference to the
//! link's socket, and `/proc/net/udp` shows how many references a socket has:
//! so a tunnel that nobody can use is added for an instant, and the socket
//! whose count rises by one is the link's.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use super::attribute as a;
use super::command as c;
use super::pdp::{Pdp, Tunnel};
use super::{Error, Result};
use crate::netlink::{self, Genl, Writer};
use crate::proto::GtpLink;

/// A socket as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpSocket {
    /// Its inode, as in `socket:[N]`.
    pub inode: u32,
    /// Where it is bound.
    pub local: SocketAddr,
}

/// How often to try before giving up: another program may open sockets or add
/// tunnels at the same time.
const ATTEMPTS: u32 = 8;
/// Tunnels that were deleted let go of their socket a little later.
const PAUSE: Duration = Duration::from_millis(20);

/// Address that no subscriber can have (RFC 1122, 3.2.1.3: 0.0.0.0/8), for the
/// tunnel that nobody can use.
const NOBODY: u32 = 0x0074_6c63;

/// Whether the kernel made the sockets of a link itself.
///
/// # Errors
/// Those of the netlink socket.
pub fn is_kernels(genl: &mut Genl, link: u32) -> Result<bool> {
    // An echo request of a version that does not exist: it is looked at only
    // after the question whose the sockets are.
    let mut w = Writer::new();
    w.put_u32(a::LINK, link)?;
    w.put_u32(a::VERSION, 7)?;
    w.put(a::PEER_ADDRESS, &[0; 4])?;
    w.put(a::MS_ADDRESS, &[0; 4])?;
    match genl.request(c::ECHOREQ, &w, |_| Ok(())) {
        Err(netlink::Error::Refused(r)) => match r.errno {
            libc::ENODEV | libc::ENETDOWN => Ok(true),
            _ => Ok(false), // EOPNOTSUPP, also from kernels that make no sockets
        },
        Err(e) => Err(e.into()),
        Ok(()) => Err(netlink::Error::Malformed("echo of no version sent").into()),
    }
}

/// The socket on which a link receives packets of a GTP version; `None` when
/// it has none.
///
/// # Errors
/// It is in another network namespace than the link.
pub fn receiver(genl: &mut Genl, link: &GtpLink, version: u32) -> Result<Option<UdpSocket>> {
    for attempt in 0..ATTEMPTS {
        let before = references()?;
        let Some(nobody) = add_nobody(genl, link, version, attempt)? else {
            return Ok(None);
        };
        let after = references();
        let mut key = Writer::new();
        nobody.write_key(&mut key)?;
        genl.request(c::DELPDP, &key, |_| Ok(()))?;
        let after = after?;
        let mut risen = after
            .iter()
            .filter(|(inode, (_, n))| {
                before
                    .get(*inode)
                    .is_some_and(|(_, old)| *n == old.wrapping_add(1))
            })
            .map(|(inode, (local, _))| UdpSocket {
                inode: *inode,
                local: *local,
            });
        if let (Some(found), None) = (risen.next(), risen.next()) {
            return Ok(Some(found));
        }
        sleep(PAUSE);
    }
    Err(Error::Unsupported(format!(
        "link {}: its GTPv{version} socket is not in the network namespace of the link, which telecr cannot carry yet; \
         create link and sockets in one namespace",
        link.name
    )))
}

/// Adds a tunnel that nobody can use. `None` when the link has no socket for it.
fn add_nobody(genl: &mut Genl, link: &GtpLink, version: u32, attempt: u32) -> Result<Option<Pdp>> {
    for peer in [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ] {
        for offset in 0..ATTEMPTS {
            let number = NOBODY ^ (attempt * ATTEMPTS + offset) << 24 >> 8;
            let tunnel = match version {
                0 => Tunnel::V0 {
                    tid: (u64::from(number) << 32) | u64::from(link.ifindex),
                    flow: 0,
                },
                _ => Tunnel::V1 {
                    i_tei: number,
                    o_tei: number,
                },
            };
            let pdp = Pdp {
                link: link.ifindex,
                tunnel,
                ms: IpAddr::from((NOBODY ^ offset).to_be_bytes()),
                peer,
            };
            let mut batch = genl.batch();
            genl.push(
                &mut batch,
                c::NEWPDP,
                libc::NLM_F_CREATE | libc::NLM_F_EXCL,
                |w| pdp.write(w),
            )?;
            match genl.run(&mut batch).map_err(|(_, e)| e) {
                Ok(()) => return Ok(Some(pdp)),
                Err(e) => match e.errno() {
                    Some(libc::EEXIST) => {}
                    Some(libc::EAFNOSUPPORT | libc::EINVAL) => break, // the other family
                    Some(libc::ENODEV) => return Ok(None),
                    _ => return Err(e.into()),
                },
            }
        }
    }
    Err(Error::Unsupported(format!(
        "link {}: cannot find out which socket it uses, for it has tunnels in 0.0.0.0/8",
        link.name
    )))
}

/// Address and number of references of every UDP socket of this network
/// namespace, by inode.
fn references() -> Result<HashMap<u32, (SocketAddr, u32)>> {
    let mut all = HashMap::new();
    for file in ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"] {
        let text = match fs::read_to_string(file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue, // no IPv6
            other => other.map_err(Error::sys(|| format!("cannot read {file}")))?,
        };
        all.extend(text.lines().skip(1).filter_map(socket));
    }
    Ok(all)
}

/// A line of `/proc/net/udp` (`udp4_format_sock()` in `net/ipv4/udp.c`).
fn socket(line: &str) -> Option<(u32, (SocketAddr, u32))> {
    let mut fields = line.split_whitespace();
    let local = address(fields.nth(1)?)?;
    let inode = fields.nth(7)?.parse().ok()?;
    let references = fields.next()?.parse().ok()?;
    Some((inode, (local, references)))
}

/// An address as `0A00000A:0868`: words in host byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    let mut rest = ip;
    while !rest.is_empty() {
        let (word, tail) = rest.split_at_checked(8)?;
        bytes.extend(u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
        rest = tail;
    }
    Some(SocketAddr::new(netlink::ip(&bytes)?, port))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Std;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn sockets_of_this_host_are_found() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = Std::bind(bind) else {
                continue; // no IPv6 here
            };
            let inode = nix::sys::stat::fstat(socket.as_fd()).unwrap().st_ino;
            let all = references().unwrap();
            let (local, count) = all[&u32::try_from(inode).unwrap()];
            assert_eq!(local, socket.local_addr().unwrap());
            assert!(count > 0);
        }
    }

    #[test]
    fn other_lines_are_survived() {
        for line in [
            "",
            "a b c",
            "1: 0:0 2",
            "1: 0A00000G:0868 x x x x x x x 1 1",
            "1: é000000:0868",
        ] {
            assert_eq!(socket(line), None);
        }
    }
}
