// SPDX-License-Identifier: GPL-2.0-only
//! What every thread was doing before CRIU put its own code into the tasks.
//!
//! CRIU too makes threads run system calls and a parasite. Killed at such a
//! moment it leaves a thread at a breakpoint in code that is not the program's,
//! which ends the program. The guard gives such a thread its registers back.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;

use super::arch::{self, Regs};
use super::error::{Context, Result};
use super::scan::Plan;
use super::{proc, ptrace};

/// Bytes kept from the start of each executable mapping, where CRIU writes.
const CODE: usize = 16;

/// A thread as CRIU stopped it.
struct Thread {
    tid: i32,
    regs: Regs,
    mask: u64,
}

/// A process as CRIU stopped it.
struct Process {
    pid: i32,
    threads: Vec<Thread>,
    maps: Vec<(u64, u64)>,
    code: Vec<(u64, [u8; CODE])>,
    descriptors: HashSet<RawFd>,
}

/// All processes of a plan.
pub(crate) struct Snapshot {
    processes: Vec<Process>,
}

/// Instructions of a process that were changed so that its threads wait there.
#[derive(Default)]
struct Trap {
    start: u64,
    /// What was there.
    bytes: Vec<u8>,
}

impl Trap {
    fn lay(memory: &File, start: u64, end: u64) -> io::Result<Self> {
        let len = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        memory.read_exact_at(&mut bytes, start)?;
        let wait = arch::WAIT.iter().copied().cycle().take(len);
        memory.write_all_at(&wait.collect::<Vec<u8>>(), start)?;
        Ok(Self { start, bytes })
    }

    fn range(&self) -> (u64, u64) {
        (
            self.start,
            self.start.saturating_add(self.bytes.len() as u64),
        )
    }
}

/// The traps of all processes, by process id.
#[derive(Default)]
pub(crate) struct Traps {
    laid: HashMap<i32, Vec<Trap>>,
    /// No thread of these can have run on: what is new in them is CRIU's.
    still: HashSet<i32>,
}

/// Takes it. The tasks stand, traced by the calling thread.
pub(crate) fn take(plan: &Plan) -> Result<Snapshot> {
    let processes = plan
        .tasks
        .iter()
        .map(|t| process(t.pid))
        .collect::<Result<Vec<_>>>()?;
    Ok(Snapshot { processes })
}

fn process(pid: i32) -> Result<Process> {
    let what = || format!("cannot read what process {pid} was doing");
    let mut threads = Vec::new();
    for tid in proc::threads(pid).doing(what)? {
        let (regs, mask) = (
            ptrace::regs(tid).doing(what)?,
            ptrace::mask(tid).doing(what)?,
        );
        threads.push(Thread { tid, regs, mask });
    }
    let text = proc::maps(pid).doing(what)?;
    let memory = File::open(format!("/proc/{pid}/mem")).doing(what)?;
    let mut process = Process {
        pid,
        threads,
        maps: Vec::new(),
        code: Vec::new(),
        descriptors: HashSet::new(),
    };
    for (start, end, executable) in text.lines().filter_map(proc::mapping) {
        process.maps.push((start, end));
        let mut bytes = [0; CODE];
        if executable && memory.read_exact_at(&mut bytes, start).is_ok() {
            process.code.push((start, bytes));
        }
    }
    process.descriptors = proc::descriptors(pid)
        .doing(what)?
        .into_iter()
        .map(|(fd, _)| fd)
        .collect();
    Ok(process)
}

impl Process {
    fn memory(&self) -> io::Result<File> {
        let path = format!("/proc/{}/mem", self.pid);
        File::options().read(true).write(true).open(path)
    }

