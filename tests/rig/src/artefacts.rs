// SPDX-License-Identifier: GPL-2.0-only
//! What is built here and put into the guests: the agent, the workloads, telecr itself, the patched module.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{bail, ensure, Context, Result};
use serde::Deserialize;

use crate::{
    cache,
    image::{self, Image},
    initrd::Archive,
    proto, tool,
};

/// What the guests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's, with the patched module beside it.
    Debian,
    /// The one of `kernel-patches/debug.config`, which watches over itself.
    Debug,
}

impl Kernel {
    /// As `TELECR_RIG_KERNEL` says.
    pub fn chosen() -> Result<Self> {
        match env::var("TELECR_RIG_KERNEL").as_deref() {
            Err(_) | Ok("") => Ok(Self::Debian),
            Ok("debug") => Ok(Self::Debug),
            Ok(other) => bail!("TELECR_RIG_KERNEL is {other:?}: only `debug` is known"),
        }
    }
}

/// What a scenario needs in its guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Only the workloads, on the stock `sctp.ko`.
    Workloads,
    /// The workloads, on the patched module.
    Patched,
    /// The workloads, telecr and its plugin, and the patched module.
    Everything,
    /// The same, in larger guests.
    Bench,
    /// The same, and podman.
    Containers,
    /// Everything, with no `sctp.ko` loaded on source and destination.
    Unloaded,
    /// Everything, and Docker.
    Docker,
    /// Only the workloads, with no `sctp.ko` loaded, on a disk where `telecr-sctp-dkms` is installed.
    Packages,
    /// The patched module, and the tests of the library and of the series that need it.
    Tests,
    /// The same on another kernel than Debian 13's.
    TestsOn(image::Kind),
    /// The same on a host for each of the other kernels.
    TestsOnOthers,
    /// Everything, on a host for each kernel.
    Kernels,
}

impl Needs {
    /// Memory of a guest, in MiB.
    #[must_use]
    pub fn memory_mib(self) -> u32 {
        match self {
            Self::Bench => 3072,
            Self::Containers | Self::Docker => 1536,
            _ => 640,
        }
    }

    /// The disk of a guest.
    #[must_use]
    pub fn image(self) -> image::Kind {
        match self {
            Self::Containers => image::Kind::Containers,
            Self::Docker => image::Kind::Docker,
            Self::Packages => image::Kind::Packages,
            Self::TestsOn(kind) => kind,
            _ => image::Kind::Plain,
        }
    }

    /// Is the patched module put into the guests?
    #[must_use]
    pub fn module(self) -> bool {
        !matches!(self, Self::Workloads | Self::Packages)
    }
}

/// Where the patched modules lie in a guest.
pub const GUEST_MODULES: &str = "/usr/lib/telecr";

/// The selftests of the kernel series, in a guest.
pub const SELFTESTS: &str = "/usr/lib/telecr/selftests";
/// The selftest of the spec, with as much of a kernel tree as it needs.
pub const YNL: &str = "/usr/lib/telecr/ynl.tar";
/// The library's tests against the companion, `tests/companion`, in a guest.
pub const COMPANION_TESTS: &str = "/usr/bin/companion-tests";
/// The tests with hostile timing and input, `tests/hostile`, in a guest.
pub const HOSTILE_TESTS: &str = "/usr/bin/hostile-tests";

/// Files for the guests: path, permissions, content.
#[derive(Debug, Default)]
pub struct Payload {
    files: Vec<(String, u32, Vec<u8>)>,
}

impl Payload {
    /// Adds a program, library or module of the host, without its debug information.
    pub fn add(&mut self, guest_path: &str, mode: u32, host_path: &Path) -> Result<()> {
        let temp = cache::dir()?.join(format!("stripped-{}", std::process::id()));
        tool::output(
            Command::new("strip")
                .arg("--strip-debug")
                .arg("-o")
                .arg(&temp)
                .arg(host_path),
        )?;
        self.add_as_it_is(guest_path, mode, &temp)?;
        fs::remove_file(&temp)?;
        Ok(())
    }

    /// Adds any file.
    pub fn add_as_it_is(&mut self, guest_path: &str, mode: u32, host_path: &Path) -> Result<()> {
        let content =
            fs::read(host_path).with_context(|| format!("cannot read {}", host_path.display()))?;
        self.files.push((
            guest_path.trim_start_matches('/').to_string(),
            mode,
            content,
        ));
        Ok(())
    }
}

/// Builds what is needed and packs it into an initrd.
pub fn initrd(image: &Image, agent: &Path, payload: &Payload, to: &Path) -> Result<()> {
    let mut archive = Archive::default();
    archive.file("init", 0o755, &fs::read(agent)?);
    for module in image.modules()? {
        let name = module
            .file_name()
            .context("a module without a name")?
            .to_string_lossy()
            .into_owned();
        archive.file(
            &format!("{}/{name}", proto::MODULES),
            0o644,
            &fs::read(&module)?,
        );
    }
    archive.file(
        &format!("{}/etc/telecr-rig", proto::PAYLOAD),
        0o644,
        b"A guest of telecr's rig.\n",
    );
    for (path, mode, content) in &payload.files {
        archive.file(&format!("{}/{path}", proto::PAYLOAD), *mode, content);
    }
    fs::write(to, archive.finish()).with_context(|| format!("cannot write {}", to.display()))
}

/// Builds the agent, linked statically because it runs before there is a root.
pub fn agent() -> Result<PathBuf> {
    let args = ["rustc", "--package", "telecr-rig", "--bin", "rig-agent"];
    let made = cargo(&args, &["--", "-C", "target-feature=+crt-static"])?;
    find(&made, "rig-agent")
}

