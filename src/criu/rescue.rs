// SPDX-License-Identifier: GPL-2.0-only
//! What the guard does: watch what becomes of the tasks once the sockets are
//! back, or put them back itself when CRIU died before it could.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{available_parallelism, sleep};
use std::time::{Duration, Instant};

use super::error::{Context, Result};
use super::guard::{Ice, Orders};
use super::journal::Journal;
use super::ptrace::{self, Stop};
use super::scan::{Plan, Task};
use super::snapshot::Traps;
use super::{handover, inject, proc, sys};

/// How long after CRIU's death a task may stay in another tracer's hands.
const SEIZE_LIMIT: Duration = Duration::from_secs(10);
/// Shortest and longest time between two looks at the tasks.
const LOOK_MIN: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(20);

/// What has become of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has ended.
    Dead,
    /// Still CRIU's, or about to be killed, or left stopped on purpose.
    Open,
    /// Runs by itself.
    Free,
}

/// A task that has ended; its sockets are dropped in silence with our copies.
fn is_dead(pidfd: BorrowedFd<'_>) -> bool {
    matches!(sys::wait_readable(&[pidfd], 0).as_deref(), Ok([true]))
}

/// `criu` is CRIU's process id as long as it lives.
pub(crate) fn fate(
    pid: i32,
    pidfd: BorrowedFd<'_>,
    criu: Option<i32>,
    stays_stopped: bool,
) -> Fate {
    if is_dead(pidfd) {
        return Fate::Dead;
    }
    match proc::read_status(pid) {
        Ok(s) if matches!(s.state, 'Z' | 'X') || s.dying => Fate::Open,
        Ok(s) if criu == Some(s.tracer) => Fate::Open,
        Ok(s) if stays_stopped && s.state == 'T' => Fate::Open,
        Ok(_) => Fate::Free,
        Err(_) => Fate::Open,
    }
}

/// All sockets are back in their tasks, frozen. Thaws each as soon as a task
/// that holds it runs by itself; drops it when all of them have died. CRIU
/// kills a task without letting go of it first, so one that nobody traces lives
/// on. Seen twice, because between taking a SIGKILL and dying a task looks alive.
pub(crate) fn watch(orders: &Orders<'_>, criu_pid: i32, criu: &OwnedFd) {
    sys::ordinary_priority();
    let plan = orders.plan;
    let mut thawer = Thawer::new(orders);
    let mut before: HashSet<i32> = HashSet::new();
    let mut pause = LOOK_MIN;
    loop {
        let criu_alive = !matches!(
            sys::wait_readable(&[criu.as_fd()], 0).as_deref(),
            Ok([true])
        );
        let criu = criu_alive.then_some(criu_pid);
        let holders = plan.tasks.iter().filter(|t| !t.slots.is_empty());
        let fates: Vec<(&Task, Fate)> = holders
            .map(|t| (t, fate(t.pid, t.pidfd.as_fd(), criu, orders.stays_stopped)))
            .collect();
        let free: HashSet<i32> = fates
            .iter()
            .filter(|(_, f)| *f == Fate::Free)
            .map(|(t, _)| t.pid)
            .collect();
        for (task, _) in fates
            .iter()
            .filter(|(t, _)| free.contains(&t.pid) && before.contains(&t.pid))
        {
            thawer.thaw(task);
        }
        let left = fates
            .iter()
            .filter(|(_, f)| *f != Fate::Dead)
            .any(|(t, _)| t.slots.iter().any(|s| !thawer.done.contains(&s.socket)));
        if !left {
            return;
        }
        before = free;
        // The end of a task is seen at once: its ports may be wanted again soon.
        let living: Vec<BorrowedFd<'_>> = fates
            .iter()
            .filter(|(_, f)| *f != Fate::Dead)
            .map(|(t, _)| t.pidfd.as_fd())
            .collect();
        if sys::wait_readable(&living, i32::try_from(pause.as_millis()).unwrap_or(1)).is_err() {
            sleep(pause);
        }
        pause = (pause + pause / 4).min(LOOK_MAX);
    }
}

/// Thaws each socket once, and wakes the peers: even a short freeze loses
/// packets, and a peer left alone sends them again only after its timer, a
/// second or more later.
struct Thawer<'a> {
    orders: &'a Orders<'a>,
    ice: Option<Box<dyn Ice>>,
    done: HashSet<usize>,
}

impl<'a> Thawer<'a> {
    fn new(orders: &'a Orders<'a>) -> Self {
        Thawer {
            orders,
            ice: None,
            done: HashSet::new(),
        }
    }

    /// Thaws the sockets of a task that are still frozen.
    fn thaw(&mut self, task: &Task) {
        for slot in &task.slots {
            let Some(socket) = self.orders.plan.sockets.get(slot.socket) else {
                continue;
            };
            if self.done.insert(slot.socket) {
                let thawed = self
                    .ice()
                    .and_then(|ice| ice.thaw(socket.file.as_fd(), true));
                if let Err(e) = thawed {
                    log::error!(
                        "descriptor {} of process {} stays frozen: {e}",
                        slot.fd,
                        task.pid
                    );
                }
            }
        }
    }

    fn ice(&mut self) -> Result<&mut Box<dyn Ice>> {
        match self.ice {
            Some(ref mut ice) => Ok(ice),
            None => Ok(self.ice.insert((self.orders.ice)()?)),
        }
    }
}

