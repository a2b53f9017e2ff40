// SPDX-License-Identifier: GPL-2.0-only
//! `cargo rig SCENARIO`: runs scenarios in QEMU guests.

use std::process::ExitCode;

use anyhow::{bail, Result};
use clap::Parser;
use telecr_rig::scenario;

/// Run telecr's scenarios in QEMU guests
///
/// Each scenario ends with one JSON line on standard output, and the exit code says whether all of them succeeded.
/// Progress goes to standard error. Logs and captures of a failed scenario are kept, and their folder is named.
#[derive(Parser)]
#[command(
    name = "cargo rig",
    after_help = "\
TELECR_CACHE       where guests are cached (default: telecr in the user's cache folder)
TELECR_RIG_ACCEL   kvm or tcg instead of what a probe finds
TELECR_RIG_KERNEL  debug: a kernel with KASAN, lockdep and kmemleak, built when first asked for (an hour)
TELECR_SOAK_SEED   first seed of sctp-soak (default 1), TELECR_SOAK_SEEDS: how many (20)
TELECR_FUZZ_SEED   seed of sctp-fuzz (default 1), TELECR_FUZZ_MESSAGES: how many messages (100000)
TELECR_FLOOD_MOVES how many moves of flood (50)
TELECR_KO_DIR      a folder with sctp.ko and sctp_diag.ko to use instead of `kernel-patches/kp build`"
)]
struct Options {
    /// Scenarios to run, `all`, or `list`
    #[arg(required = true)]
    scenarios: Vec<String>,
    /// Keep logs and captures of successful scenarios too
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("rig: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let mut chosen = Vec::new();
    for name in &options.scenarios {
        match name.as_str() {
            "list" => {
                for s in scenario::ALL {
                    println!("{:20} {}", s.name, s.about);
                }
            }
            "all" => chosen.extend(scenario::ALL.iter().filter(|s| s.in_all)),
            name => match scenario::find(name) {
                Some(s) => chosen.push(s),
                None => bail!("no scenario is called {name}: see `cargo rig list`"),
            },
        }
    }
    let mut failed = Vec::new();
    for s in chosen {
        let outcome = s.run(options.keep)?;
        let faults = outcome.faults().iter();
        failed.extend(faults.map(|fault| format!("{}: {fault}", s.name)));
    }
    // Once more where they are seen: the end of a long output.
    for fault in &failed {
        eprintln!("rig: {fault}");
    }
    Ok(failed.is_empty())
}
