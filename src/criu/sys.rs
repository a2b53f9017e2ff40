// SPDX-License-Identifier: GPL-2.0-only
//! Thin, safe faces of the system calls that neither `std` nor `nix` offers.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// `KCMP_FILE`: do two descriptors name the same open file?
const KCMP_FILE: libc::c_int = 0;
/// `UFFD_USER_MODE_ONLY`: needs no privilege.
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
/// `UFFD_API` and the ioctl that agrees on it.
const UFFD_API: u64 = 0xaa;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// Most descriptors the kernel takes in one message (`SCM_MAX_FD`).
pub(crate) const SCM_MAX_FD: usize = 253;

fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Takes a descriptor fresh from the kernel.
fn own(ret: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(ret)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A handle on a process that never names another one.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A copy of descriptor `fd` of another process, close-on-exec.
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}

/// Whether two descriptors, each of some process, name the same open file.
pub(crate) fn same_file(a: (i32, RawFd), b: (i32, RawFd)) -> io::Result<bool> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, KCMP_FILE, a.1, b.1) };
    Ok(check(ret)? == 0)
}

/// Our own process id.
pub(crate) fn my_pid() -> i32 {
    // SAFETY: always succeeds.
    unsafe { libc::getpid() }
}

/// Device and inode of an open file. The device is in the kernel's own
/// encoding, which is what `fdinfo` prints.
pub(crate) fn file_id(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    // SAFETY: all zeroes is a valid `stat`.
    let mut st: libc::stat = unsafe { zeroed() };
    // SAFETY: `st` lives across the call.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut st) }.into())?;
    let dev = (u64::from(libc::major(st.st_dev)) << 20) | u64::from(libc::minor(st.st_dev));
    Ok((dev, st.st_ino))
}

/// A userfaultfd that never becomes ready: it has agreed on its interface and
/// is non-blocking, so that `poll` sees neither events nor an error.
pub(crate) fn userfaultfd() -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: no pointers are passed.
    let fd = own(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
    let mut api: [u64; 3] = [UFFD_API, 0, 0];
    // SAFETY: `struct uffdio_api` is three 64-bit words.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) }.into())?;
    Ok(fd)
}

/// `struct f_owner_ex`.
#[repr(C)]
struct OwnerEx {
    kind: libc::c_int,
    pid: libc::pid_t,
}

/// Copies who is signalled about a file (`F_SETOWN`) and how (`F_SETSIG`).
pub(crate) fn copy_owner(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    const F_SETSIG: libc::c_int = 10;
    const F_GETSIG: libc::c_int = 11;
    const F_SETOWN_EX: libc::c_int = 15;
    const F_GETOWN_EX: libc::c_int = 16;
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: takes and returns plain integers.
    let sig = check(unsafe { libc::fcntl(from, F_GETSIG) }.into())?;
    if sig != 0 {
        // SAFETY: takes plain integers.
        check(unsafe { libc::fcntl(to, F_SETSIG, sig) }.into())?;
    }
    let mut owner = OwnerEx { kind: 0, pid: 0 };
    // SAFETY: `owner` has the kernel's layout and lives across both calls.
    check(unsafe { libc::fcntl(from, F_GETOWN_EX, &raw mut owner) }.into())?;
    if owner.pid != 0 {
        // SAFETY: as above.
        check(unsafe { libc::fcntl(to, F_SETOWN_EX, &raw const owner) }.into())?;
    }
    Ok(())
}

/// Sends open files as one datagram. At most [`SCM_MAX_FD`] of them.
pub(crate) fn send_fds(socket: BorrowedFd<'_>, fds: &[RawFd]) -> io::Result<()> {
    use std::io::IoSlice;
    let fds = fds.get(..fds.len().min(SCM_MAX_FD)).unwrap_or_default();
    let cmsg = [nix::sys::socket::ControlMessage::ScmRights(fds)];
    let sent = nix::sys::socket::sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"t")],
        &cmsg,
        nix::sys::socket::MsgFlags::MSG_NOSIGNAL,
        None,
    );
    sent.map(drop).map_err(io::Error::from)
}

