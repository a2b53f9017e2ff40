// SPDX-License-Identifier: GPL-2.0-only
//! Two functions in one pod, whose addresses they share, move one after the other.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use super::{
    mme::{self, Peers, Service},
    podman::{self, IMAGE, PLAN},
    Scenario,
};
use crate::{
    container::{self, Container, Network, Ping, POD},
    lab::{Lab, SERVICE4, SERVICE6},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    readme,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "podman-migrate-pod",
    about: "an MME and an HSS in one pod move with podman, and back",
    // Two checkpoints and two restores without KVM take nearly as long as peers wait before they report a path.
    in_all: false,
    keep: false,
    plan: PLAN,
    run,
};

/// Under runc CRIU cuts the whole pod off for half a second while it restores a further container.
const RUNTIME: &str = "crun";
const ADDRESSES: [&str; 2] = [SERVICE4, SERVICE6];
const ARCHIVES: [&str; 2] = ["/var/tmp/mme.tar.zst", "/var/tmp/hss.tar.zst"];

/// The HSS has the address of the MME.
const S6A: Service = Service {
    addresses: &[SERVICE4],
    port: 3868,
    rate: 5,
    from: 41000,
    status: "/var/tmp/hss.json",
};

fn hss() -> Container<'static> {
    Container {
        name: "hss",
        command: &[
            IMAGE,
            "/bin/mme-server",
            "--rate",
            "5",
            "--listen",
            "10.45.0.100:3868",
            "--status",
            "/tmp/status.json",
        ],
        ..podman::container(Network::Pod, RUNTIME)
    }
}

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    container::image(lab, IMAGE, &["/usr/bin/mme-server"], "true")?;
    for guest in lab.hosts()? {
        Network::Pod.prepare(guest)?;
    }
    tell.step("source, dest: the image is there");
    container::pod(&mut lab.source, RUNTIME, ADDRESSES)?;
    podman::container(Network::Pod, RUNTIME).start(lab)?;
    hss().start(lab)?;
    let s1 = Peers::start(lab, mme::S1)?;
    let s6a = Peers::start(lab, S6A)?;
    tell.step("peer: eNBs and Diameter peers are served by one pod");
    let began = SystemTime::now();
    for way in ["there", "back"] {
        moved(lab, outcome).with_context(|| format!("on the way {way}"))?;
        lab.swap()?;
        tell.step(&format!("both functions moved {way}"));
        thread::sleep(Duration::from_secs(2));
    }
    for peers in [s1, s6a] {
        peers.finish(lab, began, outcome)?;
    }
    lab.answers(began, SystemTime::now())?.judge(outcome);
    Ok(())
}

/// The blocks of README.md, in its words.
fn moved(lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
    let paste = |number| -> Result<String> {
        Ok(format!(
            "cd /var/tmp; {}",
            readme::block("### podman", number)?
        ))
    };
    container::pod(lab.dest()?, RUNTIME, ADDRESSES)?;
    let ping = Ping::start(lab, SERVICE4)?;
    let out = lab
        .source
        .run_within(&["sh", "-ec", &paste(2)?], &[], 180.0)?;
    migrate::must("source", "podman container checkpoint", &out)?;
    outcome.worst("checkpoint_ms", out.elapsed_ms);
    outcome.worst("transfer_ms", migrate::copy(lab, &ARCHIVES)?);
    let dest = lab.dest()?;
    let out = dest.run_within(&["sh", "-ec", &paste(3)?], &[], 180.0)?;
    migrate::must("dest", "podman container restore", &out)?;
    outcome.worst("restore_ms", out.elapsed_ms);
    outcome.worst("downtime_ms", ping.stop(lab)?);
    let left = lab.dest()?.sh("telecr status")?;
    outcome.require(left.contains("nothing is locked"), || {
        format!("after the last restore this is still locked: {left}")
    });
    lab.source.sh(&format!("podman pod rm -f {POD}"))?;
    Ok(())
}
