// SPDX-License-Identifier: GPL-2.0-only
//! The commonest ways in which CRIU fails, provoked one by one: `telecr explain` names cause and cure of each.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde::Deserialize;

use super::Scenario;
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan},
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "explain",
    about: "`telecr explain` names cause and cure of dumps and restores that fail",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: false,
        wire: Wire {
            delay: Duration::ZERO,
            loss: 0,
        },
    },
    run,
};

/// Something that goes wrong.
struct Case {
    what: &'static str,
    /// On the guest with the stock `sctp.ko`?
    stock: bool,
    /// Starts a process, with its id in `$pid`, and lets `criu` fail.
    script: &'static str,
    /// What the explanation's cause must say.
    cause: &'static str,
    /// What its cure must say.
    cure: &'static str,
}

const fn case(
    what: &'static str,
    script: &'static str,
    cause: &'static str,
    cure: &'static str,
) -> Case {
    Case {
        what,
        stock: false,
        script,
        cause,
        cure,
    }
}

const fn on_stock(
    what: &'static str,
    script: &'static str,
    cause: &'static str,
    cure: &'static str,
) -> Case {
    Case {
        stock: true,
        ..case(what, script, cause, cure)
    }
}

/// What the scripts share: they run in a folder of their own, and what they start ends with them.
const PREAMBLE: &str = r#"
mkdir -p img empty
bg() { setsid "$@" </dev/null >/dev/null 2>&1 & pid=$!; sleep 0.5; }
dump() { criu dump -t $pid -D img -v4 -o dump.log "$@"; }
restore() { criu restore -d -D img -v4 -o restore.log "$@"; }
child() { for i in $(seq 50); do pid=$(pgrep -of "$1") && return 0; sleep 0.1; done; false; }
gone() { while kill -0 $pid 2>/dev/null; do sleep 0.1; done; }
"#;

