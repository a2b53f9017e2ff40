// SPDX-License-Identifier: GPL-2.0-only
//! Three hosts of one seed: two that the addresses move between, and their peer.
//!
//! Each path is a pair of cables from the peer, one to either host; a route of the peer's says which of them an
//! address is behind. Neighbours are fixed, so that only SCTP itself is tried.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;

use nix::sched::{setns, CloneFlags};

use super::plan::{Plan, Wire};

const PATHS: u8 = 3;

pub struct Net {
    /// Names of the two hosts and of the peer.
    names: [String; 3],
    handles: [File; 3],
}

/// The peer's place among the hosts.
pub const PEER: usize = 2;

impl Net {
    pub fn new(seed: u64, plan: &Plan) -> Self {
        let names = ["a", "b", "p"].map(|n| format!("soak{seed}{n}"));
        for n in &names {
            super::sh(&format!("ip netns add {n}; ip -n {n} link set lo up"));
        }
        let handles = [0, 1, 2].map(|n: usize| {
            File::open(format!("/run/netns/{}", names[n])).expect("a namespace just made")
        });
        let net = Self { names, handles };
        // First: what is plugged in later takes its settings from here.
        for host in 0..3 {
            net.enter(host);
            sysctls(plan);
        }
        net.cables(plan);
        net
    }

    /// Cables, the peer's addresses, neighbours, and the way to the peer.
    fn cables(&self, plan: &Plan) {
        let mut there = String::new();
        for (host, side) in [(0, "a"), (1, "b")] {
            let name = &self.names[host];
            let mut here = String::new();
            for path in 0..PATHS {
                let mac = |n: u8| format!("02:00:00:00:{path:02x}:{n:02x}");
                let (mobile, fixed) = (mac(1), mac(2));
                there.push_str(&format!(
                    "link add p{side}{path} address {fixed} type veth peer name h{path} address {mobile} netns {name}\n"
                ));
                for (at, text, dev, lladdr, host) in [
                    (true, &mut here, format!("h{path}"), &fixed, 2),
                    (false, &mut there, format!("p{side}{path}"), &mobile, 1),
                ] {
                    if !plan.gso {
                        text.push_str(&format!(
                            "link set {dev} gso_max_size 1500 gso_max_segs 1\n"
                        ));
                    }
                    text.push_str(&format!("link set {dev} up\n"));
                    if at {
                        // Never without an address, which would take the routes away.
                        text.push_str(&format!("address add 10.2.{path}.1/32 dev {dev}\n"));
                    }
                    for to in [super::plan::v4(path, host), super::plan::v6(path, host)] {
                        text.push_str(&format!(
                            "neighbour add {to} lladdr {lladdr} nud permanent dev {dev}\n"
                        ));
                        if at {
                            text.push_str(&format!("route add {to} dev {dev}\n"));
                        }
                    }
                }
            }
            // Cables first: the other end is made with them.
            self.batch(PEER, &there);
            self.batch(host, &here);
            there.clear();
        }
        for path in 0..PATHS {
            for a in [super::plan::v4(path, 2), super::plan::v6(path, 2)] {
                there.push_str(&format!("address add {a} dev lo{}\n", nodad(a)));
            }
        }
        self.batch(PEER, &there);
    }

    fn batch(&self, host: usize, lines: &str) {
        super::sh(&format!(
            "ip -n {} -batch - <<'END'\n{lines}END",
            self.names[host]
        ));
    }

