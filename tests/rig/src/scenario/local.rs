// SPDX-License-Identifier: GPL-2.0-only
//! Dump and restore on one host, and every way in which a dump may end without the process going away.

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
    lab::{Lab, Plan, IMAGES, SERVICE4},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

/// Points of a dump at which CRIU is killed.
const KILLS: u64 = 100;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-local",
    about: "dump and restore in place, dumps that leave the server running",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: false,
        wire: Wire {
            delay: Duration::from_millis(2),
            loss: 0,
        },
    },
    run,
};

/// Not in `all`: now and then (one of 134 kills tried) a kill meets a thread at a breakpoint of CRIU's, and the kernel delivers that SIGTRAP
/// (exit code 133) once its tracer has gone. Nobody but CRIU could take it away. The guard's own tests are in
/// `src/criu/tests.rs`, and have no such moment.
pub(super) const KILLED: Scenario = Scenario {
    name: "sctp-killed",
    about: "CRIU is killed at a hundred points of a dump",
    in_all: false,
    keep: false,
    plan: SCENARIO.plan,
    run: kills,
};

fn kills(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talk = mme::start(lab)?;
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let began = SystemTime::now();
    let usual = migrate::dump(&mut lab.source, talk.server, &["--leave-running"])?;
    migrate::must("source", "criu dump --leave-running", &usual)?;
    for point in 1..=KILLS {
        let after = usual.elapsed_ms * point / (KILLS + 1);
        migrate::killed_dump(&mut lab.source, talk.server, after)
            .and_then(|()| mme::runs_on(lab, &talk))
            .with_context(|| format!("CRIU killed after {after} ms"))?;
    }
    outcome.figure("kills", KILLS);
    tell.step("the server runs on each time");
    let after = mme::settle(lab, &talk)?;
    let wire = lab.wire(mme::PORT, began, SystemTime::now())?;
    mme::judge(&before, &after, outcome);
    wire.judge(outcome);
    Ok(())
}

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let talk = mme::start(lab)?;
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let began = SystemTime::now();

    let usual = migrate::dump(&mut lab.source, talk.server, &["--leave-running"])?;
    migrate::must("source", "criu dump --leave-running", &usual)?;
    outcome.figure("dump_ms", usual.elapsed_ms);
    mme::runs_on(lab, &talk).context("after --leave-running")?;
    tell.step(&format!(
        "--leave-running: {} ms, the server runs on",
        usual.elapsed_ms
    ));

    traced(lab, &talk)?;
    tell.step("CRIU under a tracer: its log says what the guard cannot do, and the server runs on");

    leave_stopped(lab, &talk)?;
    tell.step("--leave-stopped, SIGCONT: the server runs on");

    failing_script(lab, &talk)?;
    tell.step("failing post-dump script: the server runs on");

    full_disk(lab, &talk)?;
    tell.step("dump that fails half-way (no space for images): the server runs on");

    in_place(lab, &talk, outcome)?;
    tell.step("dump and restore in place: the server is back");

    lab.source.until("every guard process to end", 10.0, |g| {
        Ok(g.run(&["pgrep", "telecr-guard"])?.code != 0)
    })?;
    let table = lab
        .source
        .run(&["nft", "list", "table", "inet", "telecr"])?;
    outcome.require(!table.stdout.contains(SERVICE4), || {
        "the packet lock is still in place".into()
    });
    thread::sleep(Duration::from_secs(2));
    let after = mme::settle(lab, &talk)?;
    let wire = lab.wire(mme::PORT, began, SystemTime::now())?;
    mme::judge(&before, &after, outcome);
    wire.judge(outcome);
    Ok(())
}

/// Runs its arguments as `strace` does.
const TRACER: &str = r#"
import ctypes, os, signal, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long] * 4
TRACEME, CONT = 0, 7
pid = os.fork()
if pid == 0:
    ptrace(TRACEME, 0, 0, 0)
    os.execvp(sys.argv[1], sys.argv[1:])
while True:
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    number = os.WSTOPSIG(status)
    ptrace(CONT, pid, 0, 0 if number == signal.SIGTRAP else number)
"#;

fn traced(lab: &mut Lab, talk: &Talk) -> Result<()> {
    let criu = migrate::dump_command(talk.server, &["--leave-running"]);
    let mut argv = vec!["python3", "-c", TRACER];
    argv.extend(criu.iter().map(String::as_str));
    let out = lab.source.run(&argv)?;
    migrate::must("source", "criu dump --leave-running under a tracer", &out)?;
    let log = lab.source.sh(&format!("cat {IMAGES}/dump.log"))?;
    ensure!(
        log.contains("guard cannot trace CRIU"),
        "CRIU's log does not say that the guard cannot trace it: {log}"
    );
    mme::runs_on(lab, talk).context("after a dump under a tracer")
}

fn leave_stopped(lab: &mut Lab, talk: &Talk) -> Result<()> {
    let out = migrate::dump(&mut lab.source, talk.server, &["--leave-stopped"])?;
    migrate::must("source", "criu dump --leave-stopped", &out)?;
    let state = lab
        .source
        .sh(&format!("cut -d ' ' -f 3 /proc/{}/stat", talk.server))?;
    ensure!(
        state.trim() == "T",
        "after --leave-stopped the server is in state {}",
        state.trim()
    );
    lab.source.signal(talk.server, libc::SIGCONT)?;
    mme::runs_on(lab, talk).context("after --leave-stopped and SIGCONT")
}

fn failing_script(lab: &mut Lab, talk: &Talk) -> Result<()> {
    let script = "/var/tmp/post-dump";
    lab.source.put(
        script,
        0o755,
        b"#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" != post-dump ]\n",
    )?;
    let out = migrate::dump(&mut lab.source, talk.server, &["--action-script", script])?;
    ensure!(
        out.code != 0,
        "criu dump succeeded although its post-dump script failed"
    );
    mme::runs_on(lab, talk).context("after a failing post-dump script")
}

fn full_disk(lab: &mut Lab, talk: &Talk) -> Result<()> {
    let dir = "/var/tmp/small";
    lab.source.sh(&format!(
        "mkdir -p {dir}; mount -t tmpfs -o size=96k tmpfs {dir}"
    ))?;
    let pid = talk.server.to_string();
    let out = lab.source.run(&[
        "criu",
        "dump",
        "-t",
        &pid,
        "-D",
        dir,
        "-v4",
        "-o",
        "/var/tmp/small.log",
    ])?;
    ensure!(
        out.code != 0,
        "criu dump succeeded without space for its images"
    );
    lab.source.sh(&format!("umount {dir}"))?;
    mme::runs_on(lab, talk).context("after a dump that ran out of space")
}

fn in_place(lab: &mut Lab, talk: &Talk, outcome: &mut Outcome) -> Result<()> {
    lab.source.sh(&format!("rm -rf {IMAGES}; mkdir {IMAGES}"))?;
    lab.source.sh(&migrate::lock(&mme::addresses()))?;
    let out = migrate::dump(&mut lab.source, talk.server, &[])?;
    migrate::must("source", "criu dump", &out)?;
    let out = migrate::restore(&mut lab.source)?;
    migrate::must("source", "criu restore", &out)?;
    outcome.figure("restore_ms", out.elapsed_ms);
    mme::runs_on(lab, talk).context("after dump and restore in place")
}
