// SPDX-License-Identifier: GPL-2.0-only
//! The functions of a mobile core as containers: an HSS, an SPGW, and all three at once.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Context, Result};

use super::{
    hss::{self, Client},
    mme::{self, Peers},
    podman::{self, PLAN},
    spgw::{self, Net},
    Scenario,
};
use crate::{
    container::{self, Container, Network},
    guest::Guest,
    lab::Lab,
    narrate::Narrator,
    outcome::Outcome,
};

pub(super) const HSS: Scenario = Scenario {
    name: "podman-migrate-hss",
    about:
        "MariaDB with a client in mid-transaction, and SCTP beside it, move with podman and back",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: hss,
};

pub(super) const SPGW: Scenario = Scenario {
    name: "podman-migrate-spgw",
    about: "an SPGW with 10,000 tunnels moves with podman and back",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: spgw,
};

pub(super) const EPC: Scenario = Scenario {
    name: "epc",
    about: "MME, HSS and SPGW move in turn while the peers of all three run, and back again",
    in_all: false,
    keep: false,
    plan: PLAN,
    run: epc,
};

/// Image of the SPGW.
pub(super) const SPGW_IMAGE: &str = "telecr/spgw";
/// Address of the SPGW.
const SPGW_ADDRESS: &str = "10.45.0.102";
/// UEs, and packets a second of all of them, where the SPGW is alone.
const ALONE: (u32, u32) = (10_000, spgw::RATE);
/// The same beside the other functions, which share one processor with it.
const AMONG_OTHERS: (u32, u32) = (2_000, 200);

/// The SPGW: links and tunnels need a capability beyond podman's default.
const GATEWAY: Container<'static> = Container {
    name: "spgw",
    network: Network::Macvlan,
    addresses: [SPGW_ADDRESS, ""],
    runtime: "crun",
    options: &["--cap-add", "NET_ADMIN"],
    moving: &[],
    command: &[
        SPGW_IMAGE,
        "/bin/spgw",
        "--bind",
        SPGW_ADDRESS,
        "--peer",
        "10.45.0.3",
        "--control",
        "/tmp/spgw.sock",
    ],
};

fn prepare(lab: &mut Lab) -> Result<()> {
    for guest in lab.hosts()? {
        guest.sh("modprobe gtp")?;
        Network::Macvlan.prepare(guest)?;
    }
    Ok(())
}

