// SPDX-License-Identifier: GPL-2.0-only
//! The exchange of sockets for placeholders in stopped tasks, and back.
//!
//! A task cannot be given a descriptor from outside, so its main thread is made
//! to take it: a socket pair, one end of which we copy out, a `recvmsg` for the
//! files we send through it, and a `dup3` for each onto its number.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use super::epoll::{self, Way};
use super::error::{Context, Error, Result};
use super::inject::Injector;
use super::journal::Journal;
use super::proc;
use super::scan::{Plan, Slot, Task};
use super::sys;

/// Files sent to a task at a time.
const BATCH: usize = 128;
/// The scratch page in the task and what lies where in it.
const PAGE: u64 = 4096;
const MSG: u64 = 64;
const IOVEC: u64 = 128;
const BYTE: u64 = 160;
const CONTROL: u64 = 256;
/// Size of `struct cmsghdr`.
const CMSG_HEADER: usize = 16;

/// Puts placeholders in the place of all sockets of the plan.
pub(crate) fn to_placeholders(plan: &Plan, journal: &Journal) -> Result<()> {
    epoll::move_watches(plan, Way::ToPlaceholders)?;
    for task in plan.tasks.iter().filter(|t| !t.slots.is_empty()) {
        install(
            task,
            &task.slots,
            |s| Some(plan.sockets.get(s.socket)?.placeholder.as_raw_fd()),
            journal,
        )?;
    }
    Ok(())
}

/// Puts the sockets back wherever placeholders are, in `tasks` of the plan.
/// Goes on after a failure and reports the first.
pub(crate) fn to_sockets<'p>(
    plan: &'p Plan,
    tasks: impl Iterator<Item = &'p Task>,
    journal: &Journal,
) -> Result<()> {
    let mut result = Ok(());
    for task in tasks.filter(|t| !t.slots.is_empty()) {
        result = result.and(task_to_sockets(plan, task, journal));
    }
    result.and(epoll::move_watches(plan, Way::ToSockets))
}

fn task_to_sockets(plan: &Plan, task: &Task, journal: &Journal) -> Result<()> {
    let mut slots = Vec::new();
    for slot in &task.slots {
        let Some(socket) = plan.sockets.get(slot.socket) else {
            continue;
        };
        let ours = (sys::my_pid(), socket.placeholder.as_raw_fd());
        match sys::same_file((task.pid, slot.fd), ours) {
            Ok(true) => slots.push(*slot),
            // Not exchanged, or back already, or closed.
            Ok(false) => {}
            Err(e) if e.raw_os_error() == Some(libc::EBADF) => {}
            Err(e) => {
                return Err(e)
                    .doing(|| format!("cannot look at descriptor {} of {}", slot.fd, task.pid))
            }
        }
    }
    if slots.is_empty() {
        return Ok(());
    }
    install(
        task,
        &slots,
        |s| Some(plan.sockets.get(s.socket)?.file.as_raw_fd()),
        journal,
    )
}

/// Makes the task hold `file_of(slot)` at the number of each slot.
fn install(
    task: &Task,
    slots: &[Slot],
    file_of: impl Fn(&Slot) -> Option<RawFd>,
    journal: &Journal,
) -> Result<()> {
    let limit = make_room(task)?;
    let done = Injector::start(task.pid, journal).and_then(|mut injector| {
        let done = with_scratch(&mut injector, task, slots, &file_of);
        // Whatever happened, the thread gets its own state back.
        let finished = injector.finish();
        done.and(finished)
    });
    let limited = limit.map_or(Ok(()), |limit| set_limit(task.pid, &limit));
    done.and(limited)
}

fn with_scratch(
    inj: &mut Injector<'_>,
    task: &Task,
    slots: &[Slot],
    file_of: &impl Fn(&Slot) -> Option<RawFd>,
) -> Result<()> {
    let prot = u64::try_from(libc::PROT_READ | libc::PROT_WRITE).unwrap_or(0);
    let flags = u64::try_from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap_or(0);
    let page = inj.call("mmap", libc::SYS_mmap, [0, PAGE, prot, flags, u64::MAX, 0])?;
    inj.journal().set_scratch(page);
    let done = with_pair(inj, task, page, slots, file_of);
    let unmapped = inj.call("munmap", libc::SYS_munmap, [page, PAGE, 0, 0, 0, 0]);
    inj.journal().set_scratch(0);
    done.and(unmapped.map(drop))
}

