// SPDX-License-Identifier: GPL-2.0-only
//! The scenarios and how one is run.

mod bad_input;
mod bench;
mod cli;
mod companion;
mod deb;
mod docker;
mod epc;
mod explain;
mod flood;
mod gtp;
mod gtp_netns;
mod gtp_scale;
mod hostile;
mod hss;
mod kernels;
mod local;
mod migrate_mme;
mod migrate_socat;
mod mme;
mod pod;
mod podman;
mod predump;
mod repair;
mod sockets;
mod spgw;
mod stock;
mod wakeup;

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};

use crate::{
    cache,
    lab::{Lab, Plan},
    narrate::Narrator,
    outcome::Outcome,
};

/// One scenario.
pub struct Scenario {
    /// What `cargo rig` calls it.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// Is it part of `cargo rig all`?
    pub in_all: bool,
    /// Are its capture and report kept when it succeeds?
    keep: bool,
    plan: Plan,
    run: fn(&mut Lab, &mut Outcome, &Narrator) -> Result<()>,
}

/// All of them, in the order they run in.
pub const ALL: &[Scenario] = &[
    stock::SCENARIO,
    stock::PATCHED,
    repair::SCENARIO,
    hostile::SOAK,
    hostile::FUZZ,
    kernels::OLD,
    kernels::NEW,
    kernels::BOTH,
    local::SCENARIO,
    local::KILLED,
    sockets::SCENARIO,
    cli::SCENARIO,
    migrate_socat::SCENARIO,
    migrate_mme::SCENARIO,
    migrate_mme::LOSSY,
    migrate_mme::MANY,
    predump::SCENARIO,
    predump::PAGE_SERVER,
    kernels::CROSS,
    wakeup::SCENARIO,
    wakeup::REMINDED,
    wakeup::AGAIN,
    bad_input::SCENARIO,
    explain::SCENARIO,
    gtp::LOCAL,
    gtp::KILLED,
    gtp::MIGRATE,
    gtp_netns::SCENARIO,
    gtp_scale::SCALE,
    podman::MME,
    pod::SCENARIO,
    epc::HSS,
    epc::SPGW,
    epc::EPC,
    flood::SCENARIO,
    companion::SCENARIO,
    deb::SCENARIO,
    docker::SCENARIO,
    bench::SCENARIO,
    gtp_scale::BENCH,
    migrate_mme::DEMO,
];

/// Finds a scenario by its name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|s| s.name == name)
}

impl Scenario {
    /// Runs it to its JSON line.
    pub fn run(&self, keep: bool) -> Result<Outcome> {
        let keep = keep || self.keep;
        let tell = Narrator::default();
        tell.heading(&format!("{}: {}", self.name, self.about));
        let dir = folder(self.name)?;
        let mut outcome = Outcome::default();
        let began = SystemTime::now();
        match Lab::start(self.plan, &dir, &tell) {
            Ok(mut lab) => {
                if let Err(e) = (self.run)(&mut lab, &mut outcome, &tell) {
                    outcome.fault(format!("{e:#}"));
                }
                lab.complaints().into_iter().for_each(|c| outcome.fault(c));
                if keep || !outcome.ok() {
                    lab.collect();
                }
            }
            Err(e) => outcome.fault(format!("{e:#}")),
        }
        outcome.figure("seconds", began.elapsed().unwrap_or_default().as_secs());
        let line = outcome.line(self.name);
        let _ = fs::write(dir.join("report.json"), &line);
        for fault in outcome.faults() {
            tell.step(&format!("FAULT: {fault}"));
        }
        if keep || !outcome.ok() {
            tell.step(&format!("logs and captures: {}", dir.display()));
        } else {
            cache::remove(&dir)?;
        }
        println!("{line}");
        Ok(outcome)
    }
}

/// A fresh folder for a run; those of earlier runs of this scenario are removed.
fn folder(name: &str) -> Result<PathBuf> {
    let runs = cache::dir()?.join("runs");
    fs::create_dir_all(&runs)?;
    for entry in fs::read_dir(&runs)?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let over = |pid: &str| {
            pid.parse::<u32>()
                .is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        };
        if file
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(over)
        {
            cache::remove(&entry.path())?;
        }
    }
    let dir = runs.join(format!("{name}-{}", std::process::id()));
    cache::remove(&dir)?;
    fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}
