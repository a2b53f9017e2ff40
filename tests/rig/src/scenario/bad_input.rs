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
    artefacts::Needs,
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

    Ok(())
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

/// Runs something that must fail with one of `words` in its error.
pub(super) fn refused(
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
    let explained = guest.run(&["telecr", "explain", IMAGES])?.stdout;
    let names = |lead: &str| explained.lines().any(|l| l.starts_with(lead));
    outcome.require(names("cause: ") && names("cure: "), || {
        format!("{what}: telecr explain says {explained:?}")
    });
    let cause = explained.to_lowercase();
    outcome.require(words.iter().any(|w| cause.contains(w)), || {
        format!("{what}: telecr explain does not name the cause: {explained:?}")
    });
    tell.step(&format!(
        "{what}: refused: {}",
        clear.map_or("(no clear error)", |l| l.trim())
    ));
    Ok(())
}