fn with_pair(
    inj: &mut Injector<'_>,
    task: &Task,
    page: u64,
    slots: &[Slot],
    file_of: &impl Fn(&Slot) -> Option<RawFd>,
) -> Result<()> {
    let kind = word(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
    inj.call(
        "socketpair",
        libc::SYS_socketpair,
        [word(libc::AF_UNIX), kind, 0, page, 0, 0],
    )?;
    let mut raw = [0u8; 8];
    inj.read(&mut raw, page)?;
    let [a, b] = [0, 4].map(|at| {
        raw.get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map_or(-1, i32::from_ne_bytes)
    });
    inj.journal().set_sockets([a, b]);
    let done = transfer(inj, task, page, (a, b), slots, file_of);
    let closed = close(inj, a).and(close(inj, b));
    inj.journal().set_sockets([-1, -1]);
    done.and(closed)
}

fn transfer(
    inj: &mut Injector<'_>,
    task: &Task,
    page: u64,
    pair: (RawFd, RawFd),
    slots: &[Slot],
    file_of: &impl Fn(&Slot) -> Option<RawFd>,
) -> Result<()> {
    let ours: OwnedFd = sys::pidfd_getfd(task.pidfd.as_fd(), pair.0)
        .doing(|| format!("cannot take a descriptor of {}", task.pid))?;
    for batch in slots.chunks(BATCH) {
        let files: Vec<RawFd> = batch.iter().filter_map(file_of).collect();
        if files.len() != batch.len() {
            return Err(Error::Other(
                "a descriptor names a socket that is not in the plan".into(),
            ));
        }
        sys::send_fds(ours.as_fd(), &files)
            .doing(|| format!("cannot send files to process {}", task.pid))?;
        let received = receive(inj, page, pair.1, files.len())?;
        let mut result = Ok(());
        for (slot, &fd) in batch.iter().zip(&received) {
            if result.is_ok() {
                let flags = word(if slot.cloexec { libc::O_CLOEXEC } else { 0 });
                result = inj
                    .call(
                        "dup3",
                        libc::SYS_dup3,
                        [word(fd), word(slot.fd), flags, 0, 0, 0],
                    )
                    .map(drop);
            }
        }
        for (first, last) in runs(&received) {
            result = result.and(close_range(inj, first, last));
        }
        result?;
        if received.len() != batch.len() {
            return Err(Error::Other(format!(
                "process {} could not take {} more descriptors; raise its open-file limit",
                task.pid,
                batch.len()
            )));
        }
    }
    Ok(())
}

/// Runs of consecutive numbers, as `recvmsg` gives them where they are free.
fn runs(fds: &[RawFd]) -> Vec<(RawFd, RawFd)> {
    let mut runs: Vec<(RawFd, RawFd)> = Vec::new();
    for &fd in fds {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(fd) => *last = fd,
            _ => runs.push((fd, fd)),
        }
    }
    runs
}

fn close_range(inj: &mut Injector<'_>, first: RawFd, last: RawFd) -> Result<()> {
    let args = [word(first), word(last), 0, 0, 0, 0];
    inj.call("close_range", libc::SYS_close_range, args)
        .map(drop)
}

/// Makes the task receive one message, and answers the numbers it got.
fn receive(inj: &mut Injector<'_>, page: u64, socket: RawFd, files: usize) -> Result<Vec<RawFd>> {
    let space = (CMSG_HEADER + files * 4).next_multiple_of(8);
    let iovec: [u64; 2] = [page + BYTE, 8];
    // struct msghdr: name, its length, iovec, how many, control, its length, flags.
    let msg: [u64; 7] = [0, 0, page + IOVEC, 1, page + CONTROL, space as u64, 0];
    inj.write(&bytes(&iovec), page + IOVEC)?;
    inj.write(&bytes(&msg), page + MSG)?;
    let flags = word(libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT);
    inj.call(
        "recvmsg",
        libc::SYS_recvmsg,
        [word(socket), page + MSG, flags, 0, 0, 0],
    )?;
    let mut control = vec![0u8; space];
    inj.read(&mut control, page + CONTROL)?;
    Ok(rights(&control))
}

/// The descriptors in a control message.
fn rights(control: &[u8]) -> Vec<RawFd> {
    let len = control
        .get(..8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, usize::from_ne_bytes);
    let kind = [libc::SOL_SOCKET, libc::SCM_RIGHTS];
    let found = control.get(8..CMSG_HEADER).map(ints).unwrap_or_default();
    if found != kind {
        return Vec::new();
    }
    control
        .get(CMSG_HEADER..len.min(control.len()))
        .map(ints)
        .unwrap_or_default()
}