/// There and back.
fn both_ways(
    lab: &mut Lab,
    container: &Container<'_>,
    outcome: &mut Outcome,
    tell: &Narrator,
) -> Result<()> {
    for _ in 0..2 {
        container.migrate(lab, outcome)?;
        lab.swap()?;
        tell.step(&format!("{}: moved", container.name));
        thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

fn hss(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    container::image(lab, hss::IMAGE, hss::PROGRAMS, hss::DATABASE)?;
    prepare(lab)?;
    tell.step("source, dest: the image is there");
    let container = hss::container(Network::Macvlan, "runc");
    container.start(lab)?;
    let client = Client::start(lab)?;
    let peers = Peers::start(lab, hss::S6A)?;
    tell.step("peer: a transaction is open, and associations beside it");
    let began = SystemTime::now();
    for _ in 0..2 {
        container.migrate(lab, outcome)?;
        lab.swap()?;
        client.goes_on(&mut lab.peer)?;
        tell.step("hss: moved, the transaction goes on");
    }
    client.finish(lab, outcome)?;
    peers.finish(lab, began, outcome)?;
    lab.answers(began, SystemTime::now())?.judge(outcome);
    Ok(())
}

/// Starts the gateway with its tunnels and all UEs.
fn start_gateway(lab: &mut Lab, (tunnels, rate): (u32, u32)) -> Result<Net> {
    let count = tunnels.to_string();
    let command = [GATEWAY.command, &["--tunnels", &count]].concat();
    Container {
        command: &command,
        ..GATEWAY
    }
    .start(lab)?;
    lab.source.until("all tunnels to be there", 120.0, |g| {
        let out = g.run(&[
            "podman",
            "exec",
            "spgw",
            "/bin/sh",
            "-c",
            "test -S /tmp/spgw.sock",
        ])?;
        Ok(out.code == 0)
    })?;
    spgw::room_for_flows(lab.dest()?)?;
    spgw::gateway(&mut lab.source, &nsenter(&GATEWAY))?;
    let ran = spgw::talk(lab, tunnels, rate, &spgw::Place::one_network(SPGW_ADDRESS))?;
    let net = Net {
        spgw: 0,
        ran,
        tunnels,
        rate,
    };
    spgw::all_served(&mut lab.peer, &net).context("before the move")?;
    Ok(net)
}

/// What enters the network namespace of a container.
fn nsenter(container: &Container<'_>) -> String {
    format!(
        "nsenter -n -t $(podman inspect -f '{{{{.State.Pid}}}}' {})",
        container.name
    )
}

const TABLE: &str = "/var/tmp/before.img";

/// `telecr gtp` where the gateway lives.
fn telecr_gtp(guest: &mut Guest, words: &str) -> Result<String> {
    guest.sh(&format!("{} telecr gtp {words}", nsenter(&GATEWAY)))
}

fn spgw(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    container::image(lab, SPGW_IMAGE, &["/usr/bin/spgw", "/bin/sh"], "true")?;
    prepare(lab)?;
    let net = start_gateway(lab, ALONE)?;
    outcome.figure("tunnels", net.tunnels);
    tell.step("source: SPGW with 10,000 tunnels, every UE is served");
    telecr_gtp(&mut lab.source, &format!("dump {TABLE}"))?;
    let began = SystemTime::now();
    let before = spgw::snapshot(&mut lab.peer, &net)?;
    both_ways(lab, &GATEWAY, outcome, tell)?;
    let differs = telecr_gtp(&mut lab.source, &format!("diff {TABLE} live"))?;
    outcome.require(differs.is_empty(), || {
        format!("after two moves the kernel has other tunnels: {differs}")
    });
    let after = spgw::all_served(&mut lab.peer, &net)?;
    tell.step("every UE is served again");
    spgw::judge(&before, &after, outcome);
    lab.answers(began, SystemTime::now())?.judge(outcome);
    Ok(())
}

fn epc(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    container::image(lab, podman::IMAGE, &["/usr/bin/mme-server"], "true")?;
    container::image(lab, SPGW_IMAGE, &["/usr/bin/spgw", "/bin/sh"], "true")?;
    container::image(lab, hss::IMAGE, hss::PROGRAMS, hss::DATABASE)?;
    prepare(lab)?;
    tell.step("source, dest: the images are there");
    let mme = podman::container(Network::Macvlan, "crun");
    let hss = hss::container(Network::Macvlan, "runc");
    mme.start(lab)?;
    hss.start(lab)?;
    let net = start_gateway(lab, AMONG_OTHERS)?;
    outcome.figure("tunnels", net.tunnels);
    let client = Client::start(lab)?;
    let s1 = Peers::start(lab, mme::S1)?;
    let s6a = Peers::start(lab, hss::S6A)?;
    tell.step("peer: eNBs, a database client, Diameter peers and 2,000 UEs are served");
    let began = SystemTime::now();
    let before = spgw::snapshot(&mut lab.peer, &net)?;
    for way in ["there", "back"] {
        for container in [&mme, &hss, &GATEWAY] {
            container
                .migrate(lab, outcome)
                .with_context(|| format!("{} {way}", container.name))?;
            tell.step(&format!("{}: {way}", container.name));
        }
        lab.swap()?;
        client.goes_on(&mut lab.peer)?;
        ensure!(outcome.ok(), "a peer noticed on the way {way}");
    }
    let after = spgw::all_served(&mut lab.peer, &net)?;
    spgw::judge(&before, &after, outcome);
    client.finish(lab, outcome)?;
    s1.finish(lab, began, outcome)?;
    s6a.finish(lab, began, outcome)?;
    lab.answers(began, SystemTime::now())?.judge(outcome);
    Ok(())
}
