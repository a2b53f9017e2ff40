// SPDX-License-Identifier: GPL-2.0-only
//! The guests' root disks: a small Debian with its stock kernel, and the same with more in it; each built once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};

use crate::{cache, packages, tool};

/// Debian release of the guests, whatever their kernel.
pub const SUITE: &str = "trixie";

const PACKAGES: &[&str] = &[
    "linux-image-amd64",
    "criu",
    "socat",
    "tcpdump",
    "lksctp-tools",
    "nftables",
    "iproute2",
    "iputils-ping",
    "iputils-arping",
    "python3-yaml",
    "kmod",
    "procps",
    "strace",
    "iptables",
    "iperf3",
    "secilc",
];

/// CRIU 4.1 cannot dump on Linux 6.16 and later, nor restore what 4.2 has dumped. The newer one comes with two libraries, and
/// the third would follow it if it were not told to stay.
const NEW_CRIU: &[&str] = &[
    "criu/sid",
    "libcompel1/sid",
    "libnl-3-200/sid",
    "libnftables1/trixie",
];

/// What containers need beside them, and what runs in them.
const FOR_CONTAINERS: &[&str] = &[
    "podman",
    "crun",
    "runc",
    "netavark",
    "aardvark-dns",
    "catatonit",
    "conmon",
    "libcriu2",
    "conntrack",
    "mariadb-server",
    "mariadb-client",
];

/// What Docker is made of.
const FOR_DOCKER: &[&str] = &["docker.io", "docker-cli", "containerd", "runc"];

/// What `telecr-sctp-dkms` depends on and recommends.
const FOR_DKMS: &[&str] = &[
    "dkms",
    "linux-headers-amd64",
    "linux-source-6.12",
    "patch",
    "xz-utils",
];

/// A shell command that lists the files of a guest, but for what any program may leave.
pub const LIST: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
    -o -path /var/tmp -o -path /var/cache -o -path /var/log -o -path /newroot \\) -prune -o -print | LC_ALL=C sort";

/// What it said before `telecr-sctp-dkms` was installed.
pub const INVENTORY: &str = "/var/cache/before-telecr";

/// Which disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CRIU and tools.
    Plain,
    /// The same with podman.
    Containers,
    /// The same with Docker and containerd.
    Docker,
    /// The same with `telecr-sctp-dkms` installed from its package.
    Packages,
    /// With Debian 12's kernel.
    Debian12,
    /// With Debian sid's kernel and CRIU.
    Sid,
    /// With Debian sid's CRIU alone.
    NewCriu,
}

impl Kind {
    /// What the cache calls it; none is the beginning of another.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "image",
            Self::Containers => "containers",
            Self::Docker => "docker",
            Self::Packages => "packages",
            Self::Debian12 => "debian12",
            Self::Sid => "sid",
            Self::NewCriu => "newcriu",
        }
    }

    /// The series of its kernel, as `kp` knows it.
    #[must_use]
    pub fn series(self) -> &'static str {
        match self {
            Self::Plain | Self::Containers | Self::Docker | Self::Packages | Self::NewCriu => {
                "6.12"
            }
            Self::Debian12 => "6.1",
            Self::Sid => "7.2",
        }
    }

    /// A Debian release besides the usual one, and the packages to choose.
    fn origin(self) -> (&'static str, Vec<&'static str>) {
        match self {
            Self::Plain | Self::Containers | Self::Docker | Self::Packages => (SUITE, Vec::new()),
            Self::Debian12 => ("bookworm", vec!["linux-image-amd64/bookworm"]),
            Self::Sid => ("sid", [&["linux-image-amd64/sid"], NEW_CRIU].concat()),
            Self::NewCriu => ("sid", NEW_CRIU.to_vec()),
        }
    }

    /// What `apt-get install` is given; the order matters to it.
    fn packages(self) -> String {
        let more: &[&str] = match self {
            Self::Containers => FOR_CONTAINERS,
            Self::Docker => FOR_DOCKER,
            Self::Packages => FOR_DKMS,
            _ => &[],
        };
        let (_, chosen) = self.origin();
        let is_chosen = |p: &str| chosen.iter().any(|c| c.split('/').next() == Some(p));
        let usual = PACKAGES.iter().filter(|p| !is_chosen(p));
        let all: Vec<&str> = chosen.iter().chain(usual).chain(more).copied().collect();
        all.join(",")
    }
}

