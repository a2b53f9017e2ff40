// SPDX-License-Identifier: GPL-2.0-only
//! Hostile timing and hostile input against a real kernel companion.
//!
//! They need root and telecr's `sctp` module; `cargo rig sctp-soak` and `cargo rig sctp-fuzz` run them in a guest.

mod fuzz;
mod objects;
#[path = "../companion/pair.rs"]
#[allow(dead_code, reason = "the companion tests use all of it")]
mod pair;
mod rng;
mod soak;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, not a number")),
        Err(_) => default,
    }
}

/// `TELECR_SOAK_SEEDS` seeds, the first of them `TELECR_SOAK_SEED`.
#[test]
#[ignore = "needs the kernel companion"]
fn soak() {
    let first = setting("TELECR_SOAK_SEED", 1);
    soak::run(first..first + setting("TELECR_SOAK_SEEDS", 20));
}

/// `TELECR_FUZZ_MESSAGES` messages that follow from `TELECR_FUZZ_SEED`.
#[test]
#[ignore = "needs the kernel companion"]
fn fuzz() {
    fuzz::run(
        setting("TELECR_FUZZ_SEED", 1),
        setting("TELECR_FUZZ_MESSAGES", 100_000),
    );
}
