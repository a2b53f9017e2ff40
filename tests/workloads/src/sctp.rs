// SPDX-License-Identifier: GPL-2.0-only
//! One-to-one SCTP sockets.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use crate::sys::{check, owned};

/// Streams asked for in each direction.
pub const STREAMS: u16 = 10;

const SCTP_INITMSG: libc::c_int = 2;
const SCTP_NODELAY: libc::c_int = 3;
const SCTP_EVENTS: libc::c_int = 11;
const SCTP_RECVRCVINFO: libc::c_int = 32;
const SCTP_SNDINFO: libc::c_int = 2;
const AF_INET: libc::sa_family_t = 2;
const AF_INET6: libc::sa_family_t = 10;
const MSG_NOTIFICATION: libc::c_int = 0x8000;

#[repr(C)]
struct InitMsg {
    num_ostreams: u16,
    max_instreams: u16,
    max_attempts: u16,
    max_init_timeo: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SndInfo {
    sid: u16,
    flags: u16,
    ppid: u32,
    context: u32,
    assoc_id: i32,
}

/// What `recv` found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes of a message; `end` when these are its last.
    Data {
        /// How many bytes of the buffer are valid.
        len: usize,
        /// Was this the end of the message?
        end: bool,
    },
    /// A notification.
    Notification {
        /// How many bytes of the buffer are valid.
        len: usize,
    },
    /// Nothing now.
    WouldBlock,
    /// The association is over.
    Closed,
}

