// SPDX-License-Identifier: GPL-2.0-only
//! Source, destination and peer on one network.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};

use crate::{
    accel::{self, Accel},
    artefacts::{self, Kernel, Needs, Payload, GUEST_MODULES},
    capture,
    guest::{Guest, Setup},
    image::{self, Kind},
    narrate::Narrator,
    switch::{Switch, Wire},
};

/// The address that moves, IPv4.
pub const SERVICE4: &str = "10.45.0.100";
/// The address that moves, IPv6.
pub const SERVICE6: &str = "fd00:45::100";
/// The same with its prefix length.
pub const SERVICE4_NET: &str = "10.45.0.100/24";
/// The same with its prefix length.
pub const SERVICE6_NET: &str = "fd00:45::100/64";
/// The peer's IPv4 address.
pub const PEER4: &str = "10.45.0.3";
/// The peer's IPv6 address.
pub const PEER6: &str = "fd00:45::3";
/// Limits are multiplied by this on the debug kernel.
const DEBUG_SLOWDOWN: f64 = 5.0;
/// Where CRIU's images and logs lie in a guest.
pub const IMAGES: &str = "/var/tmp/img";

/// What of SCTP is left, and memory nobody points to any more: on a kernel that can tell (`debug.config`). A leak counts when
/// two scans in a row find it.
const LEAKS: &str = "cd /sys/kernel/debug; [ -e kmemleak ] || exit 0; \
    sleep 6; echo scan > kmemleak; sleep 6; echo scan > kmemleak; cat kmemleak > /var/tmp/kmemleak.log; \
    grep -A 12 '^unreferenced' kmemleak | head -n 40";
/// Where podman keeps CRIU's logs, from the root on.
const CONTAINERS: &str = "var/lib/containers/storage/overlay-containers";

/// What a scenario wants.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What is put into the guests.
    pub needs: Needs,
    /// Is there a destination?
    pub dest: bool,
    /// How the wire behaves.
    pub wire: Wire,
}

/// The guests and what joins them.
#[derive(Debug)]
pub struct Lab {
    // Guests come first: they are dropped before the switch they are plugged into.
    /// Where the service runs first.
    pub source: Guest,
    /// Where it moves to.
    dest: Option<Guest>,
    /// Hosts that are neither now.
    others: Vec<Guest>,
    /// Who talks to it.
    pub peer: Guest,
    /// KVM or TCG, and its limits.
    pub accel: Accel,
    switch: Switch,
    dir: PathBuf,
}

impl Lab {
    /// Builds what is missing and boots the guests, one after another.
    pub fn start(plan: Plan, dir: &Path, tell: &Narrator) -> Result<Self> {
        let say = |words: &str| tell.step(words);
        let agent = artefacts::agent()?;
        let hosts = hosts(plan);
        let mut systems: Vec<System> = Vec::new();
        for host in &hosts {
            if systems.iter().all(|s| s.kind != host.kind) {
                systems.push(System::make(plan.needs, host.kind, &agent, dir, &say)?);
            }
        }
        let first = systems.first().context("no guests")?;
        let plain = dir.join("probe.initrd");
        artefacts::initrd(&first.image, &agent, &Payload::default(), &plain)?;
        let mut accel = accel::find(&first.image, &plain, &say)?;
        let debug = Kernel::chosen()? == Kernel::Debug;
        if debug {
            accel.slowdown *= DEBUG_SLOWDOWN;
        }
        fs::remove_file(&plain)?;
        let capture = dir.join("peer.pcap");
        let ports: Vec<&str> = hosts.iter().map(|h| h.name).collect();
        let switch = Switch::start(dir, &ports, "peer", &capture, plan.wire)?;
        let boot = |host: &Host| -> Result<Guest> {
            let (name, number) = (host.name, host.number);
            tell.step(&format!(
                "booting {name} ({})",
                if accel.kvm { "KVM" } else { "TCG, no KVM here" }
            ));
            let system = systems
                .iter()
                .find(|s| s.kind == host.kind)
                .context("a disk without a system")?;
            let port = Some(switch.port(name));
            let setup = Setup {
                name,
                number,
                dir,
                image: &system.image,
                initrd: &system.initrd,
                port,
                accel,
                memory_mib: plan.needs.memory_mib() * if debug { 3 } else { 1 },
                boot: if labels(plan.needs, name) {
                    " security=selinux"
                } else {
                    ""
                },
                boot_seconds: 30.0,
            };
            let mut guest = Guest::boot(&setup)?;
            prepare(&mut guest, number, plan.needs)
                .with_context(|| format!("cannot prepare {name}"))?;
            Ok(guest)
        };
        let mut guests = Vec::new();
        for host in &hosts {
            guests.push(boot(host)?);
        }
        for system in &systems {
            fs::remove_file(&system.initrd)?;
        }
        let peer = guests.pop().context("no peer")?;
        let mut guests = guests.into_iter();
        Ok(Self {
            source: guests.next().context("no source")?,
            dest: guests.next(),
            others: guests.collect(),
            peer,
            accel,
            switch,
            dir: dir.to_path_buf(),
        })
    }

