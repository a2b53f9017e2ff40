// SPDX-License-Identifier: GPL-2.0-only
//! System calls on a socket, with checked lengths.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{fcntl, FcntlArg, OFlag};

use super::{Error, Result};

fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Reads an option into `value`, which holds what the option asks for; `value`
/// is cut to what the kernel wrote.
pub(super) fn get(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &mut Vec<u8>,
) -> io::Result<()> {
    let mut len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is as long as `len` says, and both live across the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    value.truncate(usize::try_from(len).unwrap_or(usize::MAX));
    Ok(())
}

/// Sets an option.
pub(super) fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is as long as `len` says and lives across the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) })?;
    Ok(())
}

/// An option that is a number.
pub(super) fn get_number(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<u32> {
    let mut value = vec![0; 4];
    get(fd, level, name, &mut value).map_err(Error::sys(format!("getsockopt {level}/{name}")))?;
    let value = <[u8; 4]>::try_from(value).map_err(|_| Error::BadImage("short socket option"))?;
    Ok(u32::from_ne_bytes(value))
}

/// The file status flags, as `O_NONBLOCK`.
pub(super) fn status_flags(fd: BorrowedFd<'_>) -> Result<OFlag> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|e| Error::sys("fcntl F_GETFL")(e.into()))?;
    Ok(OFlag::from_bits_retain(flags))
}

/// Sets the file status flags.
pub(super) fn set_status_flags(fd: BorrowedFd<'_>, flags: OFlag) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(flags)).map_err(|e| Error::sys("fcntl F_SETFL")(e.into()))?;
    Ok(())
}

/// Whether a BPF filter looks at what arrives.
pub(super) fn has_filter(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut len: libc::socklen_t = 0;
    // SAFETY: with room for nothing the kernel only tells how long it is.
    let asked = check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut len,
        )
    });
    match asked {
        Ok(_) => Ok(len > 0),
        // One of eBPF cannot be read.
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(true),
        Err(e) => Err(Error::sys("getsockopt SO_GET_FILTER")(e)),
    }
}

/// A new SCTP socket, close-on-exec.
pub(super) fn socket(domain: i32, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `bind` with the bytes of a `struct sockaddr`.
pub(super) fn bind(fd: BorrowedFd<'_>, addr: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(addr.len()).map_err(io::Error::other)?;
    // The kernel copies the address: its alignment does not matter.
    // SAFETY: `addr` is as long as `len` says and lives across the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), addr.as_ptr().cast(), len) })?;
    Ok(())
}

/// `listen`.
pub(super) fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(())
}

/// Makes the kernel load its `sctp` module, which it does for a first socket.
pub(super) fn load_module() {
    drop(socket(libc::AF_INET, libc::SOCK_STREAM));
}

/// An interface request with everything zero but what is set.
fn request() -> libc::ifreq {
    // SAFETY: it holds numbers and a pointer the kernel does not follow here.
    unsafe { std::mem::zeroed() }
}

/// The name an interface number has in the network namespace of a socket.
pub(super) fn interface_name(fd: BorrowedFd<'_>, number: u32) -> io::Result<String> {
    let mut req = request();
    req.ifr_ifru.ifru_ifindex = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel reads the number in `req` and writes the name into it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFNAME, &raw mut req) })?;
    let name = req.ifr_name.iter().map(|c| c.to_ne_bytes()[0]);
    String::from_utf8(name.take_while(|b| *b != 0).collect()).map_err(io::Error::other)
}

/// The number of the interface of that name in the network namespace of a socket.
pub(super) fn interface_number(fd: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let mut req = request();
    // One byte stays zero, to end the name.
    if name.is_empty() || name.len() >= req.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // SAFETY: the kernel reads the name in `req` and writes the number into it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut req) })?;
    // SAFETY: the number is what the kernel has just written.
    let number = unsafe { req.ifr_ifru.ifru_ifindex };
    u32::try_from(number).map_err(io::Error::other)
}
