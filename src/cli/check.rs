// SPDX-License-Identifier: GPL-2.0-only
//! `telecr check`: what a host needs, whether it is there, and what mends it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use caps::{CapSet, Capability};
use serde::Serialize;
use telecr::sctp::repair::Repair;
use telecr::sctp::Error;

use super::{netavark, output, table::Table, FAILED};

/// Where packaged CRIU looks for plugins when told nothing else.
const PLUGIN: &str = "/usr/lib/criu/telecr_plugin.so";
/// The first CRIU with every hook and inventory call the plugin needs.
const CRIU_MIN: (u32, u32) = (4, 1);
/// From this kernel on CRIU 4.1 fails to dump any socket.
const KERNEL_NEEDING_CRIU_4_2: (u32, u32) = (6, 16);

/// One requirement and how this host meets it.
#[derive(Serialize)]
struct Finding {
    requirement: &'static str,
    ok: bool,
    found: String,
    cure: Option<String>,
}

impl Finding {
    fn met(requirement: &'static str, found: impl Into<String>) -> Self {
        Self {
            requirement,
            ok: true,
            found: found.into(),
            cure: None,
        }
    }

    fn missing(
        requirement: &'static str,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            requirement,
            ok: false,
            found: found.into(),
            cure: Some(cure.into()),
        }
    }
}