    /// Does what it can: a thread whose trap cannot be laid does not keep the others from theirs.
    fn lay_traps(&self, laid: &mut Vec<Trap>) -> io::Result<()> {
        let memory = self.memory()?;
        let mut result = Ok(());
        for (start, end) in self.threads.iter().map(|t| arch::resumes_in(&t.regs)) {
            // Threads often wait in the same place. Where they all but do, the first one is trapped.
            let taken = |t: &Trap| start < t.range().1 && t.range().0 < end;
            if laid.iter().any(taken) {
                continue;
            }
            match Trap::lay(&memory, start, end) {
                Ok(trap) => laid.push(trap),
                Err(e) => result = Err(e),
            }
        }
        for (start, bytes) in &self.code {
            let mut now = [0; CODE];
            if memory.read_exact_at(&mut now, *start).is_ok()
                && now != *bytes
                && arch::is_criu_code(&now)
            {
                // A breakpoint without a tracer would end the process.
                let at = start.saturating_add(arch::DEFUSE_AT);
                result = result.and(memory.write_all_at(&arch::WAIT, at));
            }
        }
        result
    }
}

impl Snapshot {
    /// CRIU is about to let go of all tasks: sees to it that no thread gets
    /// past where it was. It may come there before we are its tracer.
    pub(crate) fn lay_traps(&self) -> Traps {
        let mut traps = Traps::default();
        for process in &self.processes {
            let laid = traps.laid.entry(process.pid).or_default();
            match process.lay_traps(laid) {
                Ok(()) => _ = traps.still.insert(process.pid),
                Err(e) => log::error!("process {} may run on too early: {e}", process.pid),
            }
        }
        traps
    }

    /// Takes CRIU's code out of a process whose threads the caller has stopped,
    /// and gives those that were running it their own registers. Answers
    /// CRIU's descriptors left in the process.
    pub(crate) fn mend(&self, pid: i32, traps: &Traps) -> Result<Vec<RawFd>> {
        let Some(process) = self.processes.iter().find(|p| p.pid == pid) else {
            return Ok(Vec::new());
        };
        let what = || format!("cannot take CRIU's code out of process {pid}");
        let memory = process.memory().doing(what)?;
        let mut sites = Vec::new();
        for (start, bytes) in &process.code {
            let mut now = [0; CODE];
            if memory.read_exact_at(&mut now, *start).is_ok()
                && now != *bytes
                && arch::is_criu_code(&now)
            {
                memory.write_all_at(bytes, *start).doing(what)?;
                sites.push((*start, start.saturating_add(bytes.len() as u64)));
            }
        }
        for trap in traps.laid.get(&pid).into_iter().flatten() {
            memory.write_all_at(&trap.bytes, trap.start).doing(what)?;
            sites.push(trap.range());
        }
        let mut parasite = false;
        for thread in &process.threads {
            // One that has ended meanwhile needs nothing.
            let (Ok(regs), Ok(mask)) = (ptrace::regs(thread.tid), ptrace::mask(thread.tid)) else {
                continue;
            };
            let ip = arch::ip(&regs);
            let within = |ranges: &[(u64, u64)]| {
                ranges
                    .iter()
                    .any(|(start, end)| (*start..*end).contains(&ip))
            };
            if within(&sites) || !within(&process.maps) {
                log::warn!(
                    "thread {} was not in the program's code: it goes on where it was",
                    thread.tid
                );
                ptrace::set_regs(thread.tid, &thread.regs).doing(what)?;
                ptrace::set_mask(thread.tid, thread.mask).doing(what)?;
                parasite = true;
            } else if arch::ip(&thread.regs) == ip && mask != thread.mask {
                // CRIU had blocked its signals, but not run it yet.
                ptrace::set_mask(thread.tid, thread.mask).doing(what)?;
            }
        }
        if !parasite {
            return Ok(Vec::new());
        }
        // CRIU's parasite has a socket, and CRIU's log; where the program may have run on,
        // a file could be its own.
        let still = traps.still.contains(&pid);
        let listed = proc::descriptors(pid).doing(what)?;
        let new = |(fd, link): &(RawFd, String)| {
            (still || link.starts_with("socket:[")) && !process.descriptors.contains(fd)
        };
        Ok(listed.into_iter().filter(new).map(|(fd, _)| fd).collect())
    }
}
