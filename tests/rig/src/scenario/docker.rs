// SPDX-License-Identifier: GPL-2.0-only
//! An MME in a container moves with Docker's own commands, as README.md has them; the way back is the same.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Context, Result};

use super::{
    mme::{self, Service, Sockets, Talk},
    Scenario,
};
use crate::{
    artefacts::Needs,
    container::{self, Ping},
    guest::{Guest, Output},
    lab::{Lab, Plan, SERVICE4, SERVICE6},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    readme,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "docker-migrate-mme",
    about:
        "an MME in a container moves with Docker's own commands and back, on two kinds of network",
    in_all: true,
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

/// The container's options and command, the same on both hosts.
const CONTAINER: &str =
    "--name mme @network --user 1000:1000 --tmpfs /tmp mme /usr/bin/mme-server \
    --listen @4:36412 --listen [@6]:36412 --status /tmp/status.json";

/// How the container comes to its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    /// `--network host`: the operator moves the addresses.
    Host,
    /// A macvlan device on the host's: Docker moves the addresses.
    Macvlan,
}

impl Network {
    fn options(self) -> &'static str {
        match self {
            Self::Host => "--network host",
            Self::Macvlan => "--network core --ip @4 --ip6 @6",
        }
    }

    /// Prepares a host, once.
    fn prepare(self, guest: &mut Guest) -> Result<()> {
        if self == Self::Macvlan {
            let own = guest.address();
            must(guest, &format!(
                "docker network create -d macvlan -o parent=eth0 --subnet 10.45.0.0/24 --gateway {own} \
                 --ipv6 --subnet fd00:45::/64 --gateway fd00:45::ffff core"
            ))?;
        }
        Ok(())
    }

    /// What the operator does where the container leaves.
    fn leave(self, guest: &mut Guest) -> Result<()> {
        if self == Self::Host {
            guest.sh(&migrate::addresses("del", &mme::addresses()))?;
        }
        Ok(())
    }

    /// What the operator does before the container comes, or begins.
    fn arrive(self, guest: &mut Guest, locked: bool) -> Result<()> {
        if self == Self::Host {
            if locked {
                guest.sh(&migrate::lock(&mme::addresses()))?;
            }
            migrate::own(guest, &mme::addresses())?;
        }
        Ok(())
    }
}

/// Why a step failed: Docker's words, and CRIU's errors.
const LOGS: &str = "tail -n 3 /var/tmp/dockerd.log; \
    find /run/containerd/io.containerd.runtime.v2.task -name '*.log' -exec grep -h -E 'Error|Warn' {} + || true";

/// Where README.md puts the checkpoint.
const CHECKPOINT: &str = "/var/tmp/mme";

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    for guest in lab.hosts()? {
        must(guest, DAEMONS)?;
        must(guest, IMAGE)?;
        must(guest, &readme::block("### Docker", 0)?)?;
    }
    tell.step("source, dest: Docker runs, and has the image");
    for (round, network) in (0..).zip([Network::Host, Network::Macvlan]) {
        for guest in lab.hosts()? {
            network.prepare(guest)?;
        }
        there_and_back(lab, network, &mme::S1.in_round(round), outcome, tell)
            .with_context(|| format!("{network:?}"))?;
        ensure!(outcome.ok(), "a peer noticed");
    }
    Ok(())
}

fn there_and_back(
    lab: &mut Lab,
    network: Network,
    service: &Service,
    outcome: &mut Outcome,
    tell: &Narrator,
) -> Result<()> {
    network.arrive(&mut lab.source, false)?;
    container::forget(&mut lab.peer)?;
    must(&mut lab.source, &container("run -d", network))?;
    let peer = mme::peers_of(lab, service, Sockets::Each)?;
    let talk = Talk { server: 0, peer };
    thread::sleep(Duration::from_secs(2));
    let before = mme::snapshot(&mut lab.peer, peer)?;
    let began = SystemTime::now();
    for way in ["there", "back"] {
        there(lab, network, outcome).with_context(|| format!("on the way {way}"))?;
        lab.swap()?;
        tell.step(&format!("{network:?}: moved {way}"));
    }
    thread::sleep(Duration::from_secs(2));
    let after = mme::settle(lab, &talk)?;
    let now = SystemTime::now();
    mme::judge(&before, &after, outcome);
    let wire = lab.wire(mme::PORT, began, now)?;
    wire.judge(outcome);
    // Docker makes the link address of a macvlan device of its IPv4 address.
    let senders = if network == Network::Host { 2 } else { 1 };
    outcome.require(wire.senders == senders, || {
        format!(
            "{} link addresses sent as the service, not {senders}",
            wire.senders
        )
    });
    lab.answers(began, now)?.judge(outcome);
    let running = lab
        .source
        .sh("docker ps --format '{{.Names}} {{.Status}}'")?;
    ensure!(running.starts_with("mme Up"), "docker ps says {running}");
    lab.peer.signal(peer, libc::SIGTERM)?;
    lab.peer.wait(peer, 10.0)?;
    must(&mut lab.source, "docker rm -f mme")?;
    network.leave(&mut lab.source)
}

/// A command of Docker's with the container's options.
fn container(verb: &str, network: Network) -> String {
    let command = format!("docker {verb} {CONTAINER}").replace("@network", network.options());
    command.replace("@4", SERVICE4).replace("@6", SERVICE6)
}

/// Moves the container from the source to the destination.
fn there(lab: &mut Lab, network: Network, outcome: &mut Outcome) -> Result<()> {
    lab.source.sh(&format!("rm -rf {CHECKPOINT}"))?;
    must(
        lab.dest()?,
        &format!("rm -rf {CHECKPOINT}; {}", container("create", network)),
    )?;
    let ping = Ping::start(lab, SERVICE4)?;
    let out = must(&mut lab.source, &readme::block("### Docker", 1)?)?;
    outcome.worst("checkpoint_ms", out.elapsed_ms);
    network.leave(&mut lab.source)?;
    let bytes = lab.source.sh(&format!("du -sb {CHECKPOINT} | cut -f 1"))?;
    outcome.worst("image_bytes", bytes.trim().parse()?);
    outcome.worst("transfer_ms", migrate::copy(lab, &[CHECKPOINT])?);
    let dest = lab.dest()?;
    network.arrive(dest, true)?;
    let out = must(dest, &readme::block("### Docker", 2)?)?;
    outcome.worst("restore_ms", out.elapsed_ms);
    outcome.worst("downtime_ms", ping.stop(lab)?);
    let left = lab.dest()?.sh("telecr status")?;
    outcome.require(!left.contains(SERVICE4) && !left.contains(SERVICE6), || {
        format!("after the restore this is still locked: {left}")
    });
    lab.source.sh("docker rm mme")?;
    Ok(())
}

/// Runs a script that must succeed; else Docker's log says why it did not.
fn must(guest: &mut Guest, script: &str) -> Result<Output> {
    let out = guest.run_within(&["sh", "-ec", script], &[], 180.0)?;
    if out.code != 0 {
        let log = guest.sh(LOGS)?;
        migrate::must(&guest.name, script, &out).context(log)?;
    }
    Ok(out)
}
