// SPDX-License-Identifier: GPL-2.0-only
//! A container moves: podman's own commands, step by step, with a stopwatch.

use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::{
    guest::Guest,
    lab::{Lab, SERVICE4, SERVICE4_NET, SERVICE6, SERVICE6_NET},
    migrate::{self, Window},
    outcome::Outcome,
    readme,
};

/// podman's network, whatever its driver.
const NETWORK: &str = "core";
/// The namespace made before the container.
const NAMESPACE: &str = "/run/netns/epc";
/// The pod.
pub const POD: &str = "core";
/// The bridge made before podman's network.
const BRIDGE: &str = "br-core";

/// How a container comes to its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// `--network host`: the operator moves the addresses.
    Host,
    /// A macvlan device on the host's: podman moves the addresses.
    Macvlan,
    /// A port of a bridge that the host is on: podman moves the addresses.
    Bridge,
    /// `--network ns:`, a namespace made by the operator, who moves the addresses.
    Namespace,
    /// That of a pod with a macvlan device, which is made first: podman moves the addresses.
    Pod,
}

/// What runs.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it comes to its addresses.
    pub network: Network,
    /// Its IPv4 and, unless empty, IPv6 address.
    pub addresses: [&'a str; 2],
    /// crun or runc.
    pub runtime: &'a str,
    /// More options of `podman run`.
    pub options: &'a [&'a str],
    /// More options of `podman container checkpoint` and `restore`.
    pub moving: &'a [&'a str],
    /// Image and command.
    pub command: &'a [&'a str],
}

/// Makes an image of programs of the guest, with the libraries they need, and whatever `more` puts into the folder it runs
/// in; on both hosts, under the same id.
pub fn image(lab: &mut Lab, name: &str, programs: &[&str], more: &str) -> Result<()> {
    lab.source.sh(&format!(
        "rm -rf /var/tmp/root; mkdir /var/tmp/root; cd /var/tmp/root; mkdir bin etc tmp run proc sys dev var usr; \
         chmod 1777 tmp run; for p in {}; do cp $p bin/; ldd $p | grep -o '/[^ ]*' | while read -r l; do \
         mkdir -p ./${{l%/*}}; cp -u $l ./$l; done; done; {more}",
        programs.join(" ")
    ))?;
    let out = lab.source.run_within(
        &["sh", "-ec", &format!(
            "rm -f /var/tmp/image.tar; tar -c -C /var/tmp/root . | podman import - {name} && podman save -o /var/tmp/image.tar {name}"
        )],
        &[],
        180.0,
    )?;
    migrate::must("source", "podman import", &out)?;
    migrate::copy(lab, &["/var/tmp/image.tar"])?;
    let out = lab.dest()?.run_within(
        &["podman", "load", "-q", "-i", "/var/tmp/image.tar"],
        &[],
        180.0,
    )?;
    migrate::must("dest", "podman load", &out)
}

impl Network {
    /// Prepares a host, once.
    pub fn prepare(self, guest: &mut Guest) -> Result<()> {
        let own = guest.address();
        let subnets = format!(
            "--subnet 10.45.0.0/24 --gateway {own} --ipv6 --subnet fd00:45::/64 --gateway fd00:45::ffff {NETWORK}"
        );
        match self {
            Self::Host | Self::Namespace => return Ok(()),
            Self::Macvlan | Self::Pod => guest.sh(&format!(
                "podman network create -d macvlan -o parent=eth0 {subnets}"
            ))?,
            // podman makes no network of a subnet that the host is on.
            Self::Bridge => guest.sh(&format!(
                "six=$(ip -o -6 address show dev eth0 scope global | sed 's/.*inet6 //; s/ .*//'); \
                 ip address flush dev eth0; podman network rm -f {NETWORK}; \
                 podman network create -d bridge --disable-dns -o mode=unmanaged --interface-name {BRIDGE} {subnets}; \
                 ip link add {BRIDGE} type bridge; ip link set {BRIDGE} up; ip link set eth0 master {BRIDGE}; \
                 ip address add {own}/24 dev {BRIDGE}; ip address add $six dev {BRIDGE} nodad"
            ))?,
        };
        Ok(())
    }