fn ints(raw: &[u8]) -> Vec<i32> {
    raw.chunks_exact(4)
        .filter_map(|c| Some(i32::from_ne_bytes(c.try_into().ok()?)))
        .collect()
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// A C `int` as a system call's argument.
fn word(n: i32) -> u64 {
    i64::from(n) as u64
}

fn close(inj: &mut Injector<'_>, fd: RawFd) -> Result<()> {
    inj.call("close", libc::SYS_close, [word(fd), 0, 0, 0, 0, 0])
        .map(drop)
}

/// Cleans up what an exchange cut short left in a task: the scratch page, the
/// socket pair, and copies of our files at numbers where none were. The journal
/// is the one CRIU's death left open; `fresh` is for the work itself.
pub(crate) fn clean_up(plan: &Plan, task: &Task, left: &Journal, fresh: &Journal) -> Result<()> {
    let mine: HashSet<RawFd> = task.slots.iter().map(|s| s.fd).collect();
    let pair = left.sockets();
    let mut surplus = Vec::new();
    let listed = proc::descriptors(task.pid)
        .doing(|| format!("cannot list the descriptors of {}", task.pid))?;
    for (fd, link) in listed {
        let leftover = if link.starts_with("socket:[") {
            pair.contains(&fd) || !mine.contains(&fd) && is_ours(plan, task, fd, |s| &s.file)
        } else {
            link == "anon_inode:[userfaultfd]"
                && !mine.contains(&fd)
                && is_ours(plan, task, fd, |s| &s.placeholder)
        };
        if leftover {
            surplus.push(fd);
        }
    }
    let mut inj = Injector::start(task.pid, fresh)?;
    let mut result = Ok(());
    for fd in surplus {
        result = result.and(close(&mut inj, fd));
    }
    if left.scratch() != 0 {
        let unmapped = inj.call(
            "munmap",
            libc::SYS_munmap,
            [left.scratch(), PAGE, 0, 0, 0, 0],
        );
        result = result.and(unmapped.map(drop));
    }
    result.and(inj.finish())
}

/// Closes descriptors of a task.
pub(crate) fn close_all(task: &Task, fds: &[RawFd], journal: &Journal) -> Result<()> {
    if fds.is_empty() {
        return Ok(());
    }
    let mut inj = Injector::start(task.pid, journal)?;
    let mut result = Ok(());
    for fd in fds {
        result = result.and(close(&mut inj, *fd));
    }
    result.and(inj.finish())
}

fn is_ours(
    plan: &Plan,
    task: &Task,
    fd: RawFd,
    file: impl Fn(&super::scan::Socket) -> &OwnedFd,
) -> bool {
    let me = sys::my_pid();
    let same = |s| sys::same_file((task.pid, fd), (me, file(s).as_raw_fd())).unwrap_or(false);
    plan.sockets.iter().any(same)
}

/// Raises the task's open-file limit if it has no room for our few more;
/// answers the limit to put back.
fn make_room(task: &Task) -> Result<Option<libc::rlimit64>> {
    let what = || format!("cannot read the open-file limit of {}", task.pid);
    let old = sys::file_limit(task.pid, None).doing(what)?;
    let held = proc::descriptors(task.pid)
        .doing(|| format!("cannot list the descriptors of {}", task.pid))?
        .len();
    let need = u64::try_from(held + BATCH + 2).unwrap_or(u64::MAX);
    if need <= old.rlim_cur {
        return Ok(None);
    }
    let new = libc::rlimit64 {
        rlim_cur: need,
        rlim_max: old.rlim_max.max(need),
    };
    set_limit(task.pid, &new)?;
    Ok(Some(old))
}

fn set_limit(pid: i32, limit: &libc::rlimit64) -> Result<()> {
    sys::file_limit(pid, Some(limit))
        .map(drop)
        .doing(|| format!("cannot set the open-file limit of {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_closed_in_runs() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[4]), [(4, 4)]);
        assert_eq!(runs(&[4, 5, 6, 9, 11, 12]), [(4, 6), (9, 9), (11, 12)]);
    }

    #[test]
    fn control_messages() {
        let mut raw = bytes(&[24]);
        for n in [libc::SOL_SOCKET, libc::SCM_RIGHTS, 5, 9] {
            raw.extend(n.to_ne_bytes());
        }
        assert_eq!(rights(&raw), vec![5, 9]);
        assert_eq!(rights(&raw[..20]), vec![5]);
        assert_eq!(rights(&[]), Vec::<i32>::new());
        raw[0] = 255;
        assert_eq!(rights(&raw), vec![5, 9]);
    }
}
