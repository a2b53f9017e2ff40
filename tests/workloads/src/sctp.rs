// SPDX-License-Identifier: GPL-2.0-only
//! SCTP sockets of either style.

use std::{
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use crate::{
    sockaddr::sockaddr,
    sys::{check, owned},
};

/// Streams asked for in each direction.
pub const STREAMS: u16 = 10;

const SCTP_INITMSG: libc::c_int = 2;
const SCTP_NODELAY: libc::c_int = 3;
const SCTP_EVENTS: libc::c_int = 11;
const SCTP_RECVRCVINFO: libc::c_int = 32;
const SCTP_SOCKOPT_BINDX_ADD: libc::c_int = 100;
const SCTP_SNDINFO: libc::c_int = 2;
const SCTP_RCVINFO: libc::c_int = 3;
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
        /// Which association it came on.
        assoc: i32,
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

/// Where a socket's associations live (RFC 6458, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A socket each.
    OneToOne,
    /// All on one socket.
    OneToMany,
}

/// An association and the socket it is on.
#[derive(Clone, Debug)]
pub struct Line {
    /// Shared by all associations of a one-to-many socket.
    pub socket: Rc<Socket>,
    /// The association's id; 0 on a one-to-one socket.
    pub id: i32,
}

impl From<Socket> for Line {
    fn from(socket: Socket) -> Self {
        Self {
            socket: Rc::new(socket),
            id: 0,
        }
    }
}

impl Line {
    /// Sends one message; false when the socket takes no more now.
    pub fn send(&self, stream: u16, bytes: &[u8]) -> io::Result<bool> {
        self.socket.send_on(self.id, stream, bytes)
    }
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
    /// A new socket for these addresses, with the options all programs use.
    fn new(addrs: &[SocketAddr], style: Style) -> io::Result<Self> {
        let v6 = addrs.iter().any(SocketAddr::is_ipv6);
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = match style {
            Style::OneToOne => libc::SOCK_STREAM,
            Style::OneToMany => libc::SOCK_SEQPACKET,
        };
        // SAFETY: no pointers are passed.
        let fd =
            owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) })?;
        let socket = Self(fd);
        if v6 {
            let only = i32::from(addrs.iter().all(SocketAddr::is_ipv6));
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &only)?;
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
        Self::new(&[*like], Style::OneToOne)
    }

    /// A bound socket that does not listen.
    pub fn bound(addr: SocketAddr) -> io::Result<Self> {
        let socket = Self::new(&[addr], Style::OneToOne)?;
        socket.bind(addr)?;
        Ok(socket)
    }

    /// Binds the socket.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<()> {
        self.with_addr(addr, libc::bind)
    }

    /// Binds the socket to all of these, which share a port.
    fn bind_all(&self, addrs: &[SocketAddr]) -> io::Result<()> {
        let mut addrs = addrs.iter();
        if let Some(first) = addrs.next() {
            self.bind(*first)?;
        }
        for addr in addrs {
            self.add_addr(*addr)?;
        }
        Ok(())
    }

    /// `sctp_bindx()` of one more address.
    fn add_addr(&self, addr: SocketAddr) -> io::Result<()> {
        let (storage, len) = sockaddr(addr);
        // SAFETY: the kernel reads `len` bytes of `storage`, which holds as many.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_SCTP,
                SCTP_SOCKOPT_BINDX_ADD,
                std::ptr::from_ref(&storage).cast(),
                len,
            )
        })
        .map(|_| ())
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

    /// A non-blocking listener on all of these addresses.
    pub fn listen(addrs: &[SocketAddr], style: Style) -> io::Result<Self> {
        let socket = Self::new(addrs, style)?;
        socket.bind_all(addrs)?;
        // SAFETY: no pointers are passed.
        check(unsafe { libc::listen(socket.0.as_raw_fd(), 128) })?;
        socket.set_nonblocking()?;
        Ok(socket)
    }

    /// A connected, non-blocking socket, bound to all of `from`.
    pub fn connect(from: &[SocketAddr], to: SocketAddr) -> io::Result<Self> {
        let socket = Self::new(from, Style::OneToOne)?;
        socket.bind_all(from)?;
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

    /// Sends one message on a one-to-one socket; false when it takes no more now.
    pub fn send(&self, stream: u16, bytes: &[u8]) -> io::Result<bool> {
        self.send_on(0, stream, bytes)
    }

    /// Sends one message on an association, which a one-to-one socket does not look at.
    fn send_on(&self, assoc_id: i32, stream: u16, bytes: &[u8]) -> io::Result<bool> {
        let info = SndInfo {
            sid: stream,
            flags: 0,
            ppid: 18u32.to_be(),
            context: 0,
            assoc_id,
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
                assoc: assoc_of(&msg),
            }
        })
    }
}

/// The association a message came on, of `struct sctp_rcvinfo` (RFC 6458, section 5.3.5).
fn assoc_of(msg: &libc::msghdr) -> i32 {
    const ASSOC_ID: usize = 24;
    // SAFETY: the kernel has filled in the control messages, and the first, when it is of this type, is 28 bytes long.
    unsafe {
        let cmsg = libc::CMSG_FIRSTHDR(msg);
        if cmsg.is_null()
            || (*cmsg).cmsg_level != libc::IPPROTO_SCTP
            || (*cmsg).cmsg_type != SCTP_RCVINFO
        {
            return 0;
        }
        libc::CMSG_DATA(cmsg)
            .add(ASSOC_ID)
            .cast::<i32>()
            .read_unaligned()
    }
}