/// Modules that must be there before the root disk can be mounted and the rig be heard.
const BOOT_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "crc32c_generic",
    "ext4",
];

/// What the build left in the cache.
#[derive(Clone, Debug)]
pub struct Image {
    dir: PathBuf,
    kernel: PathBuf,
    /// The guests' kernel release.
    pub release: String,
}

impl Image {
    /// The root disk; guests never write to it.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("root.ext4")
    }

    /// The kernel.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The same disk for another kernel, one that needs no modules to boot: a folder with `vmlinuz` and `release`.
    pub fn with_kernel(self, dir: &Path) -> Result<Self> {
        let release = fs::read_to_string(dir.join("release"))?.trim().to_string();
        Ok(Self {
            kernel: dir.join("vmlinuz"),
            release,
            ..self
        })
    }

    /// Words for the kernel's command line. Walking ACPI's interrupt routing takes a kernel with KASAN minutes under TCG.
    pub fn options(&self) -> &'static str {
        if self.is_debian() {
            ""
        } else {
            " pci=noacpi"
        }
    }

    fn is_debian(&self) -> bool {
        self.kernel.parent() == Some(&self.dir)
    }

    /// Boot modules in the order to load them.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        if !self.is_debian() {
            return Ok(Vec::new());
        }
        let mut files: Vec<PathBuf> = fs::read_dir(self.dir.join("modules"))?
            .flatten()
            .map(|e| e.path())
            .collect();
        files.sort();
        Ok(files)
    }

    /// Forgets it, so that the next `get` builds anew.
    pub fn discard(self) -> Result<()> {
        cache::remove(&self.dir)
    }
}

/// The image, from the cache or built now; `say` is told when that takes a while.
pub fn get(kind: Kind, say: &dyn Fn(&str)) -> Result<Image> {
    let sources = sources(kind)?;
    let packages = kind.packages();
    let own = match kind {
        Kind::Packages => Some(packages::make()?.dkms),
        _ => None,
    };
    let hash = match &own {
        Some(package) => format!("{:x}", Sha256::digest(fs::read(package)?)),
        None => String::new(),
    };
    let key = cache::key(&[
        SUITE,
        &packages,
        &sources,
        &BOOT_MODULES.join(" "),
        "layout 2",
        &hash,
    ]);
    let dir = cache::build(kind.name(), &key, |dir| {
        say(&format!(
            "building the disk of guests with Linux {} (Debian from this machine's mirror; a minute or two, once)",
            kind.series()
        ));
        build(dir, &packages, own.as_deref(), &sources)
    })?;
    let release = fs::read_to_string(dir.join("release"))?;
    Ok(Image {
        kernel: dir.join("vmlinuz"),
        dir,
        release,
    })
}

/// `own` is a package of ours to install beside those of Debian.
fn build(dir: &Path, packages: &str, own: Option<&Path>, sources: &str) -> Result<()> {
    let list = dir.join("sources.list");
    fs::write(&list, sources)?;
    let tar = dir.join("root.tar");
    let mut command = Command::new("mmdebstrap");
    // The rig brings its own initrd: Debian's would cost half a minute here and seconds at each boot.
    command
        .env("INITRD", "No")
        .args(["--quiet", "--variant=apt"])
        .arg(format!("--include={packages}"));
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    command.arg(format!("--aptopt=APT::Default-Release \"{SUITE}\""));
    // The lists of sid are valid for a week: a mirror that is behind will do.
    command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    for waste in ["doc", "locale", "man", "info"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{waste}/*"));
    }
    if let Some(own) = own {
        let package = format!("/{}", own.file_name().unwrap_or_default().to_string_lossy());
        command.arg(format!("--customize-hook=copy-in {} /", own.display()));
        command.arg(format!(
            "--customize-hook=chroot \"$1\" sh -ec 'mv {package} /run/own.deb; {LIST} > {INVENTORY}; \
             dpkg -i /run/own.deb; rm /run/own.deb' || {{ cat \"$1\"/var/lib/dkms/*/*/build/make.log >&2; exit 1; }}"
        ));
    }
    tool::output(command.arg(SUITE).arg(&tar).arg(&list))?;
    // Owners and devices are kept without root's help, if need be.
    let script = "set -e; cd \"$1\"; mkdir root; tar -C root -xf root.tar --exclude=./dev/*; \
        truncate -s 3G root.ext4; mke2fs -q -F -t ext4 -O ^has_journal,^metadata_csum -L telecr -d root root.ext4; \
        cp root/boot/vmlinuz-* vmlinuz; cp root/lib/modules/*/modules.dep modules.dep; ls root/lib/modules > release.all; \
        mv root/lib/modules modules.all; rm -rf root root.tar";
    // SAFETY: no pointers are passed.
    let root = unsafe { libc::geteuid() } == 0;
    let mut command = if root {
        Command::new("sh")
    } else {
        Command::new("fakeroot")
    };
    if !root {
        command.arg("sh");
    }
    let path = std::env::var("PATH").unwrap_or_default();
    tool::output(
        command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .args(["-c", script, "sh"])
            .arg(dir),
    )?;
    pick_modules(dir)
}

