// SPDX-License-Identifier: GPL-2.0-only
//! Mistakes and damage: each gets an error that names its cause, the peers' associations live, a correct retry works.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Context, Result};

use super::{
    mme::{self, Talk},
    Scenario,
};
use crate::{
    artefacts::{Needs, GUEST_MODULES},
    guest::{Guest, Output},
    lab::{Lab, Plan, IMAGES},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-bad-input",
    about: "mistakes and damaged images get a clear error, and nothing is lost",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: true,
        wire: Wire {
            delay: Duration::from_millis(2),
            loss: 0,
        },
    },
    run,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talk = mme::start(lab)?;
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let began = SystemTime::now();

    no_capability(lab, &talk, outcome, tell)?;

    // From here on as in a migration, with every mistake before the correct restore.
    lab.dest()?.sh(&migrate::lock(&mme::addresses()))?;
    let out = migrate::dump(&mut lab.source, talk.server, &[])?;
    migrate::must("source", "criu dump", &out)?;
    lab.source
        .sh(&migrate::addresses("del", &mme::addresses()))?;
    migrate::transfer(lab, &[])?;

    let dest = lab.dest()?;
    refused(
        dest,
        "address missing on the destination",
        &["address"],
        outcome,
        tell,
        migrate::restore,
    )?;
    dest.sh(&migrate::addresses("add", &mme::addresses()))?;
    dest.sh(&format!("cp -a {IMAGES} {IMAGES}.good"))?;
    for (what, words, damage) in DAMAGES {
        dest.sh(&format!(
            "cd {IMAGES}; f=$(ls telecr-sctp-*.img | tail -n 1); {damage}"
        ))?;
        refused(dest, what, words, outcome, tell, migrate::restore)?;
        dest.sh(&format!("rm -rf {IMAGES}; cp -a {IMAGES}.good {IMAGES}"))?;
    }
    let out = migrate::restore(dest)?;
    migrate::must("dest", "criu restore after the mistakes", &out)?;
    tell.step("the correct restore after all of them works");
    refused(
        dest,
        "second restore while the first lives",
        &["exist", "in use", "busy"],
        outcome,
        tell,
        |guest| {
            // In a pid namespace of its own, where the process ids are free.
            guest.run(&[
                "unshare",
                "-pf",
                "--mount-proc",
                "criu",
                "restore",
                "-d",
                "-D",
                IMAGES,
                "-v4",
                "-o",
                "restore.log",
            ])
        },
    )?;

    thread::sleep(Duration::from_secs(3));
    let after = mme::settle(lab, &talk)?;
    let wire = lab.wire(mme::PORT, began, SystemTime::now())?;
    mme::judge(&before, &after, outcome);
    wire.judge(outcome);

    end(lab, &talk)?;
    let old = "/var/tmp/old.ko";
    older_module(&mut lab.source, old)?;
    with_module(
        lab,
        &format!("insmod {old}"),
        "module older than the tool",
        outcome,
        tell,
    )?;
    with_module(lab, "modprobe sctp", "no companion module", outcome, tell)
}

/// What is damaged, words the error may use, and the damage to `$f`.
const DAMAGES: [(&str, &[&str], &str); 3] = [
    (
        "truncated image",
        &["truncated", "cut short", "ends", "end of"],
        "truncate -s -7 $f",
    ),
    (
        "bit-flipped image",
        &["checksum", "crc", "corrupt", "damaged"],
        FLIP,
    ),
    (
        "foreign image",
        &["magic", "not a telecr", "foreign", "not an image"],
        "cp core-*.img $f",
    ),
];

/// Flips one bit in the middle of `$f`.
const FLIP: &str =
    "python3 -c 'import sys; p = sys.argv[1]; b = bytearray(open(p, \"rb\").read()); \
    b[len(b) // 2] ^= 4; open(p, \"wb\").write(b)' $f";

