// SPDX-License-Identifier: GPL-2.0-only
//! What `dkms install` makes of our tree on a Debian machine with headers and kernel source.
//!
//! It is done in a root of its own on the host: the compiler would take half an hour in a guest without KVM.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{
    cache,
    image::{self, Image, Kind},
    tool,
};

/// Name and version of the tree below `/usr/src`.
const TREE: &str = concat!("telecr-sctp-", env!("CARGO_PKG_VERSION"));

/// The modules DKMS installed for the guests' kernel, as files.
pub fn installed(image: &Image, say: &dyn Fn(&str)) -> Result<Vec<PathBuf>> {
    let scratch = cache::dir()?.join(format!("dkms-tree-{}", std::process::id()));
    cache::remove(&scratch)?;
    let tree = scratch.join(TREE);
    let kp = tool::repository()?.join("kernel-patches/kp");
    fs::create_dir_all(&scratch)?;
    tool::output(
        Command::new(kp)
            .args(["dkms", "6.1", "6.12", "7.2", env!("CARGO_PKG_VERSION")])
            .arg(&tree),
    )?;
    let sources = image::sources(Kind::Plain)?;
    let content = tool::output(
        Command::new("tar")
            .args(["--sort=name", "--mtime=@0", "-c", "-C"])
            .arg(&tree)
            .arg("."),
    )?;
    let hash = format!("{:x}", Sha256::digest(&content));
    let key = cache::key(&[&hash, &sources, &image.release]);
    let done = cache::build("dkms", &key, |dir| {
        say("dkms install in a root with headers and linux-source (some three minutes, once)");
        let list = dir.join("sources.list");
        fs::write(&list, &sources)?;
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--variant=apt", "--format=null"]);
        command.arg(format!(
            "--include=dkms,linux-headers-amd64,linux-source-{}",
            Kind::Plain.series()
        ));
        command.arg("--aptopt=APT::Install-Recommends \"false\"");
        command.arg(format!(
            "--customize-hook=copy-in {} /usr/src",
            tree.display()
        ));
        command.arg(format!(
            "--customize-hook=chroot \"$1\" dkms install telecr-sctp/{} -k {} \
             || {{ cat \"$1\"/var/lib/dkms/telecr-sctp/*/build/make.log >&2; exit 1; }}",
            env!("CARGO_PKG_VERSION"),
            image.release
        ));
        command.arg(format!(
            "--customize-hook=copy-out /usr/lib/modules/{}/updates {}",
            image.release,
            dir.display()
        ));
        tool::output(command.arg(image::SUITE).arg("/dev/null").arg(&list)).map(|_| ())
    });
    cache::remove(&scratch)?;
    let folder = done?.join("updates/dkms");
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("dkms installed nothing in {}", folder.display()))?;
    Ok(entries.flatten().map(|e| e.path()).collect())
}
