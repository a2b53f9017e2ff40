// SPDX-License-Identifier: GPL-2.0-only
//! Running the host's tools, with their words in the error when they fail.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{bail, Context, Result};

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().with_context(|| {
        format!("cannot run {name}: run scripts/setup, which installs what is missing")
    })?;
    if !out.status.success() {
        let words = String::from_utf8_lossy(&out.stderr);
        let tail: Vec<&str> = words.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("{name} failed ({}):\n{}", out.status, tail.join("\n"));
    }
    Ok(out.stdout)
}

/// The repository's top folder.
pub fn repository() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .map(PathBuf::from)
        .context("the rig is not in the telecr repository")
}
