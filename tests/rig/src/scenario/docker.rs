// SPDX-License-Identifier: GPL-2.0-only
//! An MME in a container that Docker made moves under runc, Docker's own runtime; Docker's own restore is tried on a plain
//! container first, since it has a known fault (containerd #12141).

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Context, Result};

use super::{
    mme::{self, Sockets, Talk},
    Scenario,
};
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan, IMAGES, SERVICE4, SERVICE6},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "docker-migrate-mme",
    about: "an MME in a container made by Docker moves with runc",
    // Not yet seen to pass.
    in_all: false,
    keep: false,
    plan: Plan {
        needs: Needs::Docker,
        dest: true,
        wire: Wire {
            delay: Duration::from_millis(2),
            loss: 0,
        },
    },
    run,
};

/// Containerd and Docker, which need no network of their own here.
const DAEMONS: &str = r#"
mkdir -p /etc/docker
echo '{"experimental":true,"bridge":"none","iptables":false,"ip6tables":false}' >/etc/docker/daemon.json
setsid containerd >/var/tmp/containerd.log 2>&1 </dev/null &
setsid dockerd --containerd /run/containerd/containerd.sock >/var/tmp/dockerd.log 2>&1 </dev/null &
for i in $(seq 600); do docker version >/dev/null 2>&1 && exit 0; sleep 0.2; done
tail /var/tmp/dockerd.log >&2; false
"#;

/// An image of the guest's own programs: there is no registry here.
const IMAGE: &str = "tar -c -h -C / usr/bin/sleep usr/bin/mme-server \
    $(ldd /usr/bin/sleep /usr/bin/mme-server | grep -o '/[^ :]*\\.so[^ :]*' | sort -u | sed 's|^/||') | docker import - mme";

/// What `runc` runs: Docker's image, on the host's network, with runc's own default capabilities.
const BUNDLE: &str = "mkdir -p /var/lib/mme/rootfs/tmp; cd /var/lib/mme; \
    docker export $(docker create mme /usr/bin/mme-server) | tar -x -C rootfs; runc spec; \
    python3 -c 'import json; c = json.load(open(\"config.json\")); p = c[\"process\"]; p[\"terminal\"] = False; \
    p[\"args\"] = [\"/usr/bin/mme-server\", \"--listen\", \"@4:36412\", \"--listen\", \"[@6]:36412\", \"--status\", \"/tmp/status.json\"]; \
    c[\"root\"][\"readonly\"] = False; n = c[\"linux\"][\"namespaces\"]; n[:] = [x for x in n if x[\"type\"] != \"network\"]; \
    json.dump(c, open(\"config.json\", \"w\"))'";

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    prepare(&mut lab.source)?;
    prepare(lab.dest()?)?;
    tell.step("source, dest: Docker runs, and has the image");
    if let Err(e) = plain(&mut lab.source, outcome, tell) {
        outcome.fault(format!("{e:#}"));
    }

    migrate::own(&mut lab.source, &mme::addresses())?;
    lab.source.sh(
        "runc --log /var/tmp/runc.log run -d --bundle /var/lib/mme mme </dev/null >/dev/null 2>&1",
    )?;
    lab.source.until("the server to listen", 30.0, |g| {
        Ok(g.sh("ss -HSln")?.contains(&mme::PORT.to_string()))
    })?;
    let peer = mme::peers(lab, Sockets::Each)?;
    let talk = Talk { server: 0, peer };
    thread::sleep(Duration::from_secs(3));
    let before = mme::snapshot(&mut lab.peer, peer)?;

    lab.dest()?.sh(&migrate::lock(&mme::addresses()))?;
    let began = SystemTime::now();
    let images = format!("--image-path {IMAGES} --work-path {IMAGES}");
    let checkpoint = format!("runc --log /var/tmp/runc.log checkpoint {images} mme");
    let took = timed(&mut lab.source, &checkpoint)?;
    outcome.figure("checkpoint_ms", took);
    lab.source
        .sh(&migrate::addresses("del", &mme::addresses()))?;
    tell.step(&format!(
        "source: {checkpoint}, {took} ms; the address is removed"
    ));
    let bytes = lab.source.sh(&format!("du -sb {IMAGES} | cut -f 1"))?;
    outcome.figure("image_bytes", bytes.trim().parse::<u64>()?);
    let transfer = migrate::transfer(lab, &["/var/lib/mme"])?;
    outcome.figure("transfer_ms", transfer);
    let dest = lab.dest()?;
    migrate::own(dest, &mme::addresses())?;
    let restore =
        format!("runc --log /var/tmp/runc.log restore -d {images} --bundle /var/lib/mme mme");
    let took = timed(dest, &restore)?;
    outcome.figure("restore_ms", took);
    tell.step(&format!("dest:   {restore}, {took} ms"));
    thread::sleep(Duration::from_secs(4));

    let after = mme::settle(lab, &talk)?;
    let wire = lab.wire(mme::PORT, began, SystemTime::now())?;
    mme::judge(&before, &after, outcome);
    wire.judge(outcome);
    outcome.require(wire.senders == 2, || {
        format!("{} hosts sent as the service, not 2", wire.senders)
    });
    let running = lab.dest()?.sh("runc list")?;
    ensure!(
        running.contains("running"),
        "dest: runc list says {running}"
    );
    Ok(())
}

/// Starts Docker, and makes the image and what runc needs of it.
fn prepare(guest: &mut Guest) -> Result<()> {
    for step in [DAEMONS, IMAGE, BUNDLE] {
        let step = step.replace("@4", SERVICE4).replace("@6", SERVICE6);
        let out = guest.run_within(&["sh", "-ec", &step], &[], 180.0)?;
        ensure!(
            out.code == 0,
            "{}: `{step}` ended with {}: {}{}",
            guest.name,
            out.code,
            out.stdout,
            out.stderr
        );
    }
    Ok(())
}

/// Docker's own commands, on a process that has no socket.
fn plain(guest: &mut Guest, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    guest.sh("docker run -d --name plain --network host mme /usr/bin/sleep 1000")?;
    let out = guest.run_within(
        &["docker", "checkpoint", "create", "plain", "c"],
        &[],
        120.0,
    )?;
    migrate::must("source", "docker checkpoint create", &out)?;
    let out = guest.run_within(
        &["docker", "start", "--checkpoint", "c", "plain"],
        &[],
        120.0,
    )?;
    let words = out.stderr.trim();
    outcome.figure("docker_restores", out.code == 0);
    tell.step(&format!(
        "source: docker checkpoint works; docker start --checkpoint {}",
        if out.code == 0 { "works" } else { words }
    ));
    Ok(())
}

/// Runs a command that must succeed, and tells how long it took.
fn timed(guest: &mut Guest, command: &str) -> Result<u64> {
    let script = format!("{command} </dev/null >/dev/null 2>&1");
    let out = guest.run_within(&["sh", "-ec", &script], &[], 120.0)?;
    if out.code != 0 {
        let log = guest.run(&["telecr", "explain", IMAGES])?.stdout;
        let words = guest.sh("cat /var/tmp/runc.log")?;
        return Err(anyhow::anyhow!("{words}\n{log}")).context(command.to_owned());
    }
    Ok(out.elapsed_ms)
}
