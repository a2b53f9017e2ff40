// SPDX-License-Identifier: GPL-2.0-only
//! What an administrator gets from `dkms install`: the module that `modprobe sctp` then finds.

use std::{fs, time::Duration};

use anyhow::{ensure, Context, Result};

use super::{mme, Scenario};
use crate::{
    artefacts::Needs,
    dkms, image,
    lab::{Lab, Plan},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "dkms",
    about: "dkms install builds the module, and modprobe sctp finds it",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Unloaded,
        dest: false,
        wire: Wire {
            delay: Duration::from_millis(1),
            loss: 0,
        },
    },
    run,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let say = |words: &str| tell.step(words);
    let image = image::get(image::Kind::Plain, &say)?;
    let folder = format!("/usr/lib/modules/{}/updates/dkms", image.release);
    let modules = dkms::installed(&image, &say)?;
    for module in &modules {
        let name = module.file_name().context("a module without a name")?;
        let path = format!("{folder}/{}", name.to_string_lossy());
        lab.source.put(&path, 0o644, &fs::read(module)?)?;
    }
    outcome.figure("modules", modules.len());
    lab.source.sh("depmod -a; modprobe sctp")?;
    let found = lab.source.sh("modinfo -n sctp")?;
    ensure!(found.contains("updates"), "modprobe sctp finds {found}");
    let families = lab.source.sh("genl ctrl list")?;
    ensure!(
        families.contains("sctp_repair"),
        "the module DKMS built has no family sctp_repair"
    );
    tell.step("modprobe sctp loads the module that DKMS installed");
    let talk = mme::start(lab)?;
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    mme::runs_on(lab, &talk)?;
    let after = mme::settle(lab, &talk)?;
    mme::judge(&before, &after, outcome);
    Ok(())
}