fn no_capability(lab: &mut Lab, talk: &Talk, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let pid = talk.server.to_string();
    refused(
        &mut lab.source,
        "no CAP_NET_ADMIN",
        &["cap_net_admin"],
        outcome,
        tell,
        |guest| {
            let argv = [
                "setpriv",
                "--bounding-set",
                "-net_admin",
                "--inh-caps",
                "-net_admin",
                "criu",
                "dump",
            ];
            guest.run(
                &[
                    &argv[..],
                    &["-t", &pid, "-D", IMAGES, "-v4", "-o", "dump.log"],
                ]
                .concat(),
            )
        },
    )?;
    mme::runs_on(lab, talk).context("after a dump without CAP_NET_ADMIN")
}

/// Runs a fresh server on a source with another `sctp.ko`: its dump must be refused, and it must run on.
fn with_module(
    lab: &mut Lab,
    load: &str,
    what: &str,
    outcome: &mut Outcome,
    tell: &Narrator,
) -> Result<()> {
    lab.source.sh(&format!("rmmod sctp_diag sctp; {load}"))?;
    let talk = mme::start(lab)?;
    refused(
        &mut lab.source,
        what,
        &["sctp.ko", "module", "companion"],
        outcome,
        tell,
        |guest| migrate::dump(guest, talk.server, &[]),
    )?;
    mme::runs_on(lab, &talk).with_context(|| format!("after: {what}"))?;
    end(lab, &talk)
}

/// Ends both programs and takes the addresses off every host.
fn end(lab: &mut Lab, talk: &Talk) -> Result<()> {
    lab.peer.signal(talk.peer, libc::SIGTERM)?;
    lab.peer.wait(talk.peer, 10.0)?;
    thread::sleep(Duration::from_secs(1));
    let clear = format!(
        "({}) 2>/dev/null || true",
        migrate::addresses("del", &mme::addresses())
    );
    lab.source
        .sh("pkill mme-server || true; while pidof mme-server; do sleep 0.1; done")?;
    lab.source.sh(&clear)?;
    lab.dest()?.sh("pkill mme-server || true")?;
    lab.dest()?.sh(&clear)?;
    Ok(())
}

/// Makes a module that says it is of feature level 0: the number follows the family's name.
fn older_module(guest: &mut Guest, to: &str) -> Result<()> {
    let mut module = guest.get(&format!("{GUEST_MODULES}/sctp.ko"))?;
    let mut family = b"sctp_repair".to_vec();
    family.resize(16, 0);
    family.push(1);
    let at = module
        .windows(family.len())
        .position(|w| w == family)
        .context("no such family in sctp.ko")?;
    if let Some(version) = module.get_mut(at + 16) {
        *version = 0;
    }
    guest.put(to, 0o644, &module)
}

/// Runs something that must fail with one of `words` in its error.
fn refused(
    guest: &mut Guest,
    what: &str,
    words: &[&str],
    outcome: &mut Outcome,
    tell: &Narrator,
    attempt: impl FnOnce(&mut Guest) -> Result<Output>,
) -> Result<()> {
    guest.sh(&format!("rm -f {IMAGES}/dump.log {IMAGES}/restore.log"))?;
    let out = attempt(guest)?;
    ensure!(out.code != 0, "{what}: it succeeded");
    let logs = guest.sh(&format!(
        "cat {IMAGES}/dump.log {IMAGES}/restore.log 2>/dev/null || true"
    ))?;
    let text = format!("{logs}{}{}", out.stdout, out.stderr);
    let ours: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("telecr") && l.contains("Error"))
        .collect();
    let clear = ours
        .iter()
        .find(|l| words.iter().any(|w| l.to_lowercase().contains(w)));
    outcome.require(clear.is_some(), || {
        format!("{what}: no error names the cause; telecr said {ours:?}")
    });
    tell.step(&format!(
        "{what}: refused: {}",
        clear.map_or("(no clear error)", |l| l.trim())
    ));
    Ok(())
}
