// SPDX-License-Identifier: GPL-2.0-only
//! The guard traces CRIU, so that CRIU's end waits for it.
//!
//! A process that is killed closes its files, and only then lets go of the
//! tasks it traces. What CRIU has put into a task sees its socket closed, takes
//! itself away, and the program runs on, with placeholders, before anybody else
//! can be its tracer. A traced process stops at `PTRACE_EVENT_EXIT` first
//! (ptrace(2)), when none of that has happened yet.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::ptrace::{self, Stop};

/// CRIU's thread that traces the tasks, traced.
pub(crate) struct Tether {
    tid: i32,
    /// Readable when CRIU has stopped.
    news: SignalFd,
}

impl Tether {
    /// Begins to trace a thread of CRIU's. All signals of ours are blocked.
    ///
    /// # Errors
    /// Somebody else traces CRIU, such as `strace`.
    pub(crate) fn tie(tid: i32) -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        let news = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        ptrace::seize_until_exit(tid)?;
        Ok(Tether { tid, news })
    }

    /// Readable when [`serve`](Self::serve) is to be called.
    pub(crate) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Lets CRIU go on wherever it has stopped, but for its end. Answers whether
    /// it is at that.
    pub(crate) fn serve(&mut self) -> io::Result<bool> {
        while self.news.read_signal()?.is_some() {}
        while let Some(stop) = ptrace::stopped(self.tid)? {
            match stop {
                Stop::Exit => return Ok(true),
                Stop::Gone => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
                Stop::Signal(signal) => ptrace::cont(self.tid, signal)?,
                Stop::Group => ptrace::listen(self.tid)?,
                Stop::Event | Stop::Syscall => ptrace::cont(self.tid, 0)?,
            }
        }
        Ok(false)
    }

    /// Lets go of CRIU, which runs on. One that is `held` at its end comes to it:
    /// it traces nobody any more when this returns.
    pub(crate) fn release(self, held: bool) {
        // At its end it may have been killed once more, and go on already.
        let asked = if held {
            ptrace::cont(self.tid, 0).or(Ok(()))
        } else {
            ptrace::interrupt(self.tid)
        };
        let mut going = asked.is_ok();
        while going {
            going = match ptrace::wait(self.tid) {
                Ok(Stop::Gone) | Err(_) => false,
                Ok(Stop::Signal(signal)) => ptrace::cont(self.tid, signal).is_ok(),
                Ok(_) if held => ptrace::cont(self.tid, 0).is_ok(),
                Ok(_) => {
                    let _ = ptrace::detach(self.tid);
                    false
                }
            };
        }
    }
}