    /// The destination, in a scenario that has one.
    pub fn dest(&mut self) -> Result<&mut Guest> {
        self.dest
            .as_mut()
            .context("this scenario has no destination")
    }

    /// Both at once.
    pub fn hosts(&mut self) -> Result<[&mut Guest; 2]> {
        let dest = self
            .dest
            .as_mut()
            .context("this scenario has no destination")?;
        Ok([&mut self.source, dest])
    }

    /// Makes the destination the source, and the other way round.
    pub fn swap(&mut self) -> Result<()> {
        let dest = self
            .dest
            .as_mut()
            .context("this scenario has no destination")?;
        std::mem::swap(&mut self.source, dest);
        Ok(())
    }

    /// Goes on from the destination, which becomes the source, to the host of that name.
    pub fn on_to(&mut self, name: &str) -> Result<()> {
        self.swap()?;
        let dest = self.dest()?;
        if dest.name != name {
            let other = self.others.iter_mut().find(|g| g.name == name);
            let other = other.with_context(|| format!("no host is called {name}"))?;
            let dest = self.dest.as_mut().context("no destination")?;
            std::mem::swap(dest, other);
        }
        Ok(())
    }

    /// What the peer's wire showed between two moments.
    pub fn wire(&self, port: u16, from: SystemTime, to: SystemTime) -> Result<capture::Wire> {
        self.switch.flush()?;
        Ok(capture::analyse(&fs::read(self.capture())?, port, from, to))
    }

    /// What hosts answered between two moments to packets they had no use for.
    pub fn answers(&self, from: SystemTime, to: SystemTime) -> Result<capture::answers::Answers> {
        self.switch.flush()?;
        let pcap = fs::read(self.capture())?;
        Ok(capture::answers::count(&pcap, from, to))
    }

    /// The capture's file.
    pub fn capture(&self) -> PathBuf {
        self.dir.join("peer.pcap")
    }

    /// What the guests' kernels complained about: each Oops, warning or lock report, by its first line.
    pub fn complaints(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        for guest in self.guests() {
            let mut ask = |script: &str| match guest.sh(script) {
                Ok(lines) => found.extend(
                    lines
                        .lines()
                        .map(|l| format!("{}'s kernel: {l}", guest.name)),
                ),
                Err(e) => found.push(format!("{e:#}")),
            };
            ask("dmesg | grep -E 'BUG|WARNING|Oops|general protection|refcount_t|RIP:|UBSAN|ODEBUG|blocked for more' | head -n 5 || true");
            ask(LEAKS);
        }
        found
    }

    fn guests(&mut self) -> impl Iterator<Item = &mut Guest> {
        [
            Some(&mut self.source),
            self.dest.as_mut(),
            Some(&mut self.peer),
        ]
        .into_iter()
        .flatten()
        .chain(&mut self.others)
    }

    /// Fetches logs out of the guests into the scenario's folder, as far as they still answer.
    pub fn collect(&mut self) {
        let dir = self.dir.clone();
        let _ = self.switch.flush();
        let script = format!(
            "cd /; dmesg > /var/tmp/dmesg.log; ss -San > /var/tmp/ss.log 2>&1; nft list ruleset > /var/tmp/nft.log 2>&1; \
             ip address > /var/tmp/ip.log; ps -eo pid,ppid,stat,wchan:32,args > /var/tmp/ps.log; tar -c $(find var/tmp {IMAGES} {CONTAINERS} -name '*.log' -o -name '*.json' -o -name '*.pcap' 2> /dev/null | sort -u)"
        );
        for guest in self.guests() {
            let tar = format!("/var/tmp/{}.tar", guest.name);
            if guest
                .run(&["sh", "-c", &format!("({script}) > {tar}")])
                .is_ok()
            {
                if let Ok(bytes) = guest.get(&tar) {
                    let _ = fs::write(dir.join(format!("{}.logs.tar", guest.name)), bytes);
                }
            }
        }
    }
}

/// A guest to be.
struct Host {
    name: &'static str,
    number: u8,
    kind: Kind,
}

