// SPDX-License-Identifier: GPL-2.0-only
//! Windows shut: peers flood a container with all they have while it moves to and fro many times.

use std::{
    env, thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Context, Result};

use super::{
    mme::{self, Sockets, Talk},
    podman::PLAN,
    spgw::{self, Net},
    Scenario,
};
use crate::{
    container::{self, Container, Network},
    lab::{Lab, PEER4, SERVICE4, SERVICE6},
    narrate::Narrator,
    outcome::Outcome,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "flood",
    about:
        "peers flood an MME and SPGW in one container during 50 moves, and get no answer that hurts",
    in_all: false,
    keep: false,
    plan: PLAN,
    run,
};

/// How many, unless `TELECR_FLOOD_MOVES` says otherwise.
const MOVES: usize = 50;
/// Packets a second.
const RATE: u32 = 2000;
const TUNNELS: u32 = 200;
const IMAGE: &str = "telecr/core";
const FLOOD: &str = "/var/tmp/flood.out";

/// Both functions behind one address.
const CORE: Container<'static> = Container {
    name: "core",
    network: Network::Macvlan,
    addresses: [SERVICE4, SERVICE6],
    runtime: "crun",
    options: &["--cap-add", "NET_ADMIN"],
    moving: &[],
    command: &[
        IMAGE,
        "/bin/sh",
        "-c",
        "/bin/mme-server --listen 10.45.0.100:36412 --listen [fd00:45::100]:36412 --status /tmp/status.json & \
         exec /bin/spgw --bind 10.45.0.100 --peer 10.45.0.3 --tunnels 200 --control /tmp/spgw.sock",
    ],
};

/// All that peers send to the MME, again and again, and INITs in between.
pub(super) struct Flood {
    pid: i32,
}

impl Flood {
    /// Begins when there are associations: so many packets a second.
    pub(super) fn start(lab: &mut Lab, rate: u32) -> Result<Self> {
        let (port, rate) = (mme::PORT.to_string(), rate.to_string());
        let argv = [
            ["flood", "--from", PEER4, "--to", SERVICE4],
            ["--port", &port, "--rate", &rate, "--interface=eth0"],
        ]
        .concat();
        let pid = lab.peer.spawn(&argv, FLOOD)?;
        thread::sleep(Duration::from_secs(2));
        Ok(Self { pid })
    }

    /// Ends it, and tells how many packets there were.
    pub(super) fn stop(self, lab: &mut Lab) -> Result<u64> {
        lab.peer.signal(self.pid, libc::SIGTERM)?;
        lab.peer.wait(self.pid, 10.0)?;
        let said = lab.peer.sh(&format!("cat {FLOOD}"))?;
        said.trim().parse().context("flood has not counted")
    }
}

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let programs = ["/usr/bin/mme-server", "/usr/bin/spgw", "/bin/sh"];
    container::image(lab, IMAGE, &programs, "true")?;
    for guest in lab.hosts()? {
        guest.sh("modprobe gtp")?;
        Network::Macvlan.prepare(guest)?;
        spgw::room_for_flows(guest)?;
    }
    CORE.start(lab)?;
    let peer = mme::peers(lab, Sockets::Each)?;
    let talk = Talk { server: 0, peer };
    spgw::gateway(
        &mut lab.source,
        "nsenter -n -t $(podman inspect -f '{{.State.Pid}}' core)",
    )?;
    let net = Net {
        spgw: 0,
        ran: spgw::talk(
            lab,
            TUNNELS,
            spgw::RATE,
            &spgw::Place::one_network(SERVICE4),
        )?,
        tunnels: TUNNELS,
        rate: spgw::RATE,
    };
    spgw::all_served(&mut lab.peer, &net).context("before the flood")?;
    let flood = Flood::start(lab, RATE)?;
    tell.step("peer: associations and tunnels are in use, and the flood is on");

    let began = SystemTime::now();
    let before = mme::snapshot(&mut lab.peer, peer)?;
    let served = spgw::snapshot(&mut lab.peer, &net)?;
    let moves = match env::var("TELECR_FLOOD_MOVES") {
        Ok(number) => number.parse().context("TELECR_FLOOD_MOVES is no number")?,
        Err(_) => MOVES,
    };
    for n in 1..=moves {
        CORE.migrate(lab, outcome)
            .with_context(|| format!("move {n}"))?;
        lab.swap()?;
        let now = mme::snapshot(&mut lab.peer, peer)?;
        ensure!(
            now.established == mme::ASSOCIATIONS,
            "after move {n} {} associations are left",
            now.established
        );
        tell.step(&format!("move {n} of {moves}"));
    }
    outcome.figure("moves", moves);
    let sent = flood.stop(lab)?;
    let lasted = began.elapsed().unwrap_or_default().as_secs().max(1);
    outcome.figure("flood_packets", sent);
    outcome.figure("flood_per_second", sent / lasted);
    outcome.require(sent > 1000, || "there was no flood".into());
    let now_served = spgw::all_served(&mut lab.peer, &net)?;
    spgw::judge(&served, &now_served, outcome);
    let after = mme::settle(lab, &talk)?;
    mme::judge(&before, &after, outcome);
    lab.answers(began, SystemTime::now())?.judge(outcome);
    Ok(())
}
