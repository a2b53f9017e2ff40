// SPDX-License-Identifier: GPL-2.0-only
//! Without CRIU: one socket of Debian's `socat` into a file, and from there to another `socat`.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::Scenario;
use crate::{
    artefacts::Needs,
    guest::Guest,
    lab::{Lab, Plan, PEER4, SERVICE4, SERVICE4_NET},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

const PORT: u16 = 7200;
const IMAGE: &str = "/var/tmp/socket.img";
const FIRST: &str = "/var/tmp/first";
const SECOND: &str = "/var/tmp/second";
const WORDS: &str = "/var/tmp/words";

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-cli",
    about: "`telecr sctp dump` and `restore` hand a socket from one socat to another",
    in_all: true,
    keep: false,
    plan: Plan {
        needs: Needs::Everything,
        dest: false,
        wire: Wire {
            delay: Duration::from_millis(1),
            loss: 0,
        },
    },
    run,
};

fn run(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    migrate::own(&mut lab.source, &[SERVICE4_NET])?;
    // Bound to any address: its association has both of this host.
    let listen = format!("SCTP4-LISTEN:{PORT}");
    let own = lab.source.address();
    let both = [SERVICE4, &own];
    let argv = ["socat", "-u", &listen, &format!("CREATE:{FIRST}")];
    let server = lab.source.spawn(&argv, "/dev/null")?;
    lab.source.until("socat to listen", 10.0, |g| {
        Ok(g.run(&["ss", "-HSln"])?.stdout.contains(&PORT.to_string()))
    })?;
    lab.peer.sh(&format!("mkfifo {WORDS}"))?;
    let connect = format!("SCTP4-CONNECT:{SERVICE4}:{PORT},bind={PEER4}");
    let talk = format!("exec 3<>{WORDS}; exec socat -u FD:3 {connect}");
    lab.peer
        .spawn(&["sh", "-ec", &talk], "/var/tmp/socat.log")?;
    say(lab, "one")?;
    heard(&mut lab.source, FIRST, "one\n")?;
    tell.step("source: socat hears the peer");

    let began = SystemTime::now();
    let fd = connected_fd(&mut lab.source, server)?;
    let dump = format!("telecr sctp dump --pid {server} --fd {fd}");
    lab.source.sh(&format!("{dump} {IMAGE}.copy"))?;
    say(lab, "two")?;
    heard(&mut lab.source, FIRST, "one\ntwo\n")?;
    tell.step("source: dumped, and it goes on");

    lab.source.sh(&migrate::lock(&both))?;
    reads_well(&mut lab.source, outcome)?;
    lab.source.sh(&format!("{dump} --kill {IMAGE}"))?;
    say(lab, "three")?;
    let refused = lab
        .source
        .run(&["telecr", "sctp", "restore", IMAGE, "--", "no-such-program"])?;
    outcome.require(
        refused.code == 1 && refused.stderr.contains("no program no-such-program"),
        || format!("a command that is not there: {refused:?}"),
    );
    let become_server = format!(
        "exec telecr sctp restore {IMAGE} -- sh -c 'exec socat -u FD:$TELECR_FD CREATE:{SECOND}'"
    );
    lab.source
        .spawn(&["sh", "-ec", &become_server], "/var/tmp/restore.log")?;
    heard(&mut lab.source, SECOND, "three\n")?;
    say(lab, "four")?;
    heard(&mut lab.source, SECOND, "three\nfour\n")?;
    tell.step("source: killed, and another socat has its socket");

    let before = lab.source.sh(&format!("cat {FIRST}"))?;
    outcome.require(before == "one\ntwo\n", || {
        format!("the first socat heard {before:?}")
    });
    let locked = lab.source.sh("telecr status")?;
    outcome.require(locked.contains("nothing is locked"), || {
        format!("restore has left the lock: {locked}")
    });
    let wire = lab.wire(PORT, began, SystemTime::now())?;
    outcome.zero("init_packets", wire.init);
    outcome.zero("abort_packets", wire.abort);
    outcome.zero("shutdown_packets", wire.shutdown);
    outcome.zero("changed_tags", wire.changed_tags);
    Ok(())
}

/// The lock as the operator's own tool shows it.
fn reads_well(guest: &mut Guest, outcome: &mut Outcome) -> Result<()> {
    let list = |guest: &mut Guest| guest.sh("nft list table inet telecr");
    let listed = list(guest)?;
    guest.sh(&migrate::lock(&[SERVICE4]))?;
    let rules = |listed: &str| listed.matches("drop").count() + listed.matches("accept").count();
    let again = list(guest)?;
    outcome.require(rules(&again) == rules(&listed), || {
        format!("a second lock doubles rules: {again}")
    });
    guest
        .sh("nft list ruleset > /var/tmp/rules.nft; nft -c -f /var/tmp/rules.nft")
        .context("nft does not read back what it lists")?;
    for line in [
        "ip daddr @local4 meta l4proto sctp drop",
        "ip6 daddr @local6 meta l4proto sctp drop",
        "ip daddr @local4 udp dport 2152 drop",
        "ip6 daddr @local6 udp dport 3386 drop",
        "ip daddr @local4 meta l4proto tcp drop",
        "ip daddr @local4 ip daddr . meta l4proto . th dport @open4 accept",
        "ip6 daddr @local6 ip6 daddr . meta l4proto . th dport @open6 accept",
        "meta nfproto @everything drop",
        "tproxy to :2152",
    ] {
        outcome.require(listed.contains(line), || {
            format!("{line:?} is not in {listed}")
        });
    }
    Ok(())
}

fn say(lab: &mut Lab, word: &str) -> Result<()> {
    lab.peer.sh(&format!("echo {word} > {WORDS}")).map(drop)
}

fn heard(guest: &mut Guest, file: &str, words: &str) -> Result<()> {
    guest.until(&format!("socat to hear {words:?}"), 30.0, |g| {
        Ok(g.get(file).unwrap_or_default() == words.as_bytes())
    })
}

/// The descriptor of the server's association, as `telecr sctp list` tells it.
fn connected_fd(guest: &mut Guest, pid: i32) -> Result<i64> {
    let json = guest.sh(&format!("telecr sctp list --pid {pid} --json"))?;
    let sockets: Vec<serde_json::Value> = serde_json::from_str(&json)?;
    sockets
        .iter()
        .find(|s| s["state"] == "established")
        .and_then(|s| s["holders"][0]["fd"].as_i64())
        .with_context(|| format!("no association in {json}"))
}
