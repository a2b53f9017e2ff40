// SPDX-License-Identifier: GPL-2.0-only
//! Our Debian packages, as `make deb` makes them.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::tool;

/// The packages.
#[derive(Clone, Debug)]
pub struct Packages {
    /// Command and plugin.
    pub telecr: PathBuf,
    /// The module's source for DKMS.
    pub dkms: PathBuf,
}

/// Makes them.
pub fn make() -> Result<Packages> {
    let out = tool::output(Command::new("make").current_dir(tool::repository()?).args([
        "--silent",
        "--no-print-directory",
        "deb",
    ]))?;
    let text = String::from_utf8(out)?;
    let find = |name: &str| {
        text.lines()
            .map(PathBuf::from)
            .find(|p| {
                p.file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with(name))
            })
            .with_context(|| format!("`make deb` named no {name} package"))
    };
    Ok(Packages {
        telecr: find("telecr_")?,
        dkms: find("telecr-sctp-dkms_")?,
    })
}
