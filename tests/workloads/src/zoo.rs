// SPDX-License-Identifier: GPL-2.0-only
//! What `socket-zoo` looks at: everything about a socket that a program could see changed.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::sys::check;

const SCTP: libc::c_int = libc::IPPROTO_SCTP;
const SOCKET: libc::c_int = libc::SOL_SOCKET;

/// Options compared: name, level, number, size.
const OPTIONS: &[(&str, libc::c_int, libc::c_int, usize)] = &[
    ("SO_RCVBUF", SOCKET, libc::SO_RCVBUF, 4),
    ("SO_SNDBUF", SOCKET, libc::SO_SNDBUF, 4),
    ("SO_REUSEADDR", SOCKET, libc::SO_REUSEADDR, 4),
    ("SO_LINGER", SOCKET, libc::SO_LINGER, 8),
    ("SO_RCVTIMEO", SOCKET, libc::SO_RCVTIMEO, 16),
    ("SO_SNDTIMEO", SOCKET, libc::SO_SNDTIMEO, 16),
    ("SO_PRIORITY", SOCKET, libc::SO_PRIORITY, 4),
    ("SO_MARK", SOCKET, libc::SO_MARK, 4),
    ("SO_ACCEPTCONN", SOCKET, libc::SO_ACCEPTCONN, 4),
    ("IP_TOS", libc::IPPROTO_IP, libc::IP_TOS, 4),
    ("IP_TTL", libc::IPPROTO_IP, libc::IP_TTL, 4),
    ("SCTP_RTOINFO", SCTP, 0, 16),
    ("SCTP_INITMSG", SCTP, 2, 8),
    ("SCTP_NODELAY", SCTP, 3, 4),
    ("SCTP_ADAPTATION_LAYER", SCTP, 7, 4),
    ("SCTP_DISABLE_FRAGMENTS", SCTP, 8, 4),
    ("SCTP_DEFAULT_SEND_PARAM", SCTP, 10, 32),
    ("SCTP_EVENTS", SCTP, 11, 13),
    ("SCTP_MAXSEG", SCTP, 13, 8),
    ("SCTP_DELAYED_SACK", SCTP, 16, 12),
    ("SCTP_CONTEXT", SCTP, 17, 8),
    ("SCTP_FRAGMENT_INTERLEAVE", SCTP, 18, 4),
    ("SCTP_PARTIAL_DELIVERY_POINT", SCTP, 19, 4),
    ("SCTP_MAX_BURST", SCTP, 20, 8),
    ("SCTP_AUTO_ASCONF", SCTP, 30, 4),
    ("SCTP_RECVRCVINFO", SCTP, 32, 4),
    ("SCTP_RECVNXTINFO", SCTP, 33, 4),
    ("SCTP_REUSE_PORT", SCTP, 36, 4),
];

/// Everything looked at, by name.
pub type Look = BTreeMap<String, Vec<u8>>;

/// Looks at a socket.
pub fn look(fd: BorrowedFd<'_>) -> Look {
    let mut found = Look::new();
    for (name, level, number, size) in OPTIONS {
        // An option that cannot be read is "read" as nothing, before and after.
        found.insert(
            (*name).into(),
            get(fd, *level, *number, *size).unwrap_or_default(),
        );
    }
    if let Ok(mut info) = get(fd, SCTP, 1, 20) {
        // SCTP_ASSOCINFO without the two windows: the peer's moves, and ours is the one last advertised, which the SACK
        // that wakes the peer brings up to date.
        info.drain(8..16.min(info.len()));
        found.insert("SCTP_ASSOCINFO".into(), info);
    }
    if let Ok(mut params) = get(fd, SCTP, 9, 156) {
        // SCTP_PEER_ADDR_PARAMS without the path MTU: what wakes the peer takes four bytes from it, at both ends.
        if params.len() >= 142 {
            params.drain(138..142);
        }
        found.insert("SCTP_PEER_ADDR_PARAMS".into(), params);
    }
    for (name, command) in [("F_GETFL", libc::F_GETFL), ("F_GETFD", libc::F_GETFD)] {
        // SAFETY: no pointers are passed.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), command) };
        found.insert(name.into(), flags.to_ne_bytes().to_vec());
    }
    found.insert("getsockname".into(), address(fd, libc::getsockname));
    found.insert("getpeername".into(), address(fd, libc::getpeername));
    found
}

/// What differs between two looks, in words.
pub fn differences(who: &str, before: &Look, after: &Look) -> Vec<String> {
    let changed = before
        .iter()
        .filter(|(name, value)| after.get(*name) != Some(value));
    changed
        .map(|(name, value)| {
            format!(
                "{who}: {name} was {value:02x?} and is {:02x?}",
                after.get(name)
            )
        })
        .collect()
}

/// Sets an option to plain bytes.
pub fn set(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    number: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes of `value`.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, number, value.as_ptr().cast(), len) })
        .map(|_| ())
        .map_err(|e| io::Error::other(format!("cannot set option {level}/{number}: {e}")))
}

fn get(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    number: libc::c_int,
    size: usize,
) -> io::Result<Vec<u8>> {
    let mut value = vec![0u8; size];
    let mut len = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `len` bytes into `value`, which has as many.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            number,
            value.as_mut_ptr().cast(),
            &mut len,
        )
    })?;
    value.truncate(len as usize);
    Ok(value)
}

type AddressCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn address(fd: BorrowedFd<'_>, call: AddressCall) -> Vec<u8> {
    let mut bytes = vec![0u8; 128];
    let mut len: libc::socklen_t = 128;
    // SAFETY: the kernel writes at most `len` bytes into `bytes`, which has as many.
    if unsafe { call(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &mut len) } < 0 {
        return Vec::new();
    }
    bytes.truncate(len as usize);
    bytes
}

/// Sets or clears O_NONBLOCK and FD_CLOEXEC.
pub fn set_flags(fd: BorrowedFd<'_>, nonblocking: bool, close_on_exec: bool) -> io::Result<()> {
    let status = if nonblocking { libc::O_NONBLOCK } else { 0 };
    let descriptor = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: no pointers are passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, status) })?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, descriptor) }).map(|_| ())
}
