// SPDX-License-Identifier: GPL-2.0-only
//! Associations made from a seed, under traffic both ways on a bad wire, that move at any instant.
//!
//! The oracle stands at the two ends: every message once and whole, in order where it was ordered, none lost that may
//! not be given up, and no chunk on the wire that ends an association or begins another.

mod ends;
mod ledger;
mod net;
mod open;
mod plan;
mod run;
mod wire;

use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Instant;

use plan::Plan;

use crate::objects::Objects;
use crate::rng::Rng;

/// Seeds under way at a time: they mostly wait.
const AT_ONCE: u64 = 6;

/// What a seed came to.
#[derive(Debug, Default, Clone, Copy)]
struct Figures {
    migrations: u64,
    aborted: u64,
    messages: u64,
    given_up: u64,
    bytes_moved: u64,
}

/// Runs seeds; panics with those that failed.
pub fn run(seeds: Range<u64>) {
    let before = Objects::now();
    let waiting = Mutex::new(seeds.clone());
    let failed = Mutex::new(Vec::new());
    let sum = Mutex::new(Figures::default());
    std::thread::scope(|scope| {
        for _ in 0..crate::setting("TELECR_SOAK_AT_ONCE", AT_ONCE) {
            scope.spawn(|| loop {
                let Some(seed) = waiting.lock().unwrap().next() else {
                    return;
                };
                match one(seed) {
                    Ok(f) => {
                        let mut sum = sum.lock().unwrap();
                        sum.migrations += f.migrations;
                        sum.aborted += f.aborted;
                        sum.messages += f.messages;
                        sum.given_up += f.given_up;
                        sum.bytes_moved += f.bytes_moved;
                    }
                    Err(fault) => {
                        println!("SOAK seed {seed}: {fault}");
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap();
    println!(
        "SOAK {{\"seeds\":{},\"migrations\":{},\"aborted_dumps\":{},\"messages\":{},\"given_up\":{},\"image_bytes\":{}}}",
        seeds.end - seeds.start,
        sum.migrations,
        sum.aborted,
        sum.messages,
        sum.given_up,
        sum.bytes_moved
    );
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
    before.is_all();
}

fn one(seed: u64) -> Result<Figures, String> {
    let mut rng = Rng::new(seed);
    let plan = Plan::new(&mut rng);
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| run::seed(seed, &plan, &mut rng)));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "panic".into()))
    });
    println!(
        "SOAK seed {seed}: {:.1} s, {result:?}",
        began.elapsed().as_secs_f64()
    );
    result.map_err(|fault| format!("{fault}\n  {plan:?}"))
}

/// A program that is started has copies of all seeds' sockets until it is loaded: a socket closed meanwhile stays.
static FORKS: RwLock<()> = RwLock::new(());

/// What closes sockets that must be gone then.
fn closing<T>(work: impl FnOnce() -> T) -> T {
    let _nobody_starts = FORKS.read().unwrap_or_else(PoisonError::into_inner);
    work()
}

fn start(program: &mut Command) -> std::io::Result<Child> {
    let _alone = FORKS.write().unwrap_or_else(PoisonError::into_inner);
    program.spawn()
}

/// Runs a shell script that must succeed.
fn sh(script: &str) {
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let running = start(&mut shell).expect("a shell");
    let out = running.wait_with_output().expect("a shell");
    assert!(
        out.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn check(ret: i32, what: &str) -> i32 {
    assert!(ret >= 0, "{what}: {}", std::io::Error::last_os_error());
    ret
}
