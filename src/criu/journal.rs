// SPDX-License-Identifier: GPL-2.0-only
//! One page shared with the guard: what it must know when CRIU is killed
//! between any two instructions. Written before each step; after it only what
//! nobody knows before: where the page and the pair of sockets are that a thread
//! was made to make. Of a kill right in between these may be left.

use std::io;
use std::mem::size_of;
use std::ptr::{null_mut, NonNull};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};

use super::arch::{self, Regs, Words};

/// How far the dump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Placeholders may be in place.
    Working,
    /// All sockets are back, frozen; whether the tasks live is not known yet.
    Returned,
    /// Nothing was changed, or all was undone: the guard has no work.
    Cancelled,
}

/// What a thread had before it was made to run our system calls.
#[derive(Clone, Copy)]
pub(crate) struct Patient {
    /// The thread.
    pub tid: i32,
    /// Its registers.
    pub regs: Regs,
    /// Its blocked signals.
    pub mask: u64,
    /// Where our instructions are, and the word that was there.
    pub word_addr: u64,
    /// See `word_addr`.
    pub word: u64,
    /// Where its restartable-sequence pointer is (0: nowhere), and its value.
    pub rseq_addr: u64,
    /// See `rseq_addr`.
    pub rseq: u64,
}

#[repr(C)]
struct Page {
    phase: AtomicU32,
    open: AtomicU32,
    tid: AtomicI32,
    sockets: [AtomicI32; 2],
    mask: AtomicU64,
    word_addr: AtomicU64,
    word: AtomicU64,
    rseq_addr: AtomicU64,
    rseq: AtomicU64,
    scratch: AtomicU64,
    regs: [AtomicU64; size_of::<Words>() / 8],
}

/// The shared page.
pub(crate) struct Journal {
    page: NonNull<Page>,
}

// SAFETY: the page is reached through atomics only, from whichever thread.
unsafe impl Send for Journal {}

impl Journal {
    /// A fresh page; children forked later share it.
    pub(crate) fn new() -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping; it disturbs no other.
        let ret = unsafe { libc::mmap(null_mut(), size_of::<Page>(), prot, flags, -1, 0) };
        if ret == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let page = NonNull::new(ret.cast()).ok_or_else(|| io::Error::other("mapping at zero"))?;
        let journal = Journal { page };
        journal
            .page()
            .sockets
            .iter()
            .for_each(|s| s.store(-1, SeqCst));
        Ok(journal)
    }

    fn page(&self) -> &Page {
        // SAFETY: the mapping lives as long as `self`, zeroes are valid atomics, and all access is atomic.
        unsafe { self.page.as_ref() }
    }

    /// How far the dump is.
    pub(crate) fn phase(&self) -> Phase {
        match self.page().phase.load(SeqCst) {
            0 => Phase::Working,
            1 => Phase::Returned,
            _ => Phase::Cancelled,
        }
    }

    /// Notes how far the dump is.
    pub(crate) fn set_phase(&self, phase: Phase) {
        let n = match phase {
            Phase::Working => 0,
            Phase::Returned => 1,
            Phase::Cancelled => 2,
        };
        self.page().phase.store(n, SeqCst);
    }

    /// Notes what a thread has, before it is touched.
    pub(crate) fn open(&self, p: &Patient) {
        let page = self.page();
        page.tid.store(p.tid, SeqCst);
        page.mask.store(p.mask, SeqCst);
        page.word_addr.store(p.word_addr, SeqCst);
        page.word.store(p.word, SeqCst);
        page.rseq_addr.store(p.rseq_addr, SeqCst);
        page.rseq.store(p.rseq, SeqCst);
        page.scratch.store(0, SeqCst);
        self.set_sockets([-1, -1]);
        for (slot, word) in page.regs.iter().zip(arch::to_words(p.regs)) {
            slot.store(word, SeqCst);
        }
        page.open.store(1, SeqCst);
    }

    /// The thread has everything back.
    pub(crate) fn close(&self) {
        self.page().open.store(0, SeqCst);
    }

    /// The thread that was being worked on, if one was.
    pub(crate) fn patient(&self) -> Option<Patient> {
        let page = self.page();
        if page.open.load(SeqCst) == 0 {
            return None;
        }
        let mut words: Words = [0; size_of::<Words>() / 8];
        for (word, slot) in words.iter_mut().zip(&page.regs) {
            *word = slot.load(SeqCst);
        }
        Some(Patient {
            tid: page.tid.load(SeqCst),
            regs: arch::from_words(words),
            mask: page.mask.load(SeqCst),
            word_addr: page.word_addr.load(SeqCst),
            word: page.word.load(SeqCst),
            rseq_addr: page.rseq_addr.load(SeqCst),
            rseq: page.rseq.load(SeqCst),
        })
    }

    /// Notes the scratch page mapped into the patient (0: none).
    pub(crate) fn set_scratch(&self, addr: u64) {
        self.page().scratch.store(addr, SeqCst);
    }

    /// The scratch page mapped into the patient (0: none).
    pub(crate) fn scratch(&self) -> u64 {
        self.page().scratch.load(SeqCst)
    }

    /// Notes the two ends of the socket pair made in the patient (-1: none).
    pub(crate) fn set_sockets(&self, fds: [i32; 2]) {
        for (slot, fd) in self.page().sockets.iter().zip(fds) {
            slot.store(fd, SeqCst);
        }
    }

    /// The two ends of the socket pair made in the patient (-1: none).
    pub(crate) fn sockets(&self) -> [i32; 2] {
        let [a, b] = &self.page().sockets;
        [a.load(SeqCst), b.load(SeqCst)]
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size, and `self` was its only user in this process.
        unsafe { libc::munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
    }
}
