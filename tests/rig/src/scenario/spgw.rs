// SPDX-License-Identifier: GPL-2.0-only
//! The SPGW, its eNB and the internet host behind it, as every GTP scenario uses them.

use anyhow::{ensure, Context, Result};
use telecr_workloads::ran::Status;

use crate::{
    guest::Guest,
    lab::{Lab, PEER4, SERVICE4, SERVICE4_NET},
    migrate,
    outcome::Outcome,
};

/// The internet host, another address of the peer guest, on the SGi network.
pub const HOST4: &str = "10.46.0.4";
/// The SPGW's address there, which moves along.
pub const SGI4: &str = "10.46.0.100";
/// All that moves. That of the tunnels goes first: a host without its SGi address would tell UEs so.
pub const ADDRESSES: [&str; 2] = [SERVICE4_NET, "10.46.0.100/24"];
/// All UEs.
pub const POOL: &str = "10.60.0.0/14";
/// UEs whose packets leave under the SPGW's address.
const MASQUERADED: &str = "10.60.0.0/15";
/// UEs the internet host has a route to.
const ROUTED: &str = "10.62.0.0/15";
/// The daemon's control socket.
pub const CONTROL: &str = "/var/tmp/spgw.sock";
const STATUS: &str = "/var/tmp/ran.json";

/// A running SPGW with its peers.
#[derive(Debug)]
pub struct Net {
    /// The daemon's process id.
    pub spgw: i32,
    /// The peers' process id.
    pub ran: i32,
    /// UEs.
    pub tunnels: u32,
    /// Packets a second of all of them, but for a few quick ones.
    pub rate: u32,
}

/// The usual [`Net::rate`].
pub const RATE: u32 = 500;

/// Gives the source the address that moves and starts everything.
pub fn start(lab: &mut Lab, tunnels: u32, more: &[&str]) -> Result<Net> {
    migrate::own(&mut lab.source, &ADDRESSES)?;
    start_in(lab, "", tunnels, more)
}

/// Starts everything, the SPGW below a command such as `nsenter`. The addresses are there.
pub fn start_in(lab: &mut Lab, below: &str, tunnels: u32, more: &[&str]) -> Result<Net> {
    let spgw = daemon(&mut lab.source, below, tunnels, more)?;
    gateway(&mut lab.source, below)?;
    let ran = talk(lab, tunnels, RATE, &APART)?;
    let net = Net {
        spgw,
        ran,
        tunnels,
        rate: RATE,
    };
    all_served(&mut lab.peer, &net).context("before the move")?;
    Ok(net)
}

/// Starts the daemon.
fn daemon(guest: &mut Guest, below: &str, tunnels: u32, more: &[&str]) -> Result<i32> {
    let count = tunnels.to_string();
    let below: Vec<&str> = below.split_whitespace().collect();
    guest.sh(&format!("rm -f {CONTROL}"))?;
    let argv = [
        &below[..],
        &[
            "spgw",
            "--bind",
            SERVICE4,
            "--peer",
            PEER4,
            "--tunnels",
            &count,
        ],
        &["--control", CONTROL][..],
        more,
    ]
    .concat();
    let spgw = guest.spawn(&argv, "/dev/null")?;
    guest.until("all tunnels to be there", 120.0, |g| {
        if let Some(code) = g.ended(spgw)? {
            anyhow::bail!("spgw ended with {code}");
        }
        Ok(g.run(&["test", "-S", CONTROL])?.code == 0)
    })?;
    Ok(spgw)
}

/// Room for the flows of all UEs: Debian's default for a guest this small is 8192.
pub fn room_for_flows(guest: &mut Guest) -> Result<()> {
    guest
        .sh("modprobe nf_conntrack; sysctl -qw net.netfilter.nf_conntrack_max=65536")
        .map(drop)
}

