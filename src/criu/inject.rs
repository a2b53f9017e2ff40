// SPDX-License-Identifier: GPL-2.0-only
//! Makes a thread that its tracer (us) has stopped run system calls, and
//! leaves it exactly as it was.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use super::arch;
use super::error::{Context, Error, Result};
use super::journal::{Journal, Patient};
use super::proc;
use super::ptrace::{self, Stop};

/// Offset of the critical-section pointer in a restartable-sequence area.
const RSEQ_CS: u64 = 8;
/// Most stops that may come between the entry and the exit of one call.
const MAX_STOPS: usize = 64;

/// A thread prepared to run system calls. End with [`Injector::finish`].
pub(crate) struct Injector<'a> {
    patient: Patient,
    memory: File,
    journal: &'a Journal,
    /// A stop signal that arrived meanwhile and is to be sent again.
    held: Option<i32>,
}

impl<'a> Injector<'a> {
    /// Prepares the main thread of a process.
    pub(crate) fn start(pid: i32, journal: &'a Journal) -> Result<Self> {
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .doing(|| format!("cannot open the memory of process {pid}"))?;
        let regs = ptrace::regs(pid).doing(|| format!("cannot read the registers of {pid}"))?;
        if !arch::is_native(&regs) {
            return Err(Error::Refused {
                pid,
                what: "it is a 32-bit program, which telecr cannot carry; run its 64-bit build"
                    .into(),
            });
        }
        let vdso =
            proc::read_vdso(pid).doing(|| format!("cannot read the maps of process {pid}"))?;
        let vdso = vdso.ok_or_else(|| Error::Refused {
            pid,
            what: "it has no vDSO, which telecr needs; boot without vdso=0".into(),
        })?;
        let word_addr = vdso.wrapping_add(arch::WORD_OFFSET);
        let rseq = ptrace::rseq_area(pid);
        let rseq_addr = if rseq == 0 {
            0
        } else {
            rseq.wrapping_add(RSEQ_CS)
        };
        let patient = Patient {
            tid: pid,
            regs,
            mask: ptrace::mask(pid).doing(|| format!("cannot read the signal mask of {pid}"))?,
            word_addr,
            word: read_word(&memory, word_addr)
                .doing(|| format!("cannot read the vDSO of {pid}"))?,
            rseq_addr,
            rseq: if rseq_addr == 0 {
                0
            } else {
                read_word(&memory, rseq_addr).unwrap_or(0)
            },
        };
        journal.open(&patient);
        let injector = Injector {
            patient,
            memory,
            journal,
            held: None,
        };
        match injector.prepare() {
            Ok(()) => Ok(injector),
            Err(e) => {
                injector.finish()?;
                Err(e)
            }
        }
    }

    fn prepare(&self) -> Result<()> {
        let p = &self.patient;
        ptrace::set_mask(p.tid, u64::MAX)
            .doing(|| format!("cannot block the signals of {}", p.tid))?;
        ptrace::poke(p.tid, p.word_addr, arch::patch(p.word))
            .doing(|| format!("cannot write to the vDSO of {}", p.tid))
    }

    /// The journal this surgery is noted in.
    pub(crate) fn journal(&self) -> &'a Journal {
        self.journal
    }

    /// Runs one system call. Its own failure is an [`Error::Sys`].
    pub(crate) fn call(&mut self, name: &str, nr: libc::c_long, args: [u64; 6]) -> Result<u64> {
        let p = &self.patient;
        let tid = p.tid;
        let regs = arch::call(&p.regs, p.word_addr, nr, args);
        ptrace::set_regs(tid, &regs).doing(|| format!("cannot set the registers of {tid}"))?;
        self.run_to_syscall()?;
        self.run_to_syscall()?;
        let regs = ptrace::regs(tid).doing(|| format!("cannot read the registers of {tid}"))?;
        let answer = arch::answer(&regs);
        if (-4095..0).contains(&answer) {
            let errno = i32::try_from(-answer).unwrap_or(libc::EIO);
            let source = io::Error::from_raw_os_error(errno);
            return Err(Error::Sys {
                what: format!("{name} in process {tid}"),
                source,
            });
        }
        Ok(answer as u64)
    }

    /// Runs to the next entry or exit of a system call.
    fn run_to_syscall(&mut self) -> Result<()> {
        let tid = self.patient.tid;
        for _ in 0..MAX_STOPS {
            ptrace::to_syscall(tid).doing(|| format!("cannot resume thread {tid}"))?;
            match ptrace::wait(tid).doing(|| format!("cannot wait for thread {tid}"))? {
                Stop::Syscall => return Ok(()),
                Stop::Event | Stop::Group | Stop::Exit => {}
                // All that can be blocked is: this is SIGSTOP. It comes again at the end.
                Stop::Signal(signal) => self.held = Some(signal),
                Stop::Gone => {
                    return Err(Error::Thread {
                        tid,
                        what: "was killed during the hand-over".into(),
                    });
                }
            }
        }
        Err(Error::Thread {
            tid,
            what: "does not come to its system call".into(),
        })
    }

    /// Reads the process's memory.
    pub(crate) fn read(&self, buf: &mut [u8], addr: u64) -> Result<()> {
        self.memory
            .read_exact_at(buf, addr)
            .doing(|| format!("cannot read the memory of {}", self.patient.tid))
    }

    /// Writes the process's memory.
    pub(crate) fn write(&self, buf: &[u8], addr: u64) -> Result<()> {
        self.memory
            .write_all_at(buf, addr)
            .doing(|| format!("cannot write the memory of {}", self.patient.tid))
    }

    /// Gives the thread back what it had.
    pub(crate) fn finish(self) -> Result<()> {
        let tid = self.patient.tid;
        let late = restore(&self.patient, &self.memory)?;
        self.journal.close();
        if let Some(signal) = self.held.or(late) {
            // SAFETY: takes plain integers; the thread is ours to signal.
            unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, signal) };
        }
        Ok(())
    }
}

