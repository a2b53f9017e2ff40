// SPDX-License-Identifier: GPL-2.0-only
//! Two ends of an association, by hand.

use std::io;
use std::mem::size_of_val;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use telecr::sctp::addr;

const SCTP: i32 = libc::IPPROTO_SCTP;

fn check(ret: isize, what: &str) -> isize {
    assert!(ret >= 0, "{what}: {}", io::Error::last_os_error());
    ret
}

fn call(ret: i32, what: &str) -> i32 {
    i32::try_from(check(ret.try_into().unwrap(), what)).unwrap()
}

/// A new one-to-one socket.
pub fn fresh(domain: i32, flags: i32) -> OwnedFd {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags;
    // SAFETY: no pointers are passed.
    let raw = call(unsafe { libc::socket(domain, kind, SCTP) }, "socket");
    // SAFETY: fresh from the kernel.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

pub fn nonblocking(fd: &OwnedFd) -> bool {
    // SAFETY: no pointers are passed.
    let flags = call(
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) },
        "F_GETFL",
    );
    flags & libc::O_NONBLOCK != 0
}

/// A one-to-one socket bound to `local`.
pub fn bound(local: &str) -> OwnedFd {
    let local: SocketAddr = local.parse().unwrap();
    let domain = if local.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let fd = fresh(domain, 0);
    let raw = fd.as_raw_fd();
    let limit = [30i64, 0]; // a test that waits in vain is to end
                            // SAFETY: `limit` is a `struct timeval` and lives across the call.
    call(
        unsafe {
            libc::setsockopt(
                raw,
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                limit.as_ptr().cast(),
                16,
            )
        },
        "SO_RCVTIMEO",
    );
    let a = addr::bytes(local);
    // SAFETY: `a` lives across the call.
    call(
        unsafe { libc::bind(raw, a.as_ptr().cast(), a.len().try_into().unwrap()) },
        "bind",
    );
    fd
}

pub fn listener(local: &str) -> OwnedFd {
    let fd = bound(local);
    // SAFETY: no pointers are passed.
    call(unsafe { libc::listen(fd.as_raw_fd(), 16) }, "listen");
    fd
}

pub fn connected(local: &str, peer: &str) -> OwnedFd {
    let fd = bound(local);
    let a = addr::bytes(peer.parse().unwrap());
    // SAFETY: `a` lives across the call.
    call(
        unsafe {
            libc::connect(
                fd.as_raw_fd(),
                a.as_ptr().cast(),
                a.len().try_into().unwrap(),
            )
        },
        "connect",
    );
    fd
}

pub fn accept(listener: &OwnedFd) -> OwnedFd {
    // SAFETY: null pointers are allowed here.
    let raw = call(
        unsafe {
            libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        },
        "accept",
    );
    // SAFETY: fresh from the kernel.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    // SCTP_RECVRCVINFO, to learn the stream.
    set_number(std::os::fd::AsFd::as_fd(&fd), SCTP, 32, &[1]);
    fd
}

pub fn set_number(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[i32]) {
    // SAFETY: `value` is as long as said and lives across the call.
    let ret = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            size_of_val(value).try_into().unwrap(),
        )
    };
    call(ret, &format!("setsockopt {level}/{name}"));
}

fn transmit(fd: &OwnedFd, stream: u16, data: &[u8], flags: i32) -> io::Result<()> {
    // A control message of 16 bytes with a struct sctp_sndinfo of 16.
    let mut control = [0u64; 4];
    // SAFETY: all zeroes is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = 32;
    // SAFETY: `control` has room for the header and is aligned for it.
    unsafe {
        let c = libc::CMSG_FIRSTHDR(&raw const msg);
        (*c).cmsg_level = SCTP;
        (*c).cmsg_type = 2; // SCTP_SNDINFO
        (*c).cmsg_len = libc::CMSG_LEN(16).try_into().unwrap();
        libc::CMSG_DATA(c).cast::<u16>().write_unaligned(stream);
    }
    // SAFETY: everything `msg` points to lives across the call.
    let n = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, flags) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub fn send(fd: &OwnedFd, stream: u16, data: &[u8]) {
    transmit(fd, stream, data, 0).unwrap();
}

/// Whether the socket took it without waiting.
pub fn try_send(fd: &OwnedFd, stream: u16, data: &[u8]) -> bool {
    match transmit(fd, stream, data, libc::MSG_DONTWAIT) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
        Err(e) => panic!("send: {e}"),
    }
}

/// One whole message and its stream.
pub fn recv(fd: &OwnedFd) -> (u16, Vec<u8>) {
    set_number(std::os::fd::AsFd::as_fd(fd), SCTP, 32, &[1]);
    let mut whole = Vec::new();
    loop {
        let mut data = vec![0u8; 100_000];
        let mut control = [0u64; 32];
        // SAFETY: all zeroes is a valid msghdr.
        let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut iov = libc::iovec {
            iov_base: data.as_mut_ptr().cast(),
            iov_len: data.len(),
        };
        msg.msg_iov = &raw mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = 256;
        // SAFETY: everything `msg` points to lives across the call.
        let n = check(
            unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, 0) },
            "recvmsg",
        );
        assert!(n > 0, "the association has ended");
        whole.extend_from_slice(&data[..n.unsigned_abs()]);
        if msg.msg_flags & libc::MSG_EOR == 0 {
            continue;
        }
        // SAFETY: the kernel has filled in the control messages.
        let stream = unsafe {
            let c = libc::CMSG_FIRSTHDR(&raw const msg);
            assert!(!c.is_null() && (*c).cmsg_type == 3, "no SCTP_RCVINFO");
            libc::CMSG_DATA(c).cast::<u16>().read_unaligned()
        };
        return (stream, whole);
    }
}