/// Every file a queued message of unix socket `socket` carries, by peeking.
/// Only the first message is seen, which is enough to warn early.
pub(crate) fn peek_fds(socket: BorrowedFd<'_>) -> Vec<OwnedFd> {
    use nix::sys::socket::{recvmsg, ControlMessageOwned, MsgFlags, UnixAddr};
    let mut byte = [0u8; 1];
    let mut iov = [std::io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; SCM_MAX_FD]);
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut found = Vec::new();
    let Ok(msg) = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags) else {
        return found;
    };
    let Ok(cmsgs) = msg.cmsgs() else { return found };
    for cmsg in cmsgs {
        if let ControlMessageOwned::ScmRights(fds) = cmsg {
            for fd in fds {
                // SAFETY: the kernel has just installed these for us.
                found.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    found
}

/// A descriptor-table operation on a watch of an epoll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpollOp {
    /// Add a watch with these events and this data.
    Add {
        /// The events asked for.
        events: u32,
        /// What the application gets back.
        data: u64,
    },
    /// Remove the watch.
    Del,
}

/// `epoll_ctl`. `target` is a bare number: it is half of the kernel's key.
pub(crate) fn epoll_ctl(set: RawFd, target: RawFd, op: EpollOp) -> io::Result<()> {
    let (code, events, data) = match op {
        EpollOp::Add { events, data } => (libc::EPOLL_CTL_ADD, events, data),
        EpollOp::Del => (libc::EPOLL_CTL_DEL, 0, 0),
    };
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: `event` lives across the call.
    check(unsafe { libc::epoll_ctl(set, code, target, &raw mut event) }.into()).map(drop)
}

/// Gives the calling thread a descriptor table of its own.
pub(crate) fn unshare_files() -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::unshare(libc::CLONE_FILES) }.into()).map(drop)
}

/// Puts a copy of `fd` at the lowest free number from `base` on.
pub(crate) fn dup_above(fd: RawFd, base: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    own(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, base) }.into())
}

/// Puts a copy of `fd` at number `at` for as long as `work` runs, in a table
/// that nobody else uses (see [`unshare_files`]).
pub(crate) fn with_fd_at<T>(fd: RawFd, at: RawFd, work: impl FnOnce() -> T) -> io::Result<T> {
    // SAFETY: no pointers are passed; the caller's table is private to this thread.
    check(unsafe { libc::dup3(fd, at, libc::O_CLOEXEC) }.into())?;
    let out = work();
    // SAFETY: `at` was made above.
    check(unsafe { libc::close(at) }.into())?;
    Ok(out)
}

/// Creates a file in a directory; one that is there is emptied.
pub(crate) fn create_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags =
        OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(nix::fcntl::openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
}

/// Opens a file in a directory for reading.
pub(crate) fn open_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(dir, name, flags, Mode::empty())?.into())
}

/// Renames a file within a directory.
pub(crate) fn rename_at(dir: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    Ok(nix::fcntl::renameat(dir, from, dir, to)?)
}

/// Removes a file of a directory; it may not be there.
pub(crate) fn remove_at(dir: BorrowedFd<'_>, name: &str) {
    let _ = nix::unistd::unlinkat(dir, name, nix::unistd::UnlinkatFlags::NoRemoveDir);
}

/// The open-file limit of a process; sets a new one if given.
pub(crate) fn file_limit(pid: i32, new: Option<&libc::rlimit64>) -> io::Result<libc::rlimit64> {
    let mut old = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `new` is null or a limit that lives across the call, as does `old`.
    check(unsafe { libc::prlimit64(pid, libc::RLIMIT_NOFILE, new, &raw mut old) }.into())?;
    Ok(old)
}

/// Enters the network namespace of a process, for the calling thread only.
pub(crate) fn enter_netns(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::setns(pidfd.as_raw_fd(), libc::CLONE_NEWNET) }.into()).map(drop)
}

