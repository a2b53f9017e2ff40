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

/// Puts this test, a thread, into a network namespace of its own: `10.1.0.1`
/// to `10.1.0.4` and `fd01::1`, `fd01::2` on its loopback.
pub fn alone(sysctls: &[(&str, &str)]) {
    // SAFETY: no pointers are passed.
    call(unsafe { libc::unshare(libc::CLONE_NEWNET) }, "unshare");
    let addresses: String = (1..=4)
        .map(|n| format!("ip address add 10.1.0.{n}/32 dev lo; "))
        .chain((1..=2).map(|n| format!("ip address add fd01::{n}/64 dev lo nodad; ")))
        .collect();
    sh(&format!(
        "{addresses} ip link set lo mtu 1500 up; ip -6 route add local fe80::1 dev lo 2>/dev/null || true"
    ));
    for (name, value) in sysctls {
        let path = format!("/proc/sys/net/{}", name.replace('.', "/"));
        std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

/// Lets this process have as many open files.
pub fn allow_descriptors(count: u64) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count.max(1 << 16),
    };
    // SAFETY: `limit` lives across the call.
    call(
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) },
        "setrlimit",
    );
}

pub fn sh(script: &str) {
    let mut shell = std::process::Command::new("sh");
    assert!(shell.args(["-ec", script]).status().unwrap().success());
}

/// A new one-to-one socket.
pub fn fresh(domain: i32, flags: i32) -> OwnedFd {
    socket(domain, libc::SOCK_STREAM | flags)
}

/// A new socket of either style.
pub fn socket(domain: i32, kind: i32) -> OwnedFd {
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are passed.
    let raw = call(unsafe { libc::socket(domain, kind, SCTP) }, "socket");
    // SAFETY: fresh from the kernel.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

pub fn status_flags(fd: &OwnedFd) -> i32 {
    // SAFETY: no pointers are passed.
    call(
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) },
        "F_GETFL",
    )
}

pub fn set_status_flags(fd: &OwnedFd, flags: i32) {
    // SAFETY: no pointers are passed.
    call(
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) },
        "F_SETFL",
    );
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
    bind(&fd, local);
    fd
}

/// Binds it, and has a test that waits in vain end.
pub fn bind(fd: &OwnedFd, local: SocketAddr) {
    let raw = fd.as_raw_fd();
    let limit = [30i64, 0];
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
    try_bind(fd, local).unwrap();
}

/// Version of the running kernel.
pub fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|n| n.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

pub fn try_bind(fd: &OwnedFd, local: SocketAddr) -> io::Result<()> {
    let a = addr::bytes(local);
    let len = a.len().try_into().unwrap();
    // SAFETY: `a` lives across the call.
    match unsafe { libc::bind(fd.as_raw_fd(), a.as_ptr().cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn listen(fd: &OwnedFd) {
    // SAFETY: no pointers are passed.
    call(unsafe { libc::listen(fd.as_raw_fd(), 1000) }, "listen");
}

/// Connects; false when the kernel answers that it is under way.
pub fn connect(fd: &OwnedFd, peer: SocketAddr) -> bool {
    let a = addr::bytes(peer);
    let len = a.len().try_into().unwrap();
    // SAFETY: `a` lives across the call.
    let ret = unsafe { libc::connect(fd.as_raw_fd(), a.as_ptr().cast(), len) };
    if ret < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINPROGRESS) {
        return false;
    }
    call(ret, "connect");
    true
}

pub fn shutdown_write(fd: &OwnedFd) {
    // SAFETY: no pointers are passed.
    call(
        unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) },
        "shutdown",
    );
}

/// An SCTP option as bytes; `value` goes in first, for what it selects.
pub fn get(fd: &OwnedFd, name: i32, value: Vec<u8>) -> Vec<u8> {
    get_option(fd, SCTP, name, value)
}

/// Reads an option of any level.
pub fn get_option(fd: &OwnedFd, level: i32, name: i32, mut value: Vec<u8>) -> Vec<u8> {
    let mut len = value.len().try_into().unwrap();
    // SAFETY: `value` is as long as said and both live across the call.
    let ret = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    call(ret, &format!("getsockopt {name}"));
    value.truncate(len.try_into().unwrap());
    value
}