    /// What the operator does on the source when the container is gone.
    fn leave(self, guest: &mut Guest) -> Result<()> {
        match self {
            Self::Host => guest.sh(&migrate::addresses("del", &[SERVICE4_NET, SERVICE6_NET]))?,
            // telecr-departed lives in the namespace until its addresses have left.
            Self::Namespace => guest.sh("ip -n epc link delete epc0; ip netns delete epc")?,
            Self::Macvlan | Self::Bridge | Self::Pod => return Ok(()),
        };
        Ok(())
    }

    /// What the operator does on the destination before the container comes.
    fn arrive(self, guest: &mut Guest) -> Result<()> {
        match self {
            Self::Host => {
                guest.sh(&migrate::lock(&[SERVICE4, SERVICE6]))?;
                migrate::own(guest, &[SERVICE4_NET, SERVICE6_NET])
            }
            Self::Namespace => {
                guest.sh(&format!(
                    "ip netns add epc; telecr lock --netns {NAMESPACE}"
                ))?;
                inhabit(guest)
            }
            Self::Macvlan | Self::Bridge | Self::Pod => Ok(()),
        }
    }

    /// The same where it begins.
    fn begin(self, guest: &mut Guest) -> Result<()> {
        match self {
            Self::Host => migrate::own(guest, &[SERVICE4_NET, SERVICE6_NET]),
            Self::Namespace => {
                guest.sh("ip netns add epc")?;
                inhabit(guest)
            }
            Self::Macvlan | Self::Bridge | Self::Pod => Ok(()),
        }
    }
}

/// What a host knows of the last container with an address: its link address, and the path MTU it has asked for.
pub fn forget(guest: &mut Guest) -> Result<()> {
    guest.sh("ip neigh flush dev eth0; ip route flush cache; ip -6 route flush cache")?;
    Ok(())
}

/// Options for podman's network, with these addresses.
fn addressed([v4, v6]: [&str; 2]) -> Vec<&str> {
    let mut options = vec!["--network", NETWORK, "--ip", v4];
    if !v6.is_empty() {
        options.extend(["--ip6", v6]);
    }
    options
}

/// Makes a pod; it is started with its first container.
pub fn pod(guest: &mut Guest, runtime: &str, addresses: [&str; 2]) -> Result<()> {
    let argv = [
        "podman",
        "--runtime",
        runtime,
        "pod",
        "create",
        "--name",
        POD,
    ];
    let argv = [&argv[..], &addressed(addresses)].concat();
    let out = guest.run_within(&argv, &[], 120.0)?;
    migrate::must(&guest.name, "podman pod create", &out)
}

/// Gives the namespace its device, which has the same link address on every host.
fn inhabit(guest: &mut Guest) -> Result<()> {
    guest.sh(&format!(
        "ip link add link eth0 name epc0 netns epc address 02:45:00:00:00:64 type macvlan mode bridge; \
         ip -n epc link set lo up; ip -n epc link set epc0 up; \
         ip -n epc address add {SERVICE4_NET} dev epc0; ip -n epc address add {SERVICE6_NET} dev epc0 nodad; \
         ip netns exec epc arping -q -U -c 1 -I epc0 {SERVICE4}; \
         ip netns exec epc ping -q -c 1 -W 1 fd00:45::3 > /dev/null || true"
    ))?;
    Ok(())
}

