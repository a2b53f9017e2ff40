// SPDX-License-Identifier: GPL-2.0-only
//! System calls on sockets of other processes.

use std::io;
use std::mem::size_of_val;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{getsockname, SockaddrStorage};

/// `UDP_ENCAP_GTP0` and `UDP_ENCAP_GTP1U` (`linux/udp.h`).
const ENCAP_GTP: [libc::c_int; 2] = [4, 5];

/// Reads an integer option. `None` for what is no socket, or not of this kind.
fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<Option<i32>> {
    let mut value: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(4);
    // SAFETY: `value` and `len` live across the call and have the sizes given.
    let ret = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if ret == 0 {
        return Ok(Some(value));
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::ENOTSOCK | libc::ENOPROTOOPT | libc::EOPNOTSUPP) => Ok(None),
        _ => Err(e),
    }
}

/// The protocol of a socket, `None` for what is no socket.
pub(crate) fn protocol(fd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)
}

/// Whether a GTP link receives on this UDP socket.
pub(crate) fn receives_gtp(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(option(fd, libc::SOL_UDP, libc::UDP_ENCAP)?.is_some_and(|e| ENCAP_GTP.contains(&e)))
}

/// Whether this is a socket of generic netlink.
pub(crate) fn is_generic_netlink(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(
        option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)? == Some(libc::AF_NETLINK)
            && protocol(fd)? == Some(libc::NETLINK_GENERIC),
    )
}

/// Where a socket is bound; `None` when it is of no internet family.
pub(crate) fn bound_to(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let name = getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
    if let Some(v4) = name.as_sockaddr_in() {
        return Some((v4.ip(), v4.port()).into());
    }
    let v6 = name.as_sockaddr_in6()?;
    Some((Ipv6Addr::from(v6.ip().octets()), v6.port()).into())
}

/// The network namespace of a socket.
pub(crate) fn netns(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// From `linux/sockios.h`: a descriptor of the namespace.
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: the request takes no argument.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Enters the network namespace of a socket, for the calling thread only.
pub(crate) fn enter_netns(socket: BorrowedFd<'_>) -> io::Result<()> {
    let netns = netns(socket)?;
    Ok(nix::sched::setns(
        netns,
        nix::sched::CloneFlags::CLONE_NEWNET,
    )?)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_netlink_socket_is_known() {
        let open = |protocol| netlink_sys::Socket::new(protocol).unwrap();
        let generic = open(netlink_sys::protocols::NETLINK_GENERIC);
        assert!(is_generic_netlink(generic.as_fd()).unwrap());
        let route = open(netlink_sys::protocols::NETLINK_ROUTE);
        assert!(!is_generic_netlink(route.as_fd()).unwrap());
    }

    #[test]
    fn a_udp_socket_is_known() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(protocol(socket.as_fd()).unwrap(), Some(libc::IPPROTO_UDP));
        assert!(!receives_gtp(socket.as_fd()).unwrap());
        assert_eq!(bound_to(socket.as_fd()), socket.local_addr().ok());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(protocol(file.as_fd()).unwrap(), None);
        assert!(!receives_gtp(file.as_fd()).unwrap());
    }
}
