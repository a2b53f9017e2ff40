// SPDX-License-Identifier: GPL-2.0-only
//! The guard: a small process that outlives CRIU and leaves no socket frozen
//! in a living task, whatever became of CRIU.
//!
//! It is forked before the first exchange and so holds copies of everything in
//! the plan. It is no child of CRIU (CRIU waits for *any* child when it kills
//! the tasks), holds none of its descriptors (podman waits for the RPC socket
//! to close), and is in a session of its own.
//!
//! It traces CRIU, whose end waits until the guard has laid traps for the tasks'
//! threads ([`Tether`]). Where it cannot, because of `strace` say, it notices
//! CRIU's death through the end of a socket pair, which the kernel closes just
//! before it lets the traced tasks run, and at real-time priority it mostly is
//! faster than they are.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, AssertUnwindSafe};

use super::error::{Context, Result};
use super::journal::{Journal, Phase};
use super::scan::Plan;
use super::snapshot::{Snapshot, Traps};
use super::tether::Tether;
use super::{departed, logger, names, rescue, sys};

/// How sockets of a kind are frozen and thawed.
pub(crate) trait Ice {
    /// Freezes a socket, or refuses and leaves it as it was.
    fn freeze(&mut self, socket: BorrowedFd<'_>) -> Result<()>;
    /// Thaws a socket; `wake` when it was frozen long enough to lose packets.
    fn thaw(&mut self, socket: BorrowedFd<'_>, wake: bool) -> Result<()>;
}

/// Opens the way to freeze and thaw. The guard has one of its own.
pub(crate) type OpenIce = fn() -> Result<Box<dyn Ice>>;

/// The guard watches.
const READY: u8 = b'r';
/// The same, but it does not trace CRIU.
const UNTIED: u8 = b'u';

/// CRIU's handle on the guard. Dropping it tells the guard to look again.
pub(crate) struct Guard {
    line: UnixStream,
}

/// What the guard was told at its birth.
pub(crate) struct Orders<'a> {
    /// Everything that was found.
    pub plan: &'a Plan,
    /// What the threads were doing.
    pub snapshot: &'a Snapshot,
    /// How far CRIU is.
    pub journal: &'a Journal,
    /// How to thaw.
    pub ice: OpenIce,
    /// CRIU means to leave the tasks stopped: a stopped task is then no living
    /// one yet, for it may still be killed and restored elsewhere.
    pub stays_stopped: bool,
}

impl Guard {
    /// Forks the guard and waits until it watches.
    pub(crate) fn start(orders: &Orders<'_>) -> Result<Self> {
        let (mut line, theirs) = UnixStream::pair().doing(|| "cannot make a socket pair")?;
        let criu = sys::pidfd_open(sys::my_pid()).doing(|| "cannot open our own process")?;
        let criu_pid = sys::my_pid();
        sys::fork_orphan(|| {
            let run = || stand_guard(orders, &theirs, &criu, criu_pid);
            // An unwinding panic must not reach CRIU's frames, not even in a copy of them.
            let _ = catch_unwind(AssertUnwindSafe(run));
        })
        .doing(|| "cannot fork the guard")?;
        drop(theirs);
        let mut word = [0];
        line.read_exact(&mut word)
            .doing(|| "the guard ended before it was ready")?;
        if word == [UNTIED] {
            log::warn!(
                "telecr's guard cannot trace CRIU, so that a kill -9 of CRIU may end the program; \
                 is CRIU run under strace or a debugger?"
            );
        }
        Ok(Guard { line })
    }

