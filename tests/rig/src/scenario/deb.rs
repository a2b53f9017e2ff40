// SPDX-License-Identifier: GPL-2.0-only
//! What an administrator gets from the Debian packages, and what is left when they are gone.

use std::{
    fs, thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Result};

use super::{mme, Scenario};
use crate::{
    artefacts::Needs,
    guest::Guest,
    image,
    lab::{Lab, Plan},
    migrate::{self, Move},
    narrate::Narrator,
    outcome::Outcome,
    packages,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "deb",
    about: "the Debian packages install, build the module, move an MME, and leave nothing behind",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Packages,
        dest: true,
        wire: Wire {
            delay: Duration::from_millis(2),
            loss: 0,
        },
    },
    run,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    // telecr-sctp-dkms has been installed in the guests' disk, where the compiler is quick.
    let telecr = fs::read(packages::make()?.telecr)?;
    outcome.figure("package_bytes", telecr.len());

    inventory(&mut lab.peer, "boot")?;
    purge(&mut lab.peer, &["telecr-sctp-dkms"], outcome, tell)?;
    lab.peer.sh("modprobe -a sctp sctp_diag")?;
    ensure!(
        !repair_mode(&mut lab.peer)?,
        "peer: the stock module has not come back"
    );
    tell.step("peer:   telecr-sctp-dkms is removed, and modprobe loads the stock sctp");

    install(&mut lab.source, &telecr)?;
    install(lab.dest()?, &telecr)?;
    tell.step("source, dest: dpkg -i telecr; telecr check lacks nothing");

    let talk = mme::start(lab)?;
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let what = Move {
        pid: talk.server,
        addresses: &mme::addresses(),
        files: &[],
        serves_on: false,
    };
    let window = migrate::migrate(lab, &what, outcome, tell)?;
    thread::sleep(Duration::from_secs(4));
    let after = mme::settle(lab, &talk)?;
    let wire = lab.wire(mme::PORT, window.began, SystemTime::now())?;
    mme::judge(&before, &after, outcome);
    wire.judge(outcome);

    lab.dest()?.signal(talk.server, libc::SIGTERM)?;
    without_source(lab.dest()?, tell)?;
    let both = ["telecr", "telecr-sctp-dkms"];
    purge(&mut lab.source, &both, outcome, tell)?;
    purge(lab.dest()?, &both, outcome, tell)
}

/// Installs `telecr` on a host that has `telecr-sctp-dkms`, and checks it.
fn install(guest: &mut Guest, telecr: &[u8]) -> Result<()> {
    inventory(guest, "boot")?;
    let status = guest.sh("dkms status")?;
    ensure!(
        status.contains("telecr-sctp") && status.contains("installed"),
        "{}: dkms status says {status:?}",
        guest.name
    );
    guest.put("/run/telecr.deb", 0o644, telecr)?;
    guest.sh("dpkg -i /run/telecr.deb")?;
    // The first SCTP socket loads the module, by the kernel's own alias.
    guest.sh("telecr check")?;
    ensure!(
        repair_mode(guest)?,
        "{}: the module DKMS built has no repair mode",
        guest.name
    );
    Ok(())
}

/// A kernel whose source is not installed: its headers must install all the same.
fn without_source(guest: &mut Guest, tell: &Narrator) -> Result<()> {
    guest.sh("mv /usr/src/linux-source-*.tar.xz /run/")?;
    let module = guest.sh("cd /usr/src; echo telecr-sctp-* | sed 's|\\(.*\\)-|\\1/|'")?;
    let module = module.trim();
    guest.sh(&format!("dkms unbuild {module} -k $(uname -r)"))?;
    // dkms's word for a kernel a module is not for.
    let code = guest.sh(&format!(
        "dkms build {module} -k $(uname -r) >&2 || echo $?"
    ))?;
    ensure!(
        code.trim() == "77",
        "{}: dkms build ends with {code:?}",
        guest.name
    );
    let release = guest.sh("uname -r")?;
    let headers = ["/etc/kernel/header_postinst.d/dkms", release.trim()];
    let out = guest.run_within(&headers, &[], 180.0)?;
    guest.sh("mv /run/linux-source-*.tar.xz /usr/src/")?;
    migrate::must(&guest.name, "the hook of linux-headers", &out)?;
    tell.step("dest:   the hook of linux-headers passes over a kernel without its linux-source");
    Ok(())
}

/// Removes packages with their configuration, and looks for what they left.
fn purge(guest: &mut Guest, names: &[&str], outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let argv = [&["dpkg", "--purge"], names].concat();
    let out = guest.run_within(&argv, &[], 180.0)?;
    migrate::must(&guest.name, "dpkg --purge", &out)?;
    let names = names.join(" ");
    inventory(guest, "after")?;
    // The rig's own files came with the boot; what DKMS built did, too.
    let left = guest.sh(&format!(
        "cd /run; comm -13 {} boot | grep -v -e telecr-sctp -e /updates > rig || true; \
         comm -13 {} after | comm -13 rig -",
        image::INVENTORY,
        image::INVENTORY
    ))?;
    outcome.require(left.trim().is_empty(), || {
        format!("{}: left behind by {names}: {left}", guest.name)
    });
    let module = guest.sh("modinfo -n sctp")?;
    outcome.require(module.contains("/kernel/net/sctp/"), || {
        format!("{}: modprobe sctp would load {module}", guest.name)
    });
    tell.step(&format!(
        "{}: dpkg --purge {names}; nothing is left, and modprobe finds the stock sctp",
        guest.name
    ));
    Ok(())
}

fn repair_mode(guest: &mut Guest) -> Result<bool> {
    Ok(guest.sh("genl ctrl list")?.contains("sctp_repair"))
}

/// Lists the files of a guest.
fn inventory(guest: &mut Guest, name: &str) -> Result<()> {
    guest
        .sh(&format!("{} > /run/{name}", image::LIST))
        .map(drop)
}
