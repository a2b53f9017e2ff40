// SPDX-License-Identifier: GPL-2.0-only
//! epoll, a timer and signals: the little that both programs need from the kernel beside SCTP.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Turns a libc result into an `io::Result`.
pub(crate) fn check(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Takes ownership of a new descriptor.
pub(crate) fn owned(ret: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(ret)?;
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A level-triggered epoll set.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    fn ctl(&self, op: libc::c_int, fd: RawFd, token: u64, write: bool) -> io::Result<()> {
        let events = if write {
            libc::EPOLLIN | libc::EPOLLOUT
        } else {
            libc::EPOLLIN
        };
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        // SAFETY: `event` lives over the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd, &mut event) }).map(|_| ())
    }

    /// Watches `fd`.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.ctl(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), token, false)
    }

    /// Watches `fd` for room to write as well, or no longer.
    pub fn set_write(&self, fd: BorrowedFd<'_>, token: u64, write: bool) -> io::Result<()> {
        self.ctl(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), token, write)
    }

    /// Waits for events and returns their tokens; none when a signal came.
    pub fn wait(&self) -> io::Result<Vec<u64>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the kernel writes at most 64 events into `events`.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 64, -1) };
        match check(n) {
            Ok(n) => Ok(events
                .iter()
                .take(usize::try_from(n).unwrap_or(0))
                .map(|e| e.u64)
                .collect()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

/// A timerfd, not running yet: see [`arm`].
pub fn ticker() -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    owned(unsafe {
        libc::timerfd_create(
            libc::CLOCK_MONOTONIC,
            libc::TFD_NONBLOCK | libc::TFD_CLOEXEC,
        )
    })
}

/// Lets the timer tick once, after this time. No interval: CRIU 4.1.1 dumps an interval timer that has ticked and was
/// not read yet with nothing left to run, and so it stands still after the restore. What is left of one tick survives,
/// on a host with another monotonic clock too.
pub fn arm(fd: BorrowedFd<'_>, after: Duration) -> io::Result<()> {
    let none = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let spec = libc::itimerspec {
        it_interval: none,
        it_value: libc::timespec {
            tv_sec: i64::try_from(after.as_secs()).map_err(io::Error::other)?,
            tv_nsec: i64::from(after.subsec_nanos()),
        },
    };
    // SAFETY: `spec` lives over the call, the old value is not asked for.
    check(unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &spec, std::ptr::null_mut()) })?;
    Ok(())
}

/// Takes the tick that has passed; false when there was none.
pub fn ticked(fd: BorrowedFd<'_>) -> bool {
    let mut count = [0u8; 8];
    // SAFETY: eight bytes are read into an array of eight.
    unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), 8) == 8 }
}

static SNAPSHOT: AtomicBool = AtomicBool::new(false);
static SETTLE: AtomicBool = AtomicBool::new(false);
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(signal: libc::c_int) {
    match signal {
        libc::SIGUSR1 => SNAPSHOT.store(true, Ordering::Relaxed),
        libc::SIGUSR2 => SETTLE.store(true, Ordering::Relaxed),
        _ => STOP.store(true, Ordering::Relaxed),
    }
}

/// What signals asked for since the last look.
#[derive(Debug)]
pub struct Asked {
    /// SIGUSR1: write a snapshot.
    pub snapshot: bool,
    /// SIGUSR2: stop sending and agree on the totals.
    pub settle: bool,
    /// SIGTERM or SIGINT: end.
    pub stop: bool,
}

/// Installs the handlers.
pub fn handle_signals() -> io::Result<()> {
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM, libc::SIGINT] {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as *const () as usize;
        // SAFETY: the handler only stores to atomics, and `action` lives over the call.
        check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    }
    Ok(())
}

/// Takes what was asked for.
pub fn asked() -> Asked {
    Asked {
        snapshot: SNAPSHOT.swap(false, Ordering::Relaxed),
        settle: SETTLE.swap(false, Ordering::Relaxed),
        stop: STOP.load(Ordering::Relaxed),
    }
}

/// The ends of a unix socket that an SCTP socket is in flight through.
pub fn in_flight() -> io::Result<[OwnedFd; 2]> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two descriptors into `ends`.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    let ends = [owned(ends[0])?, owned(ends[1])?];
    // SAFETY: no pointers are passed.
    let cargo = owned(unsafe {
        libc::socket(
            libc::AF_INET,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
            libc::IPPROTO_SCTP,
        )
    })?;
    let mut byte = [1u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0usize; 8];
    // SAFETY: all-zero is a valid msghdr, and `control` has room for one descriptor and is aligned for its header.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header)
            .cast::<RawFd>()
            .write(cargo.as_raw_fd());
        if libc::sendmsg(ends[0].as_raw_fd(), &raw const message, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(ends)
}
