// SPDX-License-Identifier: GPL-2.0-only
//! An MME in a container moves with podman's own commands, on every kind of network.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Context, Result};

use super::{
    flood::Flood,
    mme::{self, Service, Sockets, Talk},
    Scenario,
};
use crate::{
    artefacts::Needs,
    container::{self, Container, Network},
    lab::{Lab, Plan, SERVICE4, SERVICE6},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const PLAN: Plan = Plan {
    needs: Needs::Containers,
    dest: true,
    wire: Wire {
        delay: Duration::from_millis(2),
        loss: 0,
    },
};

pub(super) const MME: Scenario = Scenario {
    name: "podman-migrate-mme",
    about: "an MME in a container moves with podman, on every kind of network, under crun and runc",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: mme,
};

/// Image of the MME.
pub(super) const IMAGE: &str = "telecr/mme";

/// The MME on one kind of network.
pub(super) fn container(network: Network, runtime: &'static str) -> Container<'static> {
    Container {
        name: "mme",
        network,
        addresses: [SERVICE4, SERVICE6],
        runtime,
        // Default capabilities and seccomp filter, and an ordinary user.
        options: &["--user", "1000:1000"],
        moving: &[],
        command: &[
            IMAGE,
            "/bin/mme-server",
            "--listen",
            "10.45.0.100:36412",
            "--listen",
            "[fd00:45::100]:36412",
            "--status",
            "/tmp/status.json",
        ],
    }
}

fn mme(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    container::image(lab, IMAGE, &["/usr/bin/mme-server"], "true")?;
    tell.step("source, dest: the image is there");
    // The bridge takes the interface over: it comes last.
    let setups = [
        (Network::Macvlan, "crun"),
        (Network::Macvlan, "runc"),
        (Network::Host, "crun"),
        (Network::Host, "runc"),
        (Network::Namespace, "crun"),
        (Network::Namespace, "runc"),
        (Network::Bridge, "crun"),
        (Network::Bridge, "runc"),
    ];
    for (round, runtime) in (0u16..).zip(["crun", "runc"]) {
        refused(lab, runtime, &mme::S1.in_round(round))
            .with_context(|| format!("a refusal under {runtime}"))?;
    }
    tell.step("crun, runc: podman says why telecr refuses, and the container runs on");
    let mut prepared = vec![Network::Macvlan];
    for guest in lab.hosts()? {
        Network::Macvlan.prepare(guest)?;
    }
    let aborts = unprepared(lab, &mme::S1.in_round(2)).context("without telecr's netavark")?;
    outcome.figure("aborts_without_lock", aborts);
    outcome.require(aborts > 0, || {
        "without telecr's netavark no packet came too early: this scenario cannot see a lock".into()
    });
    tell.step("without telecr's netavark: ABORTs, as was to be shown");
    for (round, (network, runtime)) in (3u16..).zip(setups) {
        if !prepared.contains(&network) {
            prepared.push(network);
            for guest in lab.hosts()? {
                network.prepare(guest)?;
            }
        }
        one(
            lab,
            &container(network, runtime),
            &mme::S1.in_round(round),
            outcome,
        )
        .with_context(|| format!("{network:?}, {runtime}"))?;
        tell.step(&format!(
            "{network:?}, {runtime}: moved and no peer noticed"
        ));
    }
    outcome.figure("setups", setups.len());
    Ok(())
}

/// The control: podman on its own, while the peers flood. Answers how many ABORTs they got.
fn unprepared(lab: &mut Lab, service: &Service) -> Result<u64> {
    const DROP_IN: &str = "/etc/containers/containers.conf.d/50-telecr.conf";
    let container = container(Network::Macvlan, "crun");
    container.start(lab)?;
    let peer = mme::peers_of(lab, service, Sockets::Each)?;
    let flood = Flood::start(lab, 200)?;
    lab.dest()?.sh(&format!("mv {DROP_IN} /var/tmp/"))?;
    let window = container.migrate(lab, &mut Outcome::default())?;
    lab.dest()?
        .sh(&format!("mv /var/tmp/50-telecr.conf {DROP_IN}"))?;
    flood.stop(lab)?;
    let answers = lab.answers(window.began, window.ended)?;
    lab.peer.signal(peer, libc::SIGKILL)?;
    lab.peer.wait(peer, 10.0)?;
    lab.swap()?;
    container.stop(&mut lab.source)?;
    Ok(answers.abort)
}

/// Starts it on the source, moves it, and ends it on the destination, which is the next source.
fn one(
    lab: &mut Lab,
    container: &Container<'_>,
    service: &Service,
    outcome: &mut Outcome,
) -> Result<()> {
    container.start(lab)?;
    let peer = mme::peers_of(lab, service, Sockets::Each)?;
    let talk = Talk { server: 0, peer };
    thread::sleep(Duration::from_secs(2));
    let before = mme::snapshot(&mut lab.peer, peer)?;
    let window = container.migrate(lab, outcome)?;
    thread::sleep(Duration::from_secs(2));
    let after = mme::settle(lab, &talk)?;
    let now = SystemTime::now();
    mme::judge(&before, &after, outcome);
    lab.wire(mme::PORT, window.began, now)?.judge(outcome);
    lab.answers(window.began, now)?.judge(outcome);
    ensure!(outcome.ok(), "a peer noticed");
    lab.peer.signal(peer, libc::SIGTERM)?;
    lab.peer.wait(peer, 10.0)?;
    lab.swap()?;
    container.stop(&mut lab.source)
}

/// A container telecr refuses to dump: podman says why and what to do, and the container runs on.
fn refused(lab: &mut Lab, runtime: &'static str, service: &Service) -> Result<()> {
    let mut refused = container(Network::Host, runtime);
    let command = [refused.command, &["--in-flight"]].concat();
    refused.command = &command;
    refused.start(lab)?;
    let peer = mme::peers_of(lab, service, Sockets::Each)?;
    let argv = ["sh", "-ec", &refused.checkpoint()?];
    let out = lab.source.run_within(&argv, &[], 120.0)?;
    ensure!(out.code != 0, "podman has dumped what telecr refuses");
    let words = [
        "an SCTP socket is in flight over unix socket",
        "dump again once it has been received",
    ];
    ensure!(
        words.iter().all(|w| out.stderr.contains(w)),
        "podman does not say why the checkpoint failed: {}",
        out.stderr
    );
    let from = mme::snapshot(&mut lab.peer, peer)?;
    lab.peer
        .until("the conversation to go on after the refusal", 30.0, |g| {
            let now = mme::snapshot(g, peer)?;
            Ok(now.received >= from.received + 50 && now.established == mme::ASSOCIATIONS)
        })?;
    let running = lab
        .source
        .sh("podman ps --format '{{.Names}} {{.Status}}'")?;
    ensure!(
        running.starts_with("mme Up"),
        "after the refusal: {running}"
    );
    lab.peer.signal(peer, libc::SIGTERM)?;
    lab.peer.wait(peer, 10.0)?;
    refused.stop(&mut lab.source)
}
