// SPDX-License-Identifier: GPL-2.0-only
//! `netavark`, as podman finds it: locks the network namespace of a container that is about to be restored, then becomes
//! the real one.
//!
//! podman gives a container its addresses before the runtime begins to restore it, and runs nothing else in between. So
//! telecr's `netavark` stands before the real one in podman's search path (`helper_binaries_dir` in containers.conf). The
//! namespace is new and nobody lives there yet, so it can be locked as a whole. The plugin lifts the lock when the
//! container is complete; a restore that fails takes the namespace along; and should the runtime not load the plugin,
//! the lock expires.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{bail, Context};

use super::lock;

/// The name that makes this program netavark.
pub(crate) const NAME: &str = "netavark";

/// Where podman looks for its helpers by default.
const PLACES: [&str; 4] = [
    "/usr/local/libexec/podman",
    "/usr/local/lib/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
];

/// From here to CRIU's loading of the plugin, which prolongs it.
const BEGINNING: Duration = Duration::from_secs(60);

/// Becomes netavark. Comes back only on failure.
pub(crate) fn run() -> ExitCode {
    let error = become_netavark();
    // podman wants errors of netavark as JSON on standard output.
    println!(
        "{}",
        serde_json::json!({ "error": format!("telecr: {error:#}") })
    );
    ExitCode::FAILURE
}

fn become_netavark() -> anyhow::Error {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let prepared = match namespace(&arguments) {
        Some(netns) if caller_restores() => {
            lock::lock(Some(netns), &[], BEGINNING).context("cannot lock the container's network")
        }
        _ => Ok(()),
    };
    match prepared.and_then(|()| real()) {
        Ok(real) => Command::new(&real).args(arguments).exec().into(),
        Err(e) => e,
    }
}

/// The network namespace that is to be set up.
fn namespace(arguments: &[OsString]) -> Option<&Path> {
    let at = arguments.iter().position(|a| a == "setup")?;
    arguments.get(at + 1).map(Path::new)
}

/// Whether it is `podman container restore` that calls.
fn caller_restores() -> bool {
    let caller = nix::unistd::getppid();
    fs::read(format!("/proc/{caller}/cmdline")).is_ok_and(|line| restores(&line))
}

fn restores(command_line: &[u8]) -> bool {
    let words: Vec<&[u8]> = command_line.split(|b| *b == 0).collect();
    words
        .windows(2)
        .any(|w| w == [&b"container"[..], b"restore"])
}

/// The netavark that this one stands before.
pub(super) fn real() -> anyhow::Result<PathBuf> {
    let me = fs::canonicalize("/proc/self/exe").context("cannot find this program")?;
    for place in PLACES {
        let path = Path::new(place).join(OsStr::new(NAME));
        // A link to ourselves would never end.
        if fs::canonicalize(&path).is_ok_and(|file| file != me) {
            return Ok(path);
        }
    }
    bail!(
        "there is no netavark in {} (apt install netavark)",
        PLACES.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_restore_is_one() {
        assert!(restores(
            b"podman\0--log-level\0debug\0container\0restore\0-i\0x\0"
        ));
        assert!(!restores(b"podman\0run\0--name\0restore\0image\0"));
        assert!(!restores(b"podman\0container\0start\0restore\0"));
    }

    #[test]
    fn the_namespace_follows_setup() {
        let words = |text: &str| -> Vec<OsString> { text.split(' ').map(Into::into).collect() };
        let setup = words("--config /run/x --rootless=false setup /run/netns/a");
        assert_eq!(namespace(&setup), Some(Path::new("/run/netns/a")));
        assert_eq!(namespace(&words("teardown /run/netns/a")), None);
        assert_eq!(namespace(&words("setup")), None);
    }
}