/// Runs `work` in a process that is nobody's child: CRIU neither sees it end nor
/// gets a SIGCHLD, and it goes to the nearest reaper. `work`'s process ends
/// after it without running CRIU's exit handlers.
pub(crate) fn fork_orphan(work: impl FnOnce()) -> io::Result<()> {
    // The middle process is made without an exit signal, so that CRIU's handlers stay quiet.
    // SAFETY: like fork: no shared memory, no new stack. The process has one thread here.
    let middle = check(unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) })?;
    if middle == 0 {
        // SAFETY: plain fork; this child runs `work` on a copy of all memory.
        let status = match unsafe { libc::fork() } {
            0 => {
                work();
                0
            }
            n => i32::from(n < 0),
        };
        // SAFETY: ends this process at once, without handlers or destructors.
        unsafe { libc::_exit(status) };
    }
    let middle = libc::pid_t::try_from(middle).map_err(io::Error::other)?;
    loop {
        let mut status = 0;
        // SAFETY: `status` lives across the call.
        match check(unsafe { libc::waitpid(middle, &raw mut status, libc::__WALL) }.into()) {
            Ok(_) if status == 0 => return Ok(()),
            Ok(_) => return Err(io::Error::other("the second fork failed")),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Makes this process a quiet one of its own: session, name, no signals,
/// real-time priority where allowed.
pub(crate) fn own_session(name: &str) -> io::Result<()> {
    // SAFETY: `set` is filled before use; the rest are plain integers.
    unsafe {
        check(libc::setsid().into())?;
        let mut set: libc::sigset_t = zeroed();
        libc::sigfillset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()).into())?;
        // CRIU's handler may not want to be told of stops.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let param = libc::sched_param { sched_priority: 1 };
        // May be forbidden; the guard is then merely slower.
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param);
    }
    let mut comm = [0u8; 16];
    for (to, from) in comm.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: `comm` is a terminated string that lives across the call.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, comm.as_ptr()) }.into()).map(drop)
}

/// SIGTERM ends this process, as it would an ordinary one.
pub(crate) fn let_sigterm_end_us() {
    // SAFETY: `set` is filled before use; the default action needs no handler.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
        let mut set: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Back to ordinary priority, for work that may take long.
pub(crate) fn ordinary_priority() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` lives across the call. Failure leaves the priority as it is.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const param) };
}

/// Closes every descriptor except these.
pub(crate) fn close_all_but(mut keep: Vec<RawFd>) -> io::Result<()> {
    keep.sort_unstable();
    keep.dedup();
    let close = |first: RawFd, last: libc::c_uint| -> io::Result<()> {
        let first = libc::c_uint::try_from(first).map_err(io::Error::other)?;
        if first > last {
            return Ok(());
        }
        // SAFETY: the caller gives up all descriptors but `keep`.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
    };
    let mut first = 0;
    for fd in keep {
        if let Some(last) = fd
            .checked_sub(1)
            .and_then(|l| libc::c_uint::try_from(l).ok())
        {
            close(first, last)?;
        }
        first = fd.saturating_add(1);
    }
    close(first, libc::c_uint::MAX)
}

/// Holds SIGCHLD back from the calling thread while `work` runs, so that no
/// handler of CRIU's collects the stops we wait for.
pub(crate) fn without_sigchld<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: both sets are initialised before use.
    let old = unsafe {
        let mut set: libc::sigset_t = zeroed();
        let mut old: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut old);
        old
    };
    let out = work();
    // SAFETY: `old` is the mask read above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
    out
}

/// Waits until one of `fds` can be read or has hung up, or the time is over.
/// Answers which ones.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let mut polls: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let len = libc::nfds_t::try_from(polls.len()).map_err(io::Error::other)?;
    // SAFETY: `polls` has `len` entries and lives across the call.
    let ret = unsafe { libc::poll(polls.as_mut_ptr(), len, timeout_ms) };
    match check(ret.into()) {
        Ok(_) => Ok(polls.iter().map(|p| p.revents != 0).collect()),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(vec![false; fds.len()]),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_placeholder_never_becomes_ready() {
        let Ok(uffd) = userfaultfd() else { return };
        assert_eq!(wait_readable(&[uffd.as_fd()], 0).ok(), Some(vec![false]));
        assert_eq!(
            super::super::sockets::protocol(uffd.as_fd()).ok(),
            Some(None)
        );
    }

    #[test]
    fn same_file_tells_copies_from_strangers() {
        let (Ok(a), Ok(b)) = (
            std::fs::File::open("/dev/null"),
            std::fs::File::open("/dev/null"),
        ) else {
            return;
        };
        let Ok(copy) = a.try_clone() else { return };
        let me = my_pid();
        assert_eq!(
            same_file((me, a.as_raw_fd()), (me, copy.as_raw_fd())).ok(),
            Some(true)
        );
        assert_eq!(
            same_file((me, a.as_raw_fd()), (me, b.as_raw_fd())).ok(),
            Some(false)
        );
    }
}