fn pick_modules(dir: &Path) -> Result<()> {
    let releases = fs::read_to_string(dir.join("release.all"))?;
    let [release] = releases.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("the guests' disk holds several kernels or none: {releases:?}");
    };
    fs::write(dir.join("release"), release)?;
    let dep = fs::read_to_string(dir.join("modules.dep"))?;
    fs::create_dir(dir.join("modules"))?;
    for (i, file) in crate::initrd::module_order(&dep, BOOT_MODULES)
        .iter()
        .enumerate()
    {
        let name = Path::new(file)
            .file_name()
            .context("a module without a name")?
            .to_string_lossy()
            .into_owned();
        fs::copy(
            dir.join("modules.all").join(release).join(file),
            dir.join("modules").join(format!("{i:02}-{name}")),
        )?;
    }
    cache::remove(&dir.join("modules.all"))
}

/// Package sources for the guests: the mirror the host itself uses.
pub fn sources(kind: Kind) -> Result<String> {
    let files = Path::new("/etc/apt");
    let mut text = fs::read_to_string(files.join("sources.list")).unwrap_or_default();
    let mut deb822 = String::new();
    if let Ok(dir) = fs::read_dir(files.join("sources.list.d")) {
        for path in dir.flatten().map(|e| e.path()) {
            let content = fs::read_to_string(&path).unwrap_or_default();
            match path.extension().and_then(|e| e.to_str()) {
                Some("list") => text.push_str(&content),
                Some("sources") => deb822.push_str(&format!("\n\n{content}")),
                _ => {}
            }
        }
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .unwrap_or_default();
    let uri = mirror(&text, &deb822, codename).context(
        "no Debian mirror in /etc/apt: the guests are made from the one this machine uses",
    )?;
    let mut suites = vec![SUITE, kind.origin().0];
    suites.dedup();
    Ok(suites
        .iter()
        .map(|suite| format!("deb {uri} {suite} main\n"))
        .collect())
}

/// The address of `codename`'s main archive, from one-line and deb822 sources.
fn mirror(one_line: &str, deb822: &str, codename: &str) -> Option<String> {
    let from_lines = one_line.lines().find_map(|line| {
        let mut words = line
            .split_whitespace()
            .filter(|w| !w.starts_with('[') && !w.ends_with(']'));
        (words.next()? == "deb").then_some(())?;
        let uri = words.next()?;
        (words.next()? == codename && words.any(|w| w == "main")).then(|| uri.to_string())
    });
    from_lines.or_else(|| {
        deb822.split("\n\n").find_map(|stanza| {
            let field = |name: &str| {
                let found = stanza
                    .lines()
                    .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
                found
                    .unwrap_or_default()
                    .split_whitespace()
                    .collect::<Vec<_>>()
            };
            let fits = field("Types").contains(&"deb")
                && field("Suites").contains(&codename)
                && field("Components").contains(&"main");
            fits.then(|| field("URIs").first().map(ToString::to_string))
                .flatten()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_forms() {
        let list = "# x\ndeb-src http://a/ trixie main\ndeb http://s/ trixie-security main\ndeb [arch=amd64] http://m/ trixie main\n";
        assert_eq!(mirror(list, "", "trixie").as_deref(), Some("http://m/"));
        let sources = "Types: deb\nURIs: http://s/\nSuites: trixie-security\nComponents: main\n\n\
            Types: deb\n# note\nURIs: http://m/debian\nSuites: trixie trixie-updates\nComponents: main contrib\n";
        assert_eq!(
            mirror("", sources, "trixie").as_deref(),
            Some("http://m/debian")
        );
        assert_eq!(mirror(list, sources, "bookworm"), None);
    }
}
