// SPDX-License-Identifier: GPL-2.0-only
//! Man pages and completions, made from the command line's own definition.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// Write `telecr.1` and a page for each subcommand into `dir`.
pub(super) fn man(dir: &Path) -> anyhow::Result<()> {
    create(dir)?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("cannot write man pages to {}", dir.display()))
}

/// Write completions to the places below `share` where each shell looks.
pub(super) fn completions(share: &Path) -> anyhow::Result<()> {
    for (shell, place) in [
        (Shell::Bash, "bash-completion/completions/telecr"),
        (Shell::Zsh, "zsh/vendor-completions/_telecr"),
        (Shell::Fish, "fish/vendor_completions.d/telecr.fish"),
    ] {
        let path = share.join(place);
        if let Some(dir) = path.parent() {
            create(dir)?;
        }
        let mut file =
            fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        clap_complete::generate(shell, &mut Cli::command(), "telecr", &mut file);
    }
    Ok(())
}

fn create(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}