const CASES: &[Case] = &[
    case("no plugin", "bg socat SCTP4-LISTEN:7301 PIPE; dump -L $PWD/empty", "has not loaded telecr's plugin", "telecr_plugin.so"),
    on_stock("no repair mode", "bg socat SCTP4-LISTEN:7301 PIPE; dump", "no SCTP repair mode", "telecr-sctp-dkms"),
    case("TCP connection", "bg socat TCP-LISTEN:7302 PIPE; bg socat TCP:127.0.0.1:7302 PIPE; dump", "TCP connection", "--tcp-established"),
    case("terminal", "setsid script -qc 'sleep 731; true' /dev/null </dev/null >/dev/null 2>&1 & child '^sleep 731'; dump", "terminal", "--shell-job"),
    case("file lock", "bg flock lock sleep 600; dump", "file lock", "--file-locks"),
    case("unix socket", "bg socat UNIX-LISTEN:u PIPE; bg socat UNIX:u PIPE; dump", "other end of a unix socket", "dump both ends"),
    case("link left of an open file", "echo x >f; ln f g; bg sh -c 'exec 3<f; rm f; sleep 600; true'; dump", "/f open", "--link-remap"),
    case("large deleted file", "head -c 3M /dev/urandom >f; bg sh -c 'exec 3<f; rm f; sleep 600; true'; dump", "3145728 bytes", "--ghost-limit"),
    case("not root", "bg sleep 600; chmod 777 . img; setpriv --reuid 65534 --regid 65534 --clear-groups criu dump -t $pid -D img -v4 2>dump.log", "privileges", "as root"),
    case("no such process", "pid=99999; dump", "no process 99999", "ps -e"),
    case("disk full", "mount -t tmpfs -o size=64k tmpfs img; bg sleep 600; dump -W .", "full", "make room"),
    case("traced", "bg sleep 600; t=$pid; bg strace -o /dev/null -p $t; pid=$t; dump", "cannot be traced", "TracerPid"),
    case("slave mounts", "mkdir m; mount -t tmpfs tmpfs m; mount --make-shared m; bg unshare -m --propagation slave sleep 600; dump", "mount namespace", "private"),
    case("not the session leader", "bg sh -c 'sleep 732; true'; child '^sleep 732'; dump", "shell", "setsid"),
    case("process id taken", "bg sleep 600; dump --leave-running; restore", "is taken", "pid namespace"),
    case("open file gone", "echo x >f; bg sh -c 'exec 3<f; sleep 600; true'; dump; rm f; restore", "/f, which the process has open", "copy"),
    case("open file changed", "echo x >f; bg sh -c 'exec 3<f; sleep 600; true'; dump; echo more >>f; restore", "size differs", "copy"),
    case("another build of the program", "cp /usr/bin/sleep s; bg ./s 600; dump; cp /usr/bin/cat s; restore", "differs", "copy"),
    case("no working folder", "mkdir cwd; bg sh -c 'cd cwd; sleep 600; true'; dump; rmdir cwd; restore", "/cwd, which the process has open or works in", "copy"),
    case("no images", "restore", "no checkpoint", "-D"),
    case("an image lost", "bg sleep 600; dump; rm img/core-*; restore", "core-", "copy"),
    case("no plugin at restore", "bg socat SCTP4-LISTEN:7307 PIPE; dump; restore -L $PWD/empty", "has not loaded telecr's plugin", "install telecr"),
    case("TCP at restore", "bg socat TCP-LISTEN:7303 PIPE; bg socat TCP:127.0.0.1:7303 PIPE; dump --tcp-established; restore", "TCP connection", "restore --tcp-established"),
    case("TCP address gone", "ip address add 10.9.9.9 dev lo; bg socat -u TCP-LISTEN:7304,bind=10.9.9.9 CREATE:out; dump; ip address del 10.9.9.9/32 dev lo; restore", "address", "ip address add"),
    case("TCP port taken", "bg socat -u TCP-LISTEN:7305 CREATE:out; dump; gone; bg socat -u TCP-LISTEN:7305 CREATE:out; restore", "taken", "ss -tulnp"),
    case("terminal at restore", "setsid script -qc 'sh -c \"sleep 733; true\"' /dev/null </dev/null >/dev/null 2>&1 & child '^sh -c sleep 733'; dump --shell-job; restore", "terminal", "--shell-job"),
    case("SCTP address gone", "ip address add 10.9.9.9 dev lo; bg socat SCTP4-LISTEN:7306,bind=10.9.9.9 PIPE; dump; ip address del 10.9.9.9/32 dev lo; restore", "10.9.9.9 is not on this host", "ip address add 10.9.9.9/32"),
];

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    for case in CASES {
        let guest = if case.stock {
            &mut lab.peer
        } else {
            &mut lab.source
        };
        attempt(guest, case, outcome, tell).with_context(|| case.what.to_string())?;
    }
    outcome.figure("cases", CASES.len());
    Ok(())
}

/// Lets it fail and has it explained.
fn attempt(guest: &mut Guest, case: &Case, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    let dir = format!("/var/tmp/{}", case.what.replace(' ', "-"));
    let script = format!("mkdir {dir}; cd {dir}\n{PREAMBLE}\n{}", case.script);
    let out = guest.run(&["sh", "-ec", &script])?;
    ensure!(out.code != 0, "nothing failed");
    let explained = guest.run(&["telecr", "explain", "--json", &dir])?;
    ensure!(
        explained.code == 0,
        "telecr explain ended with {}: {}{}",
        explained.code,
        explained.stdout,
        explained.stderr
    );
    let answer: Answer = serde_json::from_str(&explained.stdout)?;
    let first = answer.findings.first().context("no finding")?;
    tell.step(&format!("{}: {}", case.what, first.cause));
    let names = first.cause.contains(case.cause) && first.cure.contains(case.cure);
    outcome.require(names, || format!("{}: explained as {first:?}", case.what));
    outcome.require(answer.findings.len() == 1, || {
        format!("{}: several causes, {:?}", case.what, answer.findings)
    });
    Ok(())
}

/// What `telecr explain --json` prints, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Answer {
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    cause: String,
    cure: String,
}
