// SPDX-License-Identifier: GPL-2.0-only
//! The `telecr` command.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
