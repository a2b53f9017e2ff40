// SPDX-License-Identifier: GPL-2.0-only
//! What a person at the terminal reads: progress on standard error, so that standard output holds only results.

use std::{
    env,
    io::{self, IsTerminal},
    time::Instant,
};

/// Tells how far things are.
#[derive(Debug)]
pub struct Narrator {
    began: Instant,
    colour: bool,
}

impl Default for Narrator {
    fn default() -> Self {
        let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self {
            began: Instant::now(),
            colour,
        }
    }
}

impl Narrator {
    /// One line of progress.
    pub fn step(&self, words: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        if self.colour {
            eprintln!("\x1b[2m{seconds:6.1}s\x1b[0m  {words}");
        } else {
            eprintln!("{seconds:6.1}s  {words}");
        }
    }

    /// A heading between steps.
    pub fn heading(&self, words: &str) {
        if self.colour {
            eprintln!("\x1b[1m{words}\x1b[0m")
        } else {
            eprintln!("{words}")
        }
    }
}