/// The guests of a plan in the order in which they boot; the peer is the last.
fn hosts(plan: Plan) -> Vec<Host> {
    let host = |name, number, kind| Host { name, number, kind };
    let usual = plan.needs.image();
    let mut hosts = match plan.needs {
        Needs::Kernels => vec![
            host("linux-6.1", 1, Kind::Debian12),
            host("linux-6.12", 2, Kind::NewCriu),
            host("linux-7.2", 4, Kind::Sid),
        ],
        Needs::TestsOnOthers => vec![
            host("linux-6.1", 1, Kind::Debian12),
            host("linux-7.2", 4, Kind::Sid),
        ],
        _ if plan.dest => vec![host("source", 1, usual), host("dest", 2, usual)],
        _ => vec![host("source", 1, usual)],
    };
    hosts.push(host("peer", 3, usual));
    hosts
}

/// What guests of one kernel boot.
struct System {
    kind: Kind,
    image: image::Image,
    initrd: PathBuf,
}

impl System {
    fn make(
        needs: Needs,
        kind: Kind,
        agent: &Path,
        dir: &Path,
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        let payload = artefacts::payload(needs, kind, say)?;
        let image = image_for(needs, kind, say)?;
        let initrd = dir.join(format!("initrd-{}", kind.name()));
        artefacts::initrd(&image, agent, &payload, &initrd)?;
        Ok(Self {
            kind,
            image,
            initrd,
        })
    }
}

/// The guests' disk; built anew if its kernel is not the one the patched module was built for.
fn image_for(needs: Needs, kind: Kind, say: &dyn Fn(&str)) -> Result<image::Image> {
    let found = image::get(kind, say)?;
    if needs == Needs::Packages {
        return Ok(found);
    }
    if Kernel::chosen()? == Kernel::Debug {
        return found.with_kernel(&artefacts::modules(kind, &|_| ())?);
    }
    if needs == Needs::Workloads {
        return Ok(found);
    }
    let module = artefacts::modules(kind, &|_| ())?.join("sctp.ko");
    if artefacts::matches(&module, &found.release).is_ok() {
        return Ok(found);
    }
    found.discard()?;
    let fresh = image::get(kind, say)?;
    artefacts::matches(&module, &fresh.release)?;
    Ok(fresh)
}

/// Some tests want a host that labels associations; the peer has nothing else to do then.
fn labels(needs: Needs, name: &str) -> bool {
    matches!(needs, Needs::Tests | Needs::TestsOn(_)) && name == "peer"
}

const PIDS_PER_GUEST: u32 = 6000;

/// Network and modules.
fn prepare(guest: &mut Guest, number: u8, needs: Needs) -> Result<()> {
    // A process keeps its number when it moves: each guest takes them from a range of its own.
    let pids = PIDS_PER_GUEST * u32::from(number);
    guest.sh(&format!(
        "ip link set lo up; sysctl -qw net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.eth0.ndisc_notify=1 kernel.ns_last_pid={pids}; \
         ip link set eth0 up; ip address add {}/24 dev eth0; \
         ip address add fd00:45::{number}/64 dev eth0 nodad; mkdir -p {IMAGES}",
        guest.address()
    ))?;
    if needs == Needs::Packages {
        // Which module is found is what is to be seen.
    } else if Kernel::chosen()? == Kernel::Debug {
        // All but SCTP is built in.
        guest.sh(&format!(
            "insmod {GUEST_MODULES}/sctp.ko; insmod {GUEST_MODULES}/sctp_diag.ko; mount -t debugfs none /sys/kernel/debug"
        ))?;
    } else if needs == Needs::Workloads || guest.name == "peer" && !labels(needs, &guest.name) {
        guest.sh("modprobe -a sctp sctp_diag")?;
    } else if needs == Needs::Unloaded {
        guest.sh("modprobe -a libcrc32c crc32c_generic udp_tunnel ip6_udp_tunnel nf_tables")?;
    } else {
        // What the modules need differs with the kernel.
        guest.sh(&format!(
            "cd {GUEST_MODULES}; modprobe -a nf_tables $(modinfo -F depends sctp.ko sctp_diag.ko | tr , '\\n' | grep -vx sctp); \
             insmod sctp.ko; insmod sctp_diag.ko"
        ))?;
    }
    if needs == Needs::Containers {
        podman(guest)?;
    }
    // What CRIU finds out about a kernel only once should not count as dump time.
    if guest.name != "peer" {
        guest.run(&["sh", "-c", "criu check > /var/tmp/criu-check.log 2>&1"])?;
    }
    Ok(())
}

/// What `make install` does for podman.
fn podman(guest: &mut Guest) -> Result<()> {
    let drop_in = include_bytes!("../../../podman/50-telecr.conf");
    guest.put(
        "/etc/containers/containers.conf.d/50-telecr.conf",
        0o644,
        drop_in,
    )?;
    guest.sh(
        "mkdir -p /usr/libexec/telecr; ln -sfn ../../bin/telecr /usr/libexec/telecr/netavark",
    )?;
    Ok(())
}