/// CRIU is gone, or about to be, with placeholders in place: catch the tasks,
/// put the sockets back, thaw them and let the tasks go. Their threads may wait
/// in `traps`.
pub(crate) fn rescue(orders: &Orders<'_>, criu: &OwnedFd, traps: &Traps) {
    let plan = orders.plan;
    let mut caught = catch_all(plan, criu);
    let living: Vec<&Task> = plan
        .tasks
        .iter()
        .filter(|t| caught.processes.contains(&t.pid))
        .collect();
    if let Err(e) = put_back(orders, &living, traps) {
        log::error!("putting sockets back: {e}");
    }
    let mut thawer = Thawer::new(orders);
    for task in &living {
        thawer.thaw(task);
    }
    caught.release();
    if !living.is_empty() {
        log::warn!(
            "criu is gone in the middle of a dump: {} processes run on, {} SCTP sockets are back",
            living.len(),
            thawer.done.len()
        );
    }
}

fn put_back(orders: &Orders<'_>, living: &[&Task], traps: &Traps) -> Result<()> {
    let (plan, left) = (orders.plan, orders.journal);
    let fresh = Journal::new().doing(|| "cannot map the guard's journal")?;
    let mut result = Ok(());
    if let Some(patient) = left.patient() {
        if let Some(task) = living.iter().find(|t| t.pid == patient.tid) {
            result = inject::recover(&patient)
                .and_then(|()| handover::clean_up(plan, task, left, &fresh));
        }
    }
    for task in living {
        let mended = orders.snapshot.mend(task.pid, traps);
        result = result.and(mended.and_then(|fds| handover::close_all(task, &fds, &fresh)));
    }
    result.and(handover::to_sockets(plan, living.iter().copied(), &fresh))
}

/// Threads that we trace and that have stopped.
#[derive(Default)]
struct Caught {
    threads: Vec<i32>,
    processes: HashSet<i32>,
}

impl Caught {
    fn release(&mut self) {
        for tid in self.threads.drain(..) {
            // A thread that has died meanwhile needs no release.
            let _ = ptrace::detach(tid);
        }
    }
}

/// Becomes the tracer of all threads the moment CRIU is not any more.
fn catch_all(plan: &Plan, criu: &OwnedFd) -> Caught {
    let many_cpus = available_parallelism().is_ok_and(|n| n.get() > 1);
    let begin = Instant::now();
    let mut caught = Caught::default();
    // Main threads first: these run the event loops.
    for task in &plan.tasks {
        let mut quick = many_cpus;
        while !is_dead(task.pidfd.as_fd()) {
            match ptrace::seize(task.pid) {
                Ok(()) => {
                    let _ = ptrace::interrupt(task.pid);
                    caught.processes.insert(task.pid);
                    break;
                }
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => break,
                Err(e) if begin.elapsed() > SEIZE_LIMIT => {
                    log::error!(
                        "cannot stop process {}: {e}; its sockets stay exchanged",
                        task.pid
                    );
                    break;
                }
                Err(_) => {}
            }
            // On one processor CRIU needs it to die; the pidfd wakes us before any task runs.
            quick = quick && begin.elapsed() < Duration::from_millis(20);
            if !quick {
                let _ = sys::wait_readable(&[criu.as_fd()], 1);
                if begin.elapsed() > Duration::from_millis(50) {
                    sleep(LOOK_MIN);
                }
            }
        }
    }
    for task in &plan.tasks {
        if caught.processes.contains(&task.pid) && !catch_threads(task.pid, &mut caught.threads) {
            caught.processes.remove(&task.pid);
        }
    }
    caught
}

/// Stops every thread of a process whose main thread is seized already.
/// Answers whether the main thread stands still.
fn catch_threads(pid: i32, caught: &mut Vec<i32>) -> bool {
    let mut seen = HashSet::from([pid]);
    let mut new = vec![pid];
    let mut main_stands = false;
    while !new.is_empty() {
        for tid in new.drain(..) {
            if stands(tid) {
                caught.push(tid);
                main_stands |= tid == pid;
            }
        }
        for tid in proc::threads(pid).unwrap_or_default() {
            if seen.insert(tid) && ptrace::seize(tid).is_ok() {
                let _ = ptrace::interrupt(tid);
                new.push(tid);
            }
        }
    }
    main_stands
}

/// What a thread gets that ran on in CRIU's code before it was caught. One of the
/// program's own making comes again, since the instruction is repeated.
const FAULTS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGTRAP,
    libc::SIGILL,
    libc::SIGBUS,
    libc::SIGFPE,
];

/// Waits for an interrupted thread; signals on their way are delivered, but for
/// faults.
fn stands(tid: i32) -> bool {
    loop {
        match ptrace::wait(tid) {
            Ok(Stop::Event | Stop::Group) => return true,
            Ok(Stop::Gone) | Err(_) => return false,
            Ok(Stop::Syscall | Stop::Exit) => {
                let _ = ptrace::cont(tid, 0);
            }
            Ok(Stop::Signal(signal)) => {
                let _ = ptrace::cont(tid, if FAULTS.contains(&signal) { 0 } else { signal });
            }
        }
    }
}