    /// Makes the guard look at the journal, and waits until it has let go of CRIU.
    pub(crate) fn nudge(&mut self) -> Result<()> {
        let mut seen = [0];
        self.line
            .write_all(b"n")
            .and_then(|()| self.line.read_exact(&mut seen))
            .doing(|| "the guard is gone")
    }
}

/// The guard's life, after the fork.
fn stand_guard(orders: &Orders<'_>, line: &UnixStream, criu: &OwnedFd, criu_pid: i32) {
    logger::leave_criu();
    if let Err(e) = settle(orders.plan, line, criu) {
        log::error!("the guard cannot settle: {e}");
        return;
    }
    let tied = Tether::tie(criu_pid);
    let word = if tied.is_ok() { READY } else { UNTIED };
    let mut tether = tied
        .inspect_err(|e| log::warn!("cannot trace CRIU: {e}"))
        .ok();
    // The other end is CRIU's alone now: `settle` has closed our copy.
    if (&*line).write_all(&[word]).is_err() {
        return;
    }
    let held = wait_for_work(orders, line, criu, tether.as_mut());
    let phase = orders.journal.phase();
    if phase == Phase::Cancelled {
        return;
    }
    let mut traps = Traps::default();
    if let Some(tether) = tether {
        if held && phase == Phase::Working {
            traps = orders.snapshot.lay_traps();
        }
        tether.release(held);
    }
    if phase == Phase::Working {
        rescue::rescue(orders, criu, &traps);
        return;
    }
    // CRIU may be gone.
    let _ = (&*line).write_all(b"s");
    rescue::watch(orders, criu_pid, criu);
    departed::hold(orders.plan);
}

/// Returns when CRIU is gone, or has said that it needs no watching any more, or
/// with `true` when it is held at its end.
fn wait_for_work(
    orders: &Orders<'_>,
    line: &UnixStream,
    criu: &OwnedFd,
    mut tether: Option<&mut Tether>,
) -> bool {
    while orders.journal.phase() == Phase::Working {
        let mut lines = vec![line.as_fd(), criu.as_fd()];
        lines.extend(tether.as_deref().map(Tether::news));
        let Ok(ready) = sys::wait_readable(&lines, -1) else {
            return false;
        };
        if let (Some(tether), Some(true)) = (&mut tether, ready.get(2)) {
            match tether.serve() {
                Ok(false) => {}
                Ok(true) => return true,
                Err(_) => return false,
            }
        }
        if ready.get(1) == Some(&true) {
            return false;
        }
        let mut byte = [0];
        if ready.first() == Some(&true) && !matches!((&*line).read(&mut byte), Ok(1)) {
            return false;
        }
    }
    false
}

/// Lets go of everything that is CRIU's.
fn settle(plan: &Plan, line: &UnixStream, criu: &OwnedFd) -> Result<()> {
    let mut keep = vec![line.as_raw_fd(), criu.as_raw_fd()];
    for socket in &plan.sockets {
        keep.extend([socket.file.as_raw_fd(), socket.placeholder.as_raw_fd()]);
    }
    keep.extend(plan.tasks.iter().map(|t| t.pidfd.as_raw_fd()));
    keep.extend(plan.sets.iter().map(|s| s.file.as_raw_fd()));
    detach(keep)
}

/// Makes a process of its own of a fork of CRIU, with nothing but the
/// descriptors in `keep`.
pub(crate) fn detach(keep: Vec<RawFd>) -> Result<()> {
    sys::own_session(names::GUARD).doing(|| "cannot leave CRIU's session")?;
    rename_command_line();
    sys::close_all_but(keep).doing(|| "cannot close CRIU's descriptors")?;
    null_stdio().doing(|| "cannot open /dev/null")?;
    std::env::set_current_dir("/").doing(|| "cannot leave CRIU's directory")
}

/// The three standard numbers name `/dev/null`, unless one of ours is there.
fn null_stdio() -> io::Result<()> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        if file.as_raw_fd() > 2 {
            return Ok(());
        }
        // Stays open for good.
        let _: RawFd = std::os::fd::IntoRawFd::into_raw_fd(file);
    }
}

/// Overwrites the arguments inherited from CRIU, so that `pkill -f criu` does
/// not take the guard along. Best effort.
fn rename_command_line() {
    let write = || -> io::Result<()> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let Some((start, end)) = argument_area(&stat) else {
            return Ok(());
        };
        let len = usize::try_from(end.saturating_sub(start))
            .unwrap_or(0)
            .min(1 << 20);
        let mut text = vec![0u8; len];
        for (to, from) in text.iter_mut().zip(names::GUARD.bytes()) {
            *to = from;
        }
        File::options()
            .write(true)
            .open("/proc/self/mem")?
            .write_all_at(&text, start)
    };
    if let Err(e) = write() {
        log::debug!("the guard keeps CRIU's command line: {e}");
    }
}

/// Where the arguments lie, from `/proc/self/stat` (fields 48 and 49).
fn argument_area(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(45);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Tells the guard that there is nothing to do, whatever happens next.
pub(crate) fn dismiss(guard: Guard, journal: &Journal) {
    journal.set_phase(Phase::Cancelled);
    drop(guard);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_found_in_stat() {
        let mut stat = "1 (a ) b) S".to_string();
        for n in 4..60 {
            stat.push_str(&format!(" {n}"));
        }
        assert_eq!(argument_area(&stat), Some((48, 49)));
        assert_eq!(argument_area("x"), None);
    }
}
