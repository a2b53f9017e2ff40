// SPDX-License-Identifier: GPL-2.0-only
//! What differs between processors when a stopped thread is made to run a
//! system call. Only `x86_64` for now; another one needs the items below.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("telecr's hand-over knows only x86_64: add the processor to src/criu/arch.rs");

use std::mem::{size_of, transmute};

/// A thread's general registers, as `NT_PRSTATUS` lays them out.
pub(crate) type Regs = libc::user_regs_struct;

/// The registers as plain words, for the journal.
pub(crate) type Words = [u64; size_of::<Regs>() / 8];

/// Offset, from the start of the vDSO, of the word that takes our instructions.
/// It is in the padding of the ELF header's identification: mapped executable,
/// and no thread ever runs it.
pub(crate) const WORD_OFFSET: u64 = 8;

/// Where in that word the instructions start; the bytes before are in use.
const SITE_IN_WORD: u64 = 1;

/// `syscall; jmp .`: should CRIU die between the two, the thread waits at the
/// jump for the guard instead of running into the unknown.
const CODE: u64 = 0x0000_00fe_eb05_0f00;
const CODE_MASK: u64 = 0x0000_00ff_ffff_ff00;

/// The word with our instructions in it.
pub(crate) fn patch(word: u64) -> u64 {
    (word & !CODE_MASK) | CODE
}

/// Whether a thread stands in our instructions, given the word's address.
pub(crate) fn at_site(regs: &Regs, word_addr: u64) -> bool {
    (word_addr..word_addr.saturating_add(8)).contains(&regs.rip)
}

/// Where a thread is.
pub(crate) fn ip(regs: &Regs) -> u64 {
    regs.rip
}

/// `jmp .`: a thread that comes here waits here.
pub(crate) const WAIT: [u8; 2] = [0xeb, 0xfe];

/// `syscall`.
const ENTER: [u8; 2] = [0x0f, 0x05];

/// Whether these are the instructions by which CRIU makes a thread run a system
/// call: `syscall; int3`, or with a [`WAIT`] in place of the breakpoint.
pub(crate) fn is_criu_code(code: &[u8]) -> bool {
    code.strip_prefix(&ENTER)
        .is_some_and(|rest| rest.starts_with(&[0xcc]) || rest.starts_with(&WAIT))
}

/// Where in CRIU's instructions [`WAIT`] stands in for the breakpoint.
pub(crate) const DEFUSE_AT: u64 = ENTER.len() as u64;

/// Where a thread with these registers may go on when it is let go: at the next
/// instruction, or in a system call at the one that enters it again. All of that
/// as one range, of which each half can take a [`WAIT`].
pub(crate) fn resumes_in(regs: &Regs) -> (u64, u64) {
    let in_call = (regs.orig_rax as i64) >= 0;
    let back = if in_call { ENTER.len() as u64 } else { 0 };
    (
        regs.rip.saturating_sub(back),
        regs.rip.saturating_add(WAIT.len() as u64),
    )
}

/// Registers that make the thread run system call `nr` at our instructions.
pub(crate) fn call(saved: &Regs, word_addr: u64, nr: libc::c_long, args: [u64; 6]) -> Regs {
    let mut regs = *saved;
    regs.rip = word_addr.wrapping_add(SITE_IN_WORD);
    regs.rax = nr as u64;
    // No system call to restart: the interrupted one waits in `saved`.
    regs.orig_rax = u64::MAX;
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
    regs
}

/// What the system call answered.
pub(crate) fn answer(regs: &Regs) -> i64 {
    regs.rax as i64
}

/// Whether the thread runs 64-bit code.
pub(crate) fn is_native(regs: &Regs) -> bool {
    const USER_CS: u64 = 0x33;
    regs.cs == USER_CS
}

/// Registers to words.
pub(crate) fn to_words(regs: Regs) -> Words {
    // SAFETY: both are plain 64-bit words without padding, of the same size.
    unsafe { transmute::<Regs, Words>(regs) }
}

/// Words to registers.
pub(crate) fn from_words(words: Words) -> Regs {
    // SAFETY: as above, and every bit pattern is valid.
    unsafe { transmute::<Words, Regs>(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_leaves_other_bytes_alone() {
        assert_eq!(patch(0x1122_3344_5566_7788), 0x1122_33fe_eb05_0f88);
    }

    #[test]
    fn criu_code_is_known_with_and_without_its_breakpoint() {
        assert!(is_criu_code(&[0x0f, 0x05, 0xcc, 1]));
        assert!(is_criu_code(&[0x0f, 0x05, 0xeb, 0xfe]));
        assert!(!is_criu_code(&[0x0f, 0x05, 0x90, 1]));
        assert!(!is_criu_code(&[0x0f, 0x05]));
    }

    #[test]
    fn a_system_call_may_be_entered_again() {
        let mut regs = from_words([0; size_of::<Regs>() / 8]);
        regs.rip = 0x1000;
        regs.orig_rax = 232;
        assert_eq!(resumes_in(&regs), (0xffe, 0x1002));
        regs.orig_rax = u64::MAX;
        assert_eq!(resumes_in(&regs), (0x1000, 0x1002));
    }

    #[test]
    fn words_and_back() {
        let mut words: Words = [0; size_of::<Regs>() / 8];
        for (i, w) in words.iter_mut().enumerate() {
            *w = i as u64;
        }
        assert_eq!(to_words(from_words(words)), words);
    }
}