/// Attaches a filter that lets all pass, or takes it away.
pub fn filter(fd: &OwnedFd, attach: bool) {
    // BPF_RET | BPF_K
    let mut all = libc::sock_filter {
        code: 6,
        jt: 0,
        jf: 0,
        k: u32::MAX,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut all,
    };
    let name = match attach {
        true => libc::SO_ATTACH_FILTER,
        false => libc::SO_DETACH_FILTER,
    };
    // SAFETY: the program and its one instruction live across the call.
    let ret = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw const program).cast(),
            size_of_val(&program).try_into().unwrap(),
        )
    };
    call(ret, "SO_ATTACH_FILTER");
}

/// Sets an option of any level.
pub fn set_option(fd: &OwnedFd, level: i32, name: i32, value: &[u8]) {
    let len = value.len().try_into().unwrap();
    // SAFETY: `value` is as long as said and lives across the call.
    let ret = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    call(ret, &format!("setsockopt {level}/{name}"));
}

/// Sets an SCTP option.
pub fn set(fd: &OwnedFd, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len().try_into().unwrap();
    // SAFETY: `value` is as long as said and lives across the call.
    let ret = unsafe { libc::setsockopt(fd.as_raw_fd(), SCTP, name, value.as_ptr().cast(), len) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets an SCTP option that is a row of 32-bit numbers.
pub fn set32(fd: &OwnedFd, name: i32, value: &[u32]) {
    let bytes: Vec<u8> = value.iter().flat_map(|v| v.to_ne_bytes()).collect();
    set(fd, name, &bytes).unwrap_or_else(|e| panic!("setsockopt {name}: {e}"));
}

/// An answer of one `getsockopt` that returns a descriptor: `SCTP_SOCKOPT_PEELOFF`.
pub fn peel_off(fd: &OwnedFd, association: u32) -> OwnedFd {
    let value = [association.to_ne_bytes(), [0; 4]].concat();
    let got = get(fd, 102, value);
    let raw = i32::from_ne_bytes(got[4..8].try_into().unwrap());
    // SAFETY: fresh from the kernel.
    unsafe { OwnedFd::from_raw_fd(raw) }
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
    transmit_on(fd, 0, stream, 0, data, flags)
}

/// To one association of a one-to-many socket; `how` are flags of `struct sctp_sndinfo`.
pub fn transmit_on(
    fd: &OwnedFd,
    association: u32,
    stream: u16,
    how: u16,
    data: &[u8],
    flags: i32,
) -> io::Result<()> {
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
        let info = libc::CMSG_DATA(c);
        info.cast::<u16>().write_unaligned(stream);
        info.add(2).cast::<u16>().write_unaligned(how);
        info.add(12).cast::<u32>().write_unaligned(association);
    }
    // SAFETY: everything `msg` points to lives across the call.
    let n = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, flags) };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// With the defaults of the socket, on stream 0.
pub fn send_plain(fd: &OwnedFd, data: &[u8]) {
    // SAFETY: `data` is as long as said and lives across the call.
    let n = unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), 0) };
    check(n, "send");
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

/// What one `recvmsg` returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Of `struct sctp_rcvinfo`.
    pub stream: u16,
    /// Of `struct sctp_rcvinfo`.
    pub association: u32,
    /// `MSG_EOR`, `MSG_NOTIFICATION`.
    pub flags: i32,
    /// At most as many bytes as asked for.
    pub data: Vec<u8>,
}

/// One `recvmsg` of at most `room` bytes.
pub fn hear(fd: &OwnedFd, room: usize, flags: i32) -> io::Result<Heard> {
    set_number(std::os::fd::AsFd::as_fd(fd), SCTP, 32, &[1]);
    let mut data = vec![0u8; room];
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
    let n = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, flags) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    data.truncate(n.unsigned_abs());
    let mut heard = Heard {
        stream: 0,
        association: 0,
        flags: msg.msg_flags,
        data,
    };
    // SAFETY: the kernel has filled in the control messages.
    unsafe {
        let c = libc::CMSG_FIRSTHDR(&raw const msg);
        if !c.is_null() && (*c).cmsg_type == 3 {
            let info = libc::CMSG_DATA(c);
            heard.stream = info.cast::<u16>().read_unaligned();
            heard.association = info.add(24).cast::<u32>().read_unaligned();
        }
    }
    Ok(heard)
}

/// One whole message and its stream.
pub fn recv(fd: &OwnedFd) -> (u16, Vec<u8>) {
    let mut whole = Vec::new();
    loop {
        let part = hear(fd, 100_000, 0).unwrap();
        assert!(!part.data.is_empty(), "the association has ended");
        whole.extend_from_slice(&part.data);
        if part.flags & libc::MSG_EOR != 0 {
            return (part.stream, whole);
        }
    }
}
