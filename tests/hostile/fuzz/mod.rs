// SPDX-License-Identifier: GPL-2.0-only
//! Netlink messages of the family `sctp_repair` that are almost right, on sockets in and out of repair mode.
//!
//! Each round reads associations under traffic the way a dump does, closes them, and sets them up again with messages
//! changed here and there, with other operations in between; then it lets them loose on the peer they had. The oracle is
//! the kernel: nothing in its log (the rig looks), no socket or chunk left over, and it still does what it should.

mod mutate;
mod round;
mod spec;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::objects::Objects;
use crate::rng::Rng;

/// What came of the messages.
#[derive(Debug, Default)]
pub struct Tally {
    pub messages: u64,
    pub taken: u64,
    /// By error number.
    pub refused: BTreeMap<i32, u64>,
    pub rounds: u64,
    /// Rounds after which an association went on as if nothing had been.
    pub survived: u64,
}

/// Sends at least so many messages.
pub fn run(seed: u64, messages: u64) {
    let sets = spec::sets();
    let before = Objects::now();
    let mut tally = Tally::default();
    let mut round = seed;
    let began = Instant::now();
    while tally.messages < messages {
        // A thread for each, since each has a network namespace of its own.
        let done = std::thread::scope(|s| {
            let sets = &sets;
            s.spawn(move || {
                let mut tally = Tally::default();
                round::run(&mut Rng::new(round), sets, &mut tally);
                tally
            })
            .join()
        });
        let done = done.unwrap_or_else(|_| panic!("round {round} of seed {seed}"));
        tally.messages += done.messages;
        tally.taken += done.taken;
        tally.rounds += 1;
        tally.survived += done.survived;
        for (errno, n) in done.refused {
            *tally.refused.entry(errno).or_default() += n;
        }
        round += 1;
        if tally.rounds % 500 == 0 {
            println!(
                "{} messages in {:.0} s",
                tally.messages,
                began.elapsed().as_secs_f64()
            );
        }
    }
    println!(
        "FUZZ {{\"messages\":{},\"taken\":{},\"rounds\":{},\"survived\":{}}}",
        tally.messages, tally.taken, tally.rounds, tally.survived
    );
    println!("refused, by error number: {:?}", tally.refused);
    assert!(
        tally.taken > tally.messages / 20,
        "the kernel takes nothing: is the fuzzer right?"
    );
    assert!(
        tally.survived > 0,
        "no association is ever whole: is the fuzzer right?"
    );
    before.is_all();
}