/// An SCTP socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// A new one-to-one socket with the options both programs use.
    fn new(addr: &SocketAddr) -> io::Result<Self> {
        let family = if addr.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        // SAFETY: no pointers are passed.
        let fd = owned(unsafe {
            libc::socket(
                family,
                libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
                libc::IPPROTO_SCTP,
            )
        })?;
        let socket = Self(fd);
        if addr.is_ipv6() {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32)?;
        }
        socket.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32)?;
        let init = InitMsg {
            num_ostreams: STREAMS,
            max_instreams: STREAMS,
            max_attempts: 0,
            max_init_timeo: 0,
        };
        socket.set(libc::IPPROTO_SCTP, SCTP_INITMSG, &init)?;
        socket.prepare()?;
        Ok(socket)
    }

    /// A socket that is neither bound nor connected, of the address's family.
    pub fn fresh(like: &SocketAddr) -> io::Result<Self> {
        Self::new(like)
    }

    /// A bound socket that does not listen.
    pub fn bound(addr: SocketAddr) -> io::Result<Self> {
        let socket = Self::new(&addr)?;
        socket.bind(addr)?;
        Ok(socket)
    }

    /// Binds the socket.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<()> {
        self.with_addr(addr, libc::bind)
    }

    /// Options that also hold for accepted sockets: notifications, stream numbers, no delay.
    fn prepare(&self) -> io::Result<()> {
        // data_io off; association, address, send failure, peer error, shutdown, partial delivery on.
        self.set(libc::IPPROTO_SCTP, SCTP_EVENTS, &[0u8, 1, 1, 1, 1, 1, 1, 0])?;
        self.set(libc::IPPROTO_SCTP, SCTP_RECVRCVINFO, &1i32)?;
        self.set(libc::IPPROTO_SCTP, SCTP_NODELAY, &1i32)
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let len = libc::socklen_t::try_from(mem::size_of::<T>()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads `len` bytes of `value`, which are all plain data.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                len,
            )
        })
        .map(|_| ())
    }

    /// Makes the socket non-blocking.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        // SAFETY: no pointers are passed.
        let flags = check(unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETFL) })?;
        // SAFETY: no pointers are passed.
        check(unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })
            .map(|_| ())
    }

    /// A non-blocking listener.
    pub fn listen(addr: SocketAddr) -> io::Result<Self> {
        let socket = Self::new(&addr)?;
        socket.with_addr(addr, libc::bind)?;
        // SAFETY: no pointers are passed.
        check(unsafe { libc::listen(socket.0.as_raw_fd(), 128) })?;
        socket.set_nonblocking()?;
        Ok(socket)
    }

    /// A connected, non-blocking socket.
    pub fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let socket = Self::new(&to)?;
        socket.with_addr(from, libc::bind)?;
        socket.with_addr(to, libc::connect)?;
        socket.set_nonblocking()?;
        Ok(socket)
    }

    /// The next waiting association as a socket of its own.
    pub fn accept(&self) -> io::Result<Option<Self>> {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the peer's address is not asked for.
        let ret = unsafe {
            libc::accept4(
                self.0.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                flags,
            )
        };
        match owned(ret) {
            Ok(fd) => {
                let socket = Self(fd);
                socket.prepare()?;
                Ok(Some(socket))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn with_addr(
        &self,
        addr: SocketAddr,
        call: unsafe extern "C" fn(
            libc::c_int,
            *const libc::sockaddr,
            libc::socklen_t,
        ) -> libc::c_int,
    ) -> io::Result<()> {
        let (storage, len) = sockaddr(addr);
        // SAFETY: `storage` holds a socket address of `len` bytes, and bind and connect only read it.
        check(unsafe { call(self.0.as_raw_fd(), std::ptr::from_ref(&storage).cast(), len) })
            .map(|_| ())
    }

    /// Sends one message; false when the socket takes no more now.
    pub fn send(&self, stream: u16, bytes: &[u8]) -> io::Result<bool> {
        let info = SndInfo {
            sid: stream,
            flags: 0,
            ppid: 18u32.to_be(),
            context: 0,
            assoc_id: 0,
        };
        let mut iov = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let mut control = [0u64; 8];
        // SAFETY: all-zero is a valid msghdr.
        let mut msg: libc::msghdr = unsafe { mem::zeroed() };
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.as_mut_ptr().cast();
        let size = u32::try_from(mem::size_of::<SndInfo>()).map_err(io::Error::other)?;
        // SAFETY: CMSG_SPACE only computes.
        msg.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
        // SAFETY: `control` is aligned for cmsghdr and has room for one with SndInfo (32 of 64 bytes).
        unsafe {
            let cmsg = libc::CMSG_FIRSTHDR(&msg);
            (*cmsg).cmsg_level = libc::IPPROTO_SCTP;
            (*cmsg).cmsg_type = SCTP_SNDINFO;
            (*cmsg).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(cmsg)
                .cast::<SndInfo>()
                .write_unaligned(info);
        }
        // SAFETY: every pointer in `msg` lives over the call; sendmsg only reads the data.
        let n = unsafe { libc::sendmsg(self.0.as_raw_fd(), &msg, libc::MSG_NOSIGNAL) };
        if n >= 0 {
            return Ok(true);
        }
        let e = io::Error::last_os_error();
        if e.kind() == io::ErrorKind::WouldBlock {
            Ok(false)
        } else {
            Err(e)
        }
    }

    /// Receives into `buffer`.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut iov = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut control = [0u64; 32];
        // SAFETY: all-zero is a valid msghdr.
        let mut msg: libc::msghdr = unsafe { mem::zeroed() };
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = mem::size_of_val(&control);
        // SAFETY: every pointer in `msg` lives over the call and the lengths are those of the buffers.
        let n = unsafe { libc::recvmsg(self.0.as_raw_fd(), &mut msg, 0) };
        let Ok(len) = usize::try_from(n) else {
            let e = io::Error::last_os_error();
            // A socket with a receive timeout is not restarted behind a stop (signal(7)): EINTR, with or without telecr.
            return if matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) {
                Ok(Received::WouldBlock)
            } else {
                Err(e)
            };
        };
        Ok(if len == 0 {
            Received::Closed
        } else if msg.msg_flags & MSG_NOTIFICATION != 0 {
            Received::Notification { len }
        } else {
            Received::Data {
                len,
                end: msg.msg_flags & libc::MSG_EOR != 0,
            }
        })
    }
}

fn sockaddr(addr: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let base = std::ptr::from_mut(&mut storage);
    let len = match addr.ip() {
        IpAddr::V4(ip) => {
            let sin = libc::sockaddr_in {
                sin_family: AF_INET,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(ip.octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger than sockaddr_in and at least as aligned.
            unsafe { base.cast::<libc::sockaddr_in>().write(sin) };
            mem::size_of::<libc::sockaddr_in>()
        }
        IpAddr::V6(ip) => {
            let sin6 = libc::sockaddr_in6 {
                sin6_family: AF_INET6,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: ip.octets(),
                },
                sin6_scope_id: 0,
            };
            // SAFETY: sockaddr_storage is larger than sockaddr_in6 and at least as aligned.
            unsafe { base.cast::<libc::sockaddr_in6>().write(sin6) };
            mem::size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, libc::socklen_t::try_from(len).unwrap_or(0))
}