impl Container<'_> {
    /// Starts it on the source.
    pub fn start(&self, lab: &mut Lab) -> Result<()> {
        self.network.begin(&mut lab.source)?;
        forget(&mut lab.peer)?;
        let mut argv = vec!["podman", "run", "-d", "--runtime", self.runtime];
        argv.extend(["--name", self.name]);
        let namespace = format!("ns:{NAMESPACE}");
        match self.network {
            Network::Host => argv.extend(["--network", "host"]),
            Network::Namespace => argv.extend(["--network", &namespace]),
            Network::Macvlan | Network::Bridge => argv.extend(addressed(self.addresses)),
            Network::Pod => argv.extend(["--pod", POD]),
        }
        let argv = [&argv, self.options, self.command].concat();
        let out = lab.source.run_within(&argv, &[], 120.0)?;
        migrate::must("source", "podman run", &out)
    }

    /// The script that checkpoints it into what [`restore`](Self::restore) takes.
    pub fn checkpoint(&self) -> Result<String> {
        self.pasted(0)
    }

    fn restore(&self) -> Result<String> {
        self.pasted(1)
    }

    /// A block of README.md with this container's name in it, and its options.
    fn pasted(&self, number: usize) -> Result<String> {
        let block = readme::block("### podman", number)?;
        let command = block.trim_end().replace("mme", self.name);
        Ok(format!("cd /var/tmp; {command} {}", self.moving.join(" ")))
    }

    /// The file that travels.
    fn archive(&self) -> String {
        format!("/var/tmp/{}.tar.zst", self.name)
    }

    /// Moves it from the source to the destination. Figures are noted with the worst of all moves of a scenario.
    pub fn migrate(&self, lab: &mut Lab, outcome: &mut Outcome) -> Result<Window> {
        let archive = self.archive();
        let ping = Ping::start(lab, self.addresses[0])?;
        let began = SystemTime::now();
        let argv = ["sh", "-ec", &self.checkpoint()?];
        let out = lab.source.run_within(&argv, &[], 120.0)?;
        migrate::must(&lab.source.name, "podman container checkpoint", &out)?;
        outcome.worst("checkpoint_ms", out.elapsed_ms);
        self.network.leave(&mut lab.source)?;
        let bytes = lab.source.sh(&format!("stat -c %s {archive}"))?;
        outcome.worst("image_bytes", bytes.trim().parse()?);

        outcome.worst("transfer_ms", migrate::copy(lab, &[&archive])?);

        let dest = lab.dest()?;
        self.network.arrive(dest)?;
        let out = dest.run_within(&["sh", "-ec", &self.restore()?], &[], 120.0)?;
        migrate::must(&dest.name, "podman container restore", &out)?;
        outcome.worst("restore_ms", out.elapsed_ms);
        outcome.worst("downtime_ms", ping.stop(lab)?);
        let ended = SystemTime::now();

        lab.source.sh(&format!("podman rm {}", self.name))?;
        let left = lab.dest()?.sh("telecr status")?;
        let ours = self.addresses.iter().filter(|a| !a.is_empty());
        let locked = ours.chain(&["everything"]).any(|word| left.contains(word));
        outcome.require(!locked, || {
            format!("after the restore this is still locked: {left}")
        });
        Ok(Window { began, ended })
    }

    /// Ends it where it is, with its addresses.
    pub fn stop(&self, guest: &mut Guest) -> Result<()> {
        guest.sh(&format!("podman rm -f -t 0 {}", self.name))?;
        self.network.leave(guest)
    }
}

/// Asks for an address, many times a second.
#[derive(Debug)]
pub struct Ping {
    pid: i32,
}

impl Ping {
    const LOG: &'static str = "/var/tmp/ping.log";

    /// Begins, and waits for the first answers.
    pub fn start(lab: &mut Lab, address: &str) -> Result<Self> {
        let argv = ["ping", "-D", "-i", "0.05", address];
        let pid = lab.peer.spawn(&argv, Self::LOG)?;
        lab.peer.until("an answer to a ping", 20.0, |g| {
            Ok(g.get(Self::LOG)?.len() > 200)
        })?;
        Ok(Self { pid })
    }

    /// The longest time between two answers, in milliseconds.
    pub fn stop(self, lab: &mut Lab) -> Result<u64> {
        let before = lab.peer.get(Self::LOG)?.len();
        lab.peer.until("the address to answer a ping", 30.0, |g| {
            Ok(g.get(Self::LOG)?.len() > before)
        })?;
        lab.peer.signal(self.pid, libc::SIGINT)?;
        lab.peer.wait(self.pid, 10.0)?;
        let log = String::from_utf8_lossy(&lab.peer.get(Self::LOG)?).into_owned();
        longest_gap(&log).context("ping has noted no answers")
    }
}

/// From the lines `[SECONDS] 64 bytes from ...`.
fn longest_gap(log: &str) -> Option<u64> {
    let answers: Vec<f64> = log
        .lines()
        .filter(|l| l.contains(" bytes from "))
        .filter_map(|l| l.strip_prefix('[')?.split_once(']')?.0.parse().ok())
        .collect();
    let longest = answers
        .windows(2)
        .map(|w| w[1] - w[0])
        .max_by(f64::total_cmp)?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "milliseconds of a scenario"
    )]
    Some((longest * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_answers() {
        let log = "PING 10.45.0.100\n[1.000] 64 bytes from x\n[1.050] 64 bytes from x\n\
            [1.500] From 10.45.0.3 icmp_seq=9 Destination Host Unreachable\n[3.300] 64 bytes from x\n";
        assert_eq!(longest_gap(log), Some(2250));
        assert_eq!(longest_gap("[1.0] 64 bytes from x\n"), None);
    }
}