/// Makes a gateway of the host, or with `nsenter` of a container, as an operator would.
pub fn gateway(guest: &mut Guest, nsenter: &str) -> Result<()> {
    room_for_flows(guest)?;
    let script = format!(
        "sysctl -qw net.ipv4.ip_forward=1; ip address add 10.60.0.1/32 dev gtp0; ip route add {POOL} dev gtp0; \
         nft add table ip sgi; nft 'add chain ip sgi out {{ type nat hook postrouting priority srcnat; }}'; \
         nft add rule ip sgi out ip saddr {MASQUERADED} oifname eth0 masquerade"
    );
    let path = "/var/tmp/gateway";
    guest.put(path, 0o755, script.as_bytes())?;
    guest.sh(&format!("{nsenter} sh -e {path}")).map(drop)
}

/// Who is where.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The SPGW, as eNBs know it.
    pub spgw: &'static str,
    /// The same, as the internet host's network knows it.
    pub router: &'static str,
    /// The internet host.
    pub host: &'static str,
}

impl Place {
    /// One network for both sides.
    #[must_use]
    pub fn one_network(spgw: &'static str) -> Self {
        Self {
            spgw,
            router: spgw,
            host: "10.45.0.4",
        }
    }
}

/// A network for either side.
const APART: Place = Place {
    spgw: SERVICE4,
    router: SGI4,
    host: HOST4,
};

/// Starts the eNB with its UEs and the internet host.
pub fn talk(lab: &mut Lab, tunnels: u32, rate: u32, place: &Place) -> Result<i32> {
    lab.peer.sh(&format!(
        "rm -f {STATUS}; ip address replace {}/24 dev eth0; ip route replace {ROUTED} via {}",
        place.host, place.router
    ))?;
    let (count, host) = (tunnels.to_string(), format!("{}:7000", place.host));
    let rate = rate.to_string();
    let argv = [
        ["ran-peer", "--bind", PEER4, "--spgw", place.spgw, "--host"],
        [&host, "--tunnels", &count, "--status", STATUS, "--quick"],
    ]
    .concat();
    let argv = [&argv[..], &["20", "--rate", &rate]].concat();
    let ran = lab.peer.spawn(&argv, "/var/tmp/ran-peer.log")?;
    lab.peer.until("the peers to begin", 10.0, |g| {
        if let Some(code) = g.ended(ran)? {
            anyhow::bail!("ran-peer ended with {code}");
        }
        Ok(g.get(STATUS).is_ok())
    })?;
    Ok(ran)
}

/// A fresh snapshot of the peers; UEs count as served from here on anew.
pub fn snapshot(peer: &mut Guest, net: &Net) -> Result<Status> {
    let before = read(peer).map_or(0, |s| s.snapshot);
    peer.signal(net.ran, libc::SIGUSR1)?;
    let mut status = Status::default();
    peer.until("a snapshot", 10.0, |g| {
        status = read(g).unwrap_or_default();
        Ok(status.snapshot > before)
    })?;
    Ok(status)
}

fn read(peer: &mut Guest) -> Result<Status> {
    serde_json::from_slice(&peer.get(STATUS)?).context("a status that is not one")
}

/// Waits until every UE has got something back, from now on.
pub fn all_served(peer: &mut Guest, net: &Net) -> Result<Status> {
    let mut last = snapshot(peer, net)?;
    let mut served = 0;
    // What each snapshot counts is new to it: one that counts all, or a long wait that adds up, will do.
    let began = std::time::Instant::now();
    let round = f64::from(net.tunnels) / f64::from(net.rate) + 5.0;
    while served < net.tunnels {
        ensure!(
            began.elapsed().as_secs_f64() < 120.0 + 4.0 * round,
            "only {served} of {} UEs are served: {last:?}",
            net.tunnels
        );
        std::thread::sleep(std::time::Duration::from_secs_f64(round));
        last = snapshot(peer, net)?;
        served = last.served;
    }
    Ok(last)
}

/// Judges what the peers have seen.
pub fn judge(before: &Status, after: &Status, outcome: &mut Outcome) {
    outcome.figure("packets", after.back);
    outcome.figure(
        "lost_packets",
        (after.sent - after.back).saturating_sub(before.sent - before.back),
    );
    outcome.figure("ue_srt_ms", after.longest_gap_ms);
    outcome.zero("duplicated", after.duplicated);
    outcome.zero("astray", after.astray);
    outcome.zero("refused", after.refused);
    outcome.zero("changed_ports", after.changed_ports);
}
