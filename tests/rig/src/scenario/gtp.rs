// SPDX-License-Identifier: GPL-2.0-only
//! GTP links and their tunnels: in place, and from host to host.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::{
    spgw::{self, Net, CONTROL},
    Scenario,
};
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan, IMAGES},
    migrate::{self, Move},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

const WIRE: Wire = Wire {
    delay: Duration::from_millis(1),
    loss: 0,
};

/// Points of a dump at which CRIU is killed.
const KILLS: u64 = 10;

pub(super) const LOCAL: Scenario = Scenario {
    name: "gtp-local",
    about:
        "an SPGW is dumped and restored in place, and dumped without an end; `telecr gtp` by hand",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: false,
        wire: WIRE,
    },
    run: local,
};

/// Not in `all`, for the reason of `sctp-killed`.
pub(super) const KILLED: Scenario = Scenario {
    name: "gtp-killed",
    about: "CRIU is killed while it dumps an SPGW",
    in_all: false,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: false,
        wire: WIRE,
    },
    run: kills,
};

pub(super) const MIGRATE: Scenario = Scenario {
    name: "gtp-migrate",
    about: "an SPGW with 10,000 tunnels moves to another host",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: true,
        wire: WIRE,
    },
    run: migrate,
};

fn local(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let net = spgw::start(lab, 300, &["--mixed"])?;
    let before = spgw::snapshot(&mut lab.peer, &net)?;
    tell.step("source: SPGW with 350 tunnels of all kinds, every UE is served");

    by_hand(&mut lab.source, &net)?;
    no_driver(&mut lab.peer)?;
    tell.step("telecr gtp dump, diff, list: what is in the kernel is in the image");

    let out = migrate::dump(&mut lab.source, net.spgw, &["--leave-running"])?;
    migrate::must("source", "criu dump --leave-running", &out)?;
    outcome.figure("dump_ms", out.elapsed_ms);
    runs_on(lab, &net)?;
    same(&mut lab.source, "", "/var/tmp/a.img")?;
    tell.step("--leave-running: it goes on, nothing differs");

    lab.source.sh(&format!("rm -rf {IMAGES}; mkdir {IMAGES}"))?;
    let out = migrate::dump(&mut lab.source, net.spgw, &[])?;
    migrate::must("source", "criu dump", &out)?;
    let shown = lab.source.sh(&format!("telecr show {IMAGES}"))?;
    // One was added by hand.
    let row = |l: &str| l.contains(" gtp0 ") && l.contains(":2152") && l.ends_with(" 351");
    outcome.require(shown.lines().any(row), || {
        format!("telecr show does not tell of gtp0 with 351 tunnels:\n{shown}")
    });
    spgw::all_served(&mut lab.peer, &net)?;
    tell.step("criu dump: the process is gone, and the kernel serves every UE meanwhile");
    let out = migrate::restore(&mut lab.source)?;
    migrate::must("source", "criu restore", &out)?;
    outcome.figure("restore_ms", out.elapsed_ms);
    runs_on(lab, &net)?;
    same(&mut lab.source, "", "/var/tmp/a.img")?;
    tell.step("dump and restore in place: the SPGW is back, nothing differs");

    let after = spgw::all_served(&mut lab.peer, &net)?;
    spgw::judge(&before, &after, outcome);
    Ok(())
}

fn kills(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let net = spgw::start(lab, 300, &["--mixed"])?;
    lab.source.sh("telecr gtp dump /var/tmp/a.img")?;
    let out = migrate::dump(&mut lab.source, net.spgw, &["--leave-running"])?;
    migrate::must("source", "criu dump --leave-running", &out)?;
    for point in 1..=KILLS {
        migrate::killed_dump(
            &mut lab.source,
            net.spgw,
            out.elapsed_ms * point / (KILLS + 1),
        )?;
        runs_on(lab, &net).with_context(|| format!("kill {point}"))?;
    }
    same(&mut lab.source, "", "/var/tmp/a.img")?;
    outcome.figure("kills", KILLS);
    tell.step(&format!(
        "CRIU killed at {KILLS} points: it goes on, nothing differs"
    ));
    Ok(())
}