    /// Puts this thread into a host.
    pub fn enter(&self, host: usize) {
        setns(self.handles[host].as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
    }

    /// What all cables do to packets from here on.
    pub fn disturb(&self, wire: &Wire) {
        let mut netem = format!("netem limit 10000 delay {}ms", wire.delay_ms);
        if wire.jitter_ms > 0 {
            netem.push_str(&format!(" {}ms", wire.jitter_ms));
        }
        for (what, percent) in [
            ("loss", wire.loss),
            ("duplicate", wire.duplicate),
            ("reorder", wire.reorder),
        ] {
            if percent > 0 {
                netem.push_str(&format!(" {what} {percent}%"));
            }
        }
        if wire.ecn && wire.loss > 0 {
            netem.push_str(" ecn");
        }
        for (host, prefixes) in [(0, &["h"][..]), (1, &["h"]), (PEER, &["pa", "pb"])] {
            let lines: String = (0..PATHS)
                .flat_map(|path| prefixes.iter().map(move |p| format!("{p}{path}")))
                .map(|dev| format!("qdisc replace dev {dev} root {netem}\n"))
                .collect();
            super::sh(&format!(
                "tc -n {} -batch - <<'END'\n{lines}END",
                self.names[host]
            ));
        }
    }

    /// Takes the addresses from a host.
    pub fn take(&self, host: usize, addresses: &[IpAddr]) {
        self.change(host, "del", addresses);
    }

    /// Gives the addresses to a host, and has the peer send there.
    pub fn give(&self, host: usize, addresses: &[IpAddr]) {
        self.change(host, "add", addresses);
        let side = ["a", "b"][host];
        let routes: String = addresses
            .iter()
            .map(|a| format!("route replace {a} dev p{side}{}\n", path_of(*a)))
            .collect();
        self.batch(PEER, &routes);
    }

    fn change(&self, host: usize, verb: &str, addresses: &[IpAddr]) {
        let lines: String = addresses
            .iter()
            .map(|a| {
                let flag = if verb == "add" { nodad(*a) } else { "" };
                let len = if a.is_ipv4() { 32 } else { 128 };
                format!("address {verb} {a}/{len} dev h{}{flag}\n", path_of(*a))
            })
            .collect();
        self.batch(host, &lines);
    }

    /// A number of `/proc/net/sctp/snmp` of a host.
    pub fn counter(&self, host: usize, name: &str) -> u64 {
        self.enter(host);
        // Of this thread: its namespace is not that of the process.
        let text = std::fs::read_to_string("/proc/thread-self/net/sctp/snmp").unwrap();
        let line = text
            .lines()
            .find(|l| l.split_whitespace().next() == Some(name));
        let number = line.and_then(|l| l.split_whitespace().nth(1));
        number
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// The associations of all hosts, for people.
    pub fn associations(&self) -> String {
        let mut all = String::new();
        for host in 0..3 {
            self.enter(host);
            all.push_str(&std::fs::read_to_string("/proc/thread-self/net/sctp/assocs").unwrap());
        }
        all
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for n in &self.names {
            let _ = super::start(Command::new("ip").args(["netns", "delete", n]))
                .and_then(|mut running| running.wait());
        }
    }
}

fn nodad(a: IpAddr) -> &'static str {
    if a.is_ipv4() {
        ""
    } else {
        " nodad"
    }
}

fn path_of(a: IpAddr) -> u8 {
    match a {
        IpAddr::V4(a) => a.octets()[2],
        IpAddr::V6(a) => a.octets()[3],
    }
}

/// Of the network namespace this thread is in.
fn sysctls(plan: &Plan) {
    let flag = u64::from;
    let mut all = vec![
        ("sctp/rto_min", plan.rto_min),
        ("sctp/rto_max", plan.rto_max),
        ("sctp/rto_initial", plan.rto_min),
        ("sctp/association_max_retrans", 1000),
        ("sctp/max_init_retransmits", 50),
        ("sctp/path_max_retrans", plan.path_retransmissions),
        ("sctp/hb_interval", plan.heartbeat_ms),
        ("sctp/intl_enable", flag(plan.interleaving)),
        ("sctp/auth_enable", flag(plan.auth)),
        ("sctp/reconf_enable", 1),
        ("sctp/ecn_enable", flag(plan.wire.ecn)),
        ("sctp/rcvbuf_policy", flag(plan.buffer_policy)),
        ("sctp/sndbuf_policy", flag(plan.buffer_policy)),
        ("ipv4/conf/all/rp_filter", 0),
        ("ipv4/conf/default/rp_filter", 0),
    ];
    if plan.udp {
        all.extend([("sctp/udp_port", 9899), ("sctp/encap_port", 9899)]);
    }
    for (name, value) in all {
        let path = format!("/proc/sys/net/{name}");
        std::fs::write(&path, value.to_string()).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}
