// SPDX-License-Identifier: GPL-2.0-only
//! Thin, safe faces of ptrace. Every call is about one stopped thread of which
//! the calling thread is the tracer.

use std::io;
use std::mem::size_of;
use std::ptr::{null_mut, without_provenance_mut};

use super::arch::Regs;

const PTRACE_EVENT_STOP: i32 = 128;
const PTRACE_LISTEN: libc::c_uint = 0x4208;
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;
const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_O_SUSPEND_SECCOMP: usize = 1 << 21;
const NT_PRSTATUS: usize = 1;

/// Why a traced thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It is gone.
    Gone,
    /// At the entry or exit of a system call.
    Syscall,
    /// Interrupted.
    Event,
    /// Stopped with its whole process.
    Group,
    /// About to end, with all it has still open.
    Exit,
    /// A signal is about to be delivered.
    Signal(i32),
}

fn request(req: libc::c_uint, tid: i32, addr: usize, data: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: callers pass in `data` either a number or a pointer to what the request asks for.
    let ret = unsafe { libc::ptrace(req, tid, without_provenance_mut::<libc::c_void>(addr), data) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn number(n: usize) -> *mut libc::c_void {
    without_provenance_mut(n)
}

/// Becomes the tracer. Seccomp filters are suspended where the kernel can.
pub(crate) fn seize(tid: i32) -> io::Result<()> {
    match request(libc::PTRACE_SEIZE, tid, 0, number(PTRACE_O_SUSPEND_SECCOMP)) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            request(libc::PTRACE_SEIZE, tid, 0, null_mut())
        }
        other => other,
    }
}

/// Becomes the tracer of a thread that is to stop before it ends ([`Stop::Exit`]).
pub(crate) fn seize_until_exit(tid: i32) -> io::Result<()> {
    let options = usize::try_from(libc::PTRACE_O_TRACEEXIT).map_err(io::Error::other)?;
    request(libc::PTRACE_SEIZE, tid, 0, number(options))
}

/// Asks for an [`Stop::Event`] stop.
pub(crate) fn interrupt(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, null_mut())
}

/// Lets the thread run, delivering `signal` unless 0.
pub(crate) fn cont(tid: i32, signal: i32) -> io::Result<()> {
    request(
        libc::PTRACE_CONT,
        tid,
        0,
        number(usize::try_from(signal).unwrap_or(0)),
    )
}

/// Lets the thread run to the next entry or exit of a system call.
pub(crate) fn to_syscall(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, null_mut())
}

/// Leaves the thread stopped with its whole process, until that goes on.
pub(crate) fn listen(tid: i32) -> io::Result<()> {
    request(PTRACE_LISTEN, tid, 0, null_mut())
}

/// Stops being the tracer.
pub(crate) fn detach(tid: i32) -> io::Result<()> {
    request(libc::PTRACE_DETACH, tid, 0, null_mut())
}

/// The thread's registers.
pub(crate) fn regs(tid: i32) -> io::Result<Regs> {
    let mut regs = super::arch::from_words([0; size_of::<Regs>() / 8]);
    let mut iov = libc::iovec {
        iov_base: (&raw mut regs).cast(),
        iov_len: size_of::<Regs>(),
    };
    request(
        libc::PTRACE_GETREGSET,
        tid,
        NT_PRSTATUS,
        (&raw mut iov).cast(),
    )?;
    if iov.iov_len == size_of::<Regs>() {
        Ok(regs)
    } else {
        Err(io::Error::other(
            "the thread is of another processor mode (32-bit programs cannot be carried)",
        ))
    }
}

/// Sets the thread's registers.
pub(crate) fn set_regs(tid: i32, regs: &Regs) -> io::Result<()> {
    let mut regs = *regs;
    let mut iov = libc::iovec {
        iov_base: (&raw mut regs).cast(),
        iov_len: size_of::<Regs>(),
    };
    request(
        libc::PTRACE_SETREGSET,
        tid,
        NT_PRSTATUS,
        (&raw mut iov).cast(),
    )
}

/// The thread's blocked signals.
pub(crate) fn mask(tid: i32) -> io::Result<u64> {
    let mut mask = 0u64;
    request(
        PTRACE_GETSIGMASK,
        tid,
        size_of::<u64>(),
        (&raw mut mask).cast(),
    )?;
    Ok(mask)
}

/// Sets the thread's blocked signals.
pub(crate) fn set_mask(tid: i32, mask: u64) -> io::Result<()> {
    let mut mask = mask;
    request(
        PTRACE_SETSIGMASK,
        tid,
        size_of::<u64>(),
        (&raw mut mask).cast(),
    )
}

/// Writes one word into the process, through protection.
pub(crate) fn poke(tid: i32, addr: u64, word: u64) -> io::Result<()> {
    let addr = usize::try_from(addr).map_err(io::Error::other)?;
    let word = usize::try_from(word).map_err(io::Error::other)?;
    request(libc::PTRACE_POKEDATA, tid, addr, number(word))
}

/// Address of the thread's restartable-sequence area, 0 if it has none.
pub(crate) fn rseq_area(tid: i32) -> u64 {
    let mut config = [0u64; 3];
    // Kernels before 5.13 do not know the request; nor can we know the area then.
    match request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        size_of::<[u64; 3]>(),
        config.as_mut_ptr().cast(),
    ) {
        Ok(()) => config[0],
        Err(_) => 0,
    }
}

/// Sorts a wait status.
fn classify(status: i32) -> Option<Stop> {
    if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
        return Some(Stop::Gone);
    }
    if !libc::WIFSTOPPED(status) {
        return None;
    }
    let signal = libc::WSTOPSIG(status);
    Some(match (status >> 16, signal) {
        (PTRACE_EVENT_STOP, libc::SIGTRAP) => Stop::Event,
        (PTRACE_EVENT_STOP, _) => Stop::Group,
        (libc::PTRACE_EVENT_EXIT, _) => Stop::Exit,
        (0, s) if s & 0x7f == libc::SIGTRAP => Stop::Syscall,
        (0, s) => Stop::Signal(s),
        _ => Stop::Event,
    })
}

/// Waits for the thread to stop.
pub(crate) fn wait(tid: i32) -> io::Result<Stop> {
    loop {
        if let Some(stop) = look(tid, 0)? {
            return Ok(stop);
        }
    }
}

/// Whether the thread has stopped since it was last asked about.
pub(crate) fn stopped(tid: i32) -> io::Result<Option<Stop>> {
    look(tid, libc::WNOHANG)
}

fn look(tid: i32, options: i32) -> io::Result<Option<Stop>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` lives across the call.
        let ret = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | options) };
        if ret > 0 {
            return Ok(classify(status));
        }
        if ret == 0 {
            return Ok(None);
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let stopped = |sig: i32, event: i32| (event << 16) | (sig << 8) | 0x7f;
        assert_eq!(classify(stopped(libc::SIGTRAP, 128)), Some(Stop::Event));
        assert_eq!(classify(stopped(libc::SIGSTOP, 128)), Some(Stop::Group));
        assert_eq!(classify(stopped(libc::SIGTRAP, 6)), Some(Stop::Exit));
        assert_eq!(
            classify(stopped(libc::SIGTRAP | 0x80, 0)),
            Some(Stop::Syscall)
        );
        assert_eq!(
            classify(stopped(libc::SIGSTOP, 0)),
            Some(Stop::Signal(libc::SIGSTOP))
        );
        assert_eq!(classify(9), Some(Stop::Gone));
        assert_eq!(classify(0), Some(Stop::Gone));
    }
}