/// Print every requirement; the exit code is 1 when one is not met.
pub(super) fn check(json: bool) -> anyhow::Result<ExitCode> {
    let mut findings = vec![
        kernel(),
        privileges(),
        companion(),
        criu(),
        plugin(),
        packet_lock(),
        placeholder(),
    ];
    findings.extend(podman());
    let mut out = output::open();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        let mut table = Table::new(&["REQUIREMENT", "", "FOUND"]);
        for f in &findings {
            let mark = if f.ok { "ok" } else { "MISSING" };
            table.row(vec![f.requirement.into(), mark.into(), f.found.clone()]);
        }
        write!(out, "{table}")?;
        for f in findings.iter().filter(|f| !f.ok) {
            writeln!(out, "\n{}: {}", f.requirement, f.found)?;
            for line in f.cure.iter().flat_map(|c| c.lines()) {
                writeln!(out, "    {line}")?;
            }
        }
    }
    out.flush()?;
    Ok(if findings.iter().all(|f| f.ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn kernel() -> Finding {
    const WHAT: &str = "Linux 6.1, 6.12 or 7.2";
    let release = release();
    match version(&release) {
        Some((6, 1 | 12) | (7, 2)) => Finding::met(WHAT, release),
        _ => Finding::missing(
            WHAT,
            release,
            "apt install linux-image-amd64    # Debian 12, 13 or sid, then reboot",
        ),
    }
}

fn privileges() -> Finding {
    const WHAT: &str = "privileges";
    let needed = [
        Capability::CAP_NET_ADMIN,
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_SYS_PTRACE,
    ];
    let lacking: Vec<String> = needed
        .into_iter()
        .filter(|c| !caps::has_cap(None, CapSet::Effective, *c).unwrap_or(false))
        .map(|c| c.to_string())
        .collect();
    if lacking.is_empty() {
        Finding::met(WHAT, "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_PTRACE")
    } else {
        Finding::missing(
            WHAT,
            format!("no {}", lacking.join(", ")),
            "sudo telecr check",
        )
    }
}

fn companion() -> Finding {
    const WHAT: &str = "SCTP repair mode (kernel)";
    match Repair::open() {
        Ok(r) => Finding::met(WHAT, format!("version {}", r.version())),
        Err(e) => Finding::missing(
            WHAT,
            match e {
                Error::NoCompanion => "not in this kernel".to_owned(),
                other => other.to_string(),
            },
            companion_cure(&release()),
        ),
    }
}

/// What brings the companion to a kernel.
fn companion_cure(release: &str) -> String {
    let built = ["sctp.ko", "sctp.ko.xz"]
        .map(|file| format!("/lib/modules/{release}/updates/dkms/{file}"))
        .iter()
        .any(|file| Path::new(file).exists());
    let load =
        "modprobe sctp    # or reboot, where the stock sctp is loaded already: it cannot be unloaded";
    if built {
        return format!(
            "{load}\n\
             mokutil --import /var/lib/dkms/mok.pub    # and reboot, where that says \"Key was rejected\" (Secure Boot)"
        );
    }
    let source = match version(release) {
        Some((major, minor)) => format!(" linux-source-{major}.{minor}"),
        None => String::new(),
    };
    format!(
        "apt install ./telecr-sctp-dkms_{}_all.deb{source} linux-headers-{release}    \
         # make deb, in telecr's source, makes the first\n\
         dkms autoinstall -k {release}\n{load}",
        env!("CARGO_PKG_VERSION")
    )
}

fn criu() -> Finding {
    const WHAT: &str = "CRIU 4.1 or later";
    const CURE: &str = "apt install criu    # Debian 13 has 4.1.1";
    let Ok(out) = Command::new("criu").arg("--version").output() else {
        return Finding::missing(WHAT, "criu is not in PATH", CURE);
    };
    let text = String::from_utf8_lossy(&out.stdout);
    let found = text
        .lines()
        .find_map(|l| l.strip_prefix("Version: "))
        .unwrap_or_default();
    match version(found) {
        Some(v) if v < CRIU_MIN => Finding::missing(WHAT, found, CURE),
        Some(v)
            if v < (4, 2) && version(&release()).is_some_and(|k| k >= KERNEL_NEEDING_CRIU_4_2) =>
        {
            Finding::missing(
                WHAT,
                format!("{found}, which cannot dump on kernels from 6.16 on"),
                "install CRIU 4.2",
            )
        }
        Some(_) => Finding::met(WHAT, found),
        None => Finding::missing(WHAT, "criu --version says nothing", CURE),
    }
}

fn plugin() -> Finding {
    const WHAT: &str = "CRIU plugin";
    if Path::new(PLUGIN).is_file() {
        Finding::met(WHAT, PLUGIN)
    } else {
        Finding::missing(
            WHAT,
            format!("{PLUGIN} is not there"),
            concat!(
                "apt install ./telecr_",
                env!("CARGO_PKG_VERSION"),
                "_amd64.deb    # make deb, in telecr's source, makes it"
            ),
        )
    }
}

fn packet_lock() -> Finding {
    const WHAT: &str = "nftables (packet lock)";
    match telecr::lock::status() {
        Ok(_) => Finding::met(WHAT, "answers"),
        Err(e @ telecr::lock::Error::NotPermitted) => {
            Finding::missing(WHAT, e.to_string(), "sudo telecr check")
        }
        Err(e) => Finding::missing(WHAT, e.to_string(), "modprobe nf_tables"),
    }
}

/// Where there is podman, it must call telecr's `netavark`, which locks the network of a container that is restored.
fn podman() -> Option<Finding> {
    const WHAT: &str = "podman's netavark";
    let out = Command::new("podman")
        .args(["info", "--format", "{{.Host.NetworkBackendInfo.Path}}"])
        .output()
        .ok()?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        let said = said.trim().lines().next_back().unwrap_or_default();
        return Some(Finding::missing(
            WHAT,
            format!("podman does not say which it calls: {said}"),
            "podman info    # must work; and podman must be 4.6 or later (Debian 13 has 5.4)",
        ));
    }
    let path = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    let ours = std::fs::canonicalize(&path).ok();
    if ours.is_none() || ours != std::fs::canonicalize("/proc/self/exe").ok() {
        return Some(Finding::missing(
            WHAT,
            format!("{path:?} does not lock containers that are restored"),
            "put /usr/libexec/telecr first in helper_binaries_dir, in the last file of /etc/containers/containers.conf.d",
        ));
    }
    Some(match netavark::real() {
        Ok(real) => Finding::met(WHAT, format!("{path}, which calls {}", real.display())),
        Err(e) => Finding::missing(WHAT, e.to_string(), "apt install netavark"),
    })
}

/// CRIU must be able to hold a userfaultfd in a socket's place.
fn placeholder() -> Finding {
    const WHAT: &str = "userfaultfd (placeholder)";
    if Path::new("/proc/sys/vm/unprivileged_userfaultfd").exists() {
        Finding::met(WHAT, "built in")
    } else {
        Finding::missing(WHAT, "not built into this kernel", "use a Debian kernel")
    }
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Major and minor number at the front of a version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_read_off_the_front() {
        assert_eq!(version("6.12.117+deb13-amd64"), Some((6, 12)));
        assert_eq!(version("4.2"), Some((4, 2)));
        assert_eq!(version("none"), None);
    }
}