/// Builds what guests with this disk need.
pub fn payload(needs: Needs, kind: image::Kind, say: &dyn Fn(&str)) -> Result<Payload> {
    let mut payload = Payload::default();
    let workloads = ["build", "--package", "telecr-workloads"];
    let everything = [
        &workloads[..],
        &["--package", "telecr", "--package", "telecr_plugin"],
    ]
    .concat();
    let all = matches!(
        needs,
        Needs::Everything
            | Needs::Bench
            | Needs::Containers
            | Needs::Docker
            | Needs::Unloaded
            | Needs::Kernels
    );
    let made = cargo(if all { &everything } else { &workloads }, &[])?;
    for name in [
        "mme-server",
        "enb-peer",
        "socket-zoo",
        "bench-conns",
        "spgw",
        "ran-peer",
        "gtp-load",
        "flood",
    ] {
        payload.add(&format!("/usr/bin/{name}"), 0o755, &find(&made, name)?)?;
    }
    if all {
        payload.add("/usr/bin/telecr", 0o755, &find(&made, "telecr")?)?;
        payload.add(
            "/usr/lib/criu/telecr_plugin.so",
            0o755,
            &find(&made, "libtelecr_plugin.so")?,
        )?;
    }
    if needs.module() || (needs == Needs::Workloads && Kernel::chosen()? == Kernel::Debug) {
        let dir = modules(kind, say)?;
        if matches!(
            needs,
            Needs::Tests | Needs::TestsOn(_) | Needs::TestsOnOthers
        ) {
            for test in fs::read_dir(dir.join("selftests"))? {
                let test = test?;
                let name = test.file_name().to_string_lossy().into_owned();
                payload.add(&format!("{SELFTESTS}/{name}"), 0o755, &test.path())?;
            }
            payload.add_as_it_is(YNL, 0o644, &dir.join("ynl.tar"))?;
            payload.add(COMPANION_TESTS, 0o755, &tests("companion")?)?;
            payload.add(HOSTILE_TESTS, 0o755, &tests("hostile")?)?;
        }
        for name in ["sctp.ko", "sctp_diag.ko"] {
            payload.add(&format!("{GUEST_MODULES}/{name}"), 0o644, &dir.join(name))?;
        }
    }
    Ok(payload)
}

/// Builds a folder of `tests/`.
fn tests(name: &str) -> Result<PathBuf> {
    let made = cargo(&["test", "--no-run", "--test", name], &[])?;
    let prefix = format!("{name}-");
    made.into_iter()
        .find(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        })
        .with_context(|| format!("cargo made no {name} tests"))
}

/// The folder with the patched modules.
pub fn modules(kind: image::Kind, say: &dyn Fn(&str)) -> Result<PathBuf> {
    if let Some(dir) = env::var_os("TELECR_KO_DIR").filter(|_| kind.series() == "6.12") {
        return Ok(dir.into());
    }
    let build = match Kernel::chosen()? {
        Kernel::Debian => "build",
        Kernel::Debug => "debug-kernel",
    };
    say(&format!(
        "building the patched sctp.ko for {}",
        kind.series()
    ));
    let kp = tool::repository()?.join("kernel-patches/kp");
    let out = tool::output(Command::new(kp).args([build, kind.series()]))?;
    let text = String::from_utf8(out)?;
    let dir = text
        .lines()
        .last()
        .context("`kp build` named no folder")?
        .trim();
    Ok(dir.into())
}

/// Checks that the patched module was built for the guests' kernel.
pub fn matches(module: &Path, release: &str) -> Result<()> {
    let bytes = fs::read(module).with_context(|| format!("cannot read {}", module.display()))?;
    let magic = vermagic(&bytes).context("the module has no vermagic")?;
    ensure!(
        magic == release,
        "the guests run kernel {release} and {} was built for {magic}: remove the older of the two from the cache",
        module.display()
    );
    Ok(())
}

fn vermagic(module: &[u8]) -> Option<String> {
    let key = b"\0vermagic=";
    let at = module.windows(key.len()).position(|w| w == key)? + key.len();
    let text: Vec<u8> = module
        .get(at..)?
        .iter()
        .copied()
        .take_while(|b| !matches!(b, 0 | b' '))
        .collect();
    String::from_utf8(text).ok()
}

/// The part of cargo's messages that matters here.
#[derive(Deserialize)]
struct Made {
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// Runs cargo and returns the files it made or found fresh.
fn cargo(args: &[&str], rest: &[&str]) -> Result<Vec<PathBuf>> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(tool::repository()?).args(args);
    command
        .args(["--release", "--quiet", "--message-format=json"])
        .args(rest);
    let out = String::from_utf8(tool::output(&mut command)?)?;
    Ok(out
        .lines()
        .filter_map(|l| serde_json::from_str::<Made>(l).ok())
        .flat_map(|m| m.filenames)
        .collect())
}

fn find(made: &[PathBuf], name: &str) -> Result<PathBuf> {
    let found = made
        .iter()
        .find(|p| p.file_name().is_some_and(|n| n == name));
    found
        .cloned()
        .with_context(|| format!("cargo made no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vermagic_is_found() {
        let module =
            b"\x7fELF..\0license=GPL\0vermagic=6.12.1+deb13-amd64 SMP preempt\0name=sctp\0";
        assert_eq!(vermagic(module).as_deref(), Some("6.12.1+deb13-amd64"));
        assert_eq!(vermagic(b"vermagic"), None);
    }
}