/// What an operator does without CRIU.
fn by_hand(guest: &mut Guest, net: &Net) -> Result<()> {
    guest.sh("telecr gtp dump /var/tmp/a.img")?;
    same(guest, "", "/var/tmp/a.img")?;
    let all = guest.sh("telecr gtp list --json")?;
    let all: Vec<serde_json::Value> = serde_json::from_str(&all)?;
    ensure!(
        all.len() == 350,
        "telecr gtp list shows {} tunnels",
        all.len()
    );
    let one = guest.sh("telecr gtp list --teid 0x10000007")?;
    ensure!(
        one.lines().count() == 2 && one.contains("10.60.1.3") != one.contains("10.62.1.3"),
        "UE 7 is not listed alone: {one}"
    );
    ensure!(command(guest, "add 5000")? == "ok", "no tunnel was added");
    let out = guest.run(&["telecr", "gtp", "diff", "/var/tmp/a.img", "live"])?;
    ensure!(
        out.code == 1
            && out.stdout.lines().count() == 1
            && out.stdout.starts_with("+ gtp0 tunnel TEID 0x10001388/"),
        "diff does not tell of the new tunnel: {} {}{}",
        out.code,
        out.stdout,
        out.stderr
    );
    guest.sh("telecr gtp dump /var/tmp/a.img")?;
    let refused = guest.run(&[
        "telecr",
        "gtp",
        "restore",
        "--pid",
        &net.spgw.to_string(),
        "/var/tmp/a.img",
    ])?;
    ensure!(
        refused.code == 1 && refused.stderr.contains("gtp0 is here already"),
        "a link that is there was not refused: {}",
        refused.stderr
    );
    same(guest, "", "/var/tmp/a.img")
}

/// A host whose kernel has no driver says so, and what to do.
fn no_driver(guest: &mut Guest) -> Result<()> {
    guest.sh("echo 'install gtp /bin/false' > /etc/modprobe.d/no-gtp.conf")?;
    let out = guest.run(&["telecr", "gtp", "dump", "/var/tmp/none.img"])?;
    ensure!(
        out.code != 0 && out.stderr.contains("no GTP driver; modprobe gtp"),
        "without a driver: {} {}{}",
        out.code,
        out.stdout,
        out.stderr
    );
    Ok(())
}

/// Fails unless the kernel has what an image says.
pub(super) fn same(guest: &mut Guest, below: &str, image: &str) -> Result<()> {
    let out = guest.run(&["sh", "-c", &format!("{below} telecr gtp diff {image} live")])?;
    ensure!(
        out.code == 0 && out.stdout.is_empty(),
        "{} differs from its image: {}{}",
        guest.name,
        out.stdout,
        out.stderr
    );
    Ok(())
}

/// Asks the daemon on its control socket.
pub(super) fn command(guest: &mut Guest, words: &str) -> Result<String> {
    let answer = guest.sh(&format!("echo {words} | socat -t 5 STDIO UNIX:{CONTROL}"))?;
    Ok(answer.trim().to_owned())
}

/// Fails unless the daemon answers, can add a tunnel, and every UE is served.
fn runs_on(lab: &mut Lab, net: &Net) -> Result<()> {
    let known = command(&mut lab.source, "count")?;
    ensure!(known.parse::<u64>().is_ok(), "the SPGW answers {known:?}");
    spgw::all_served(&mut lab.peer, net).map(drop)
}

fn migrate(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    spgw::room_for_flows(lab.dest()?)?;
    let net = spgw::start(lab, 10_000, &[])?;
    let before = spgw::snapshot(&mut lab.peer, &net)?;
    outcome.figure("tunnels", net.tunnels);
    tell.step("source: SPGW with 10,000 tunnels, every UE is served");
    lab.source.sh("telecr gtp dump /var/tmp/before.img")?;
    let what = Move {
        pid: net.spgw,
        addresses: &spgw::ADDRESSES,
        files: &["/var/tmp/before.img"],
        serves_on: true,
    };
    migrate::migrate(lab, &what, outcome, tell)?;
    lab.source.until("gtp0 to leave the source", 10.0, |g| {
        Ok(g.run(&["ip", "link", "show", "gtp0"])?.code != 0)
    })?;
    same(lab.dest()?, "", "/var/tmp/before.img")?;
    let known = command(lab.dest()?, "count")?;
    ensure!(known == "10000", "the SPGW answers {known:?}");
    let after = spgw::all_served(&mut lab.peer, &net)?;
    tell.step("every UE is served again");
    spgw::judge(&before, &after, outcome);
    ensure!(
        command(lab.dest()?, "add 20000")? == "ok",
        "no tunnel was added"
    );
    Ok(())
}