fn read_word(memory: &File, addr: u64) -> io::Result<u64> {
    let mut word = [0; 8];
    memory.read_exact_at(&mut word, addr)?;
    Ok(u64::from_ne_bytes(word))
}

/// Brings a thread from wherever it stopped to the kind of stop its tracer left
/// it in, then puts its registers back. A thread that goes on from the exit of
/// a system call would not restart the call it was interrupted in; one that
/// goes on from an interrupt stop does. Answers a stop signal that arrived.
fn restore(p: &Patient, memory: &File) -> Result<Option<i32>> {
    let tid = p.tid;
    let mut held = None;
    let regs = ptrace::regs(tid).doing(|| format!("cannot read the registers of {tid}"))?;
    if arch::at_site(&regs, p.word_addr) {
        ptrace::interrupt(tid).doing(|| format!("cannot interrupt thread {tid}"))?;
        let mut stopped = false;
        for _ in 0..MAX_STOPS {
            ptrace::cont(tid, 0).doing(|| format!("cannot resume thread {tid}"))?;
            match ptrace::wait(tid).doing(|| format!("cannot wait for thread {tid}"))? {
                Stop::Event | Stop::Group => {
                    stopped = true;
                    break;
                }
                Stop::Gone => {
                    return Err(Error::Thread {
                        tid,
                        what: "was killed during the hand-over".into(),
                    });
                }
                Stop::Syscall | Stop::Exit => {}
                Stop::Signal(signal) => held = Some(signal),
            }
        }
        if !stopped {
            return Err(Error::Thread {
                tid,
                what: "cannot be interrupted".into(),
            });
        }
    }
    ptrace::set_regs(tid, &p.regs).doing(|| format!("cannot set the registers of {tid}"))?;
    ptrace::poke(tid, p.word_addr, p.word)
        .doing(|| format!("cannot write to the vDSO of {tid}"))?;
    if p.rseq_addr != 0 && p.rseq != 0 {
        // Standing elsewhere cleared it; the thread must see its critical section aborted.
        memory
            .write_all_at(&p.rseq.to_ne_bytes(), p.rseq_addr)
            .doing(|| format!("cannot write the memory of {tid}"))?;
    }
    ptrace::set_mask(tid, p.mask).doing(|| format!("cannot set the signal mask of {tid}"))?;
    Ok(held)
}

/// After CRIU's death: gives a thread back what the journal says it had, if it
/// still stands in our instructions. The caller has stopped it.
pub(crate) fn recover(p: &Patient) -> Result<()> {
    let tid = p.tid;
    let regs = ptrace::regs(tid).doing(|| format!("cannot read the registers of {tid}"))?;
    if arch::at_site(&regs, p.word_addr) {
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{tid}/mem"))
            .doing(|| format!("cannot open the memory of process {tid}"))?;
        return restore(p, &memory).map(drop);
    }
    // It had not started, or had its registers back already.
    ptrace::poke(tid, p.word_addr, p.word)
        .doing(|| format!("cannot write to the vDSO of {tid}"))?;
    ptrace::set_mask(tid, p.mask).doing(|| format!("cannot set the signal mask of {tid}"))
}
