// SPDX-License-Identifier: GPL-2.0-only
//! After an outage long enough for the peers' timers to back off, the conversation goes on at once in both directions.

use std::{
    fs, thread,
    time::{Duration, SystemTime},
};

use anyhow::{ensure, Context, Result};

use super::{mme, Scenario};
use crate::{
    artefacts::Needs,
    capture::wake::{self, Wake},
    lab::{Lab, Plan, IMAGES},
    migrate,
    narrate::Narrator,
    outcome::Outcome,
    switch::Wire,
};

/// Long enough for intervals of 1, 2, 4 and 8 s, and short of the next, which ends at 31 s.
const OUTAGE: Duration = Duration::from_secs(20);

/// No timer is shorter (RFC 9260, 16).
const RTO_MIN: Duration = Duration::from_secs(1);

/// IPv4 and IPv6.
const PATHS: usize = 2;

const PLAN: Plan = Plan {
    needs: Needs::Everything,
    dest: false,
    wire: Wire {
        delay: Duration::from_millis(2),
        loss: 0,
    },
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sctp-wakeup",
    about:
        "after 20 s of silence the peers, whose timers have backed off, go on within a round trip",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: |lab, outcome, tell| run(lab, &mme::S1, 1, outcome, tell),
};

pub(super) const REMINDED: Scenario = Scenario {
    name: "sctp-wakeup-reminded",
    about: "the same where half of the peers do not hear what wakes them, and are told again",
    in_all: true,
    keep: false,
    plan: PLAN,
    run: reminded,
};

pub(super) const AGAIN: Scenario = Scenario {
    name: "sctp-wakeup-again",
    about: "the same twice: what has woken the peers once they remember, and wake all the same",
    in_all: false,
    keep: false,
    plan: PLAN,
    run: |lab, outcome, tell| run(lab, &mme::S1, 2, outcome, tell),
};

fn reminded(lab: &mut Lab, outcome: &mut Outcome, tell: &Narrator) -> Result<()> {
    // The first message to each IPv4 peer asks for packets of 1496 bytes, the second for four less.
    lab.peer.sh("nft -f - <<E
table ip deaf {
    counter first {}
    counter second {}
    chain in {
        type filter hook input priority 0
        icmp type destination-unreachable icmp mtu 1496 counter name first drop
        icmp type destination-unreachable icmp mtu 1492 counter name second
    }
}
E")?;
    // So few messages that the peers' buffers have room to the end of the outage: each fills the congestion window after
    // a timer, and nothing but the message, or the timer, has them send again.
    let service = mme::Service { rate: 5, ..mme::S1 };
    run(lab, &service, 1, outcome, tell)?;
    let deaf = counted(lab, "first")?;
    let reminded = counted(lab, "second")?;
    outcome.figure("deaf", deaf);
    outcome.figure("reminded", reminded);
    outcome.require(0 < reminded && reminded <= deaf, || {
        format!("of {deaf} deaf peers {reminded} were told again")
    });
    Ok(())
}

/// What a counter of the peer's has seen.
fn counted(lab: &mut Lab, name: &str) -> Result<u64> {
    let text = lab.peer.sh(&format!("nft list counter ip deaf {name}"))?;
    let mut words = text.split_whitespace().skip_while(|w| *w != "packets");
    let count = words
        .nth(1)
        .with_context(|| format!("no count in {text}"))?;
    Ok(count.parse()?)
}

fn run(
    lab: &mut Lab,
    service: &mme::Service,
    outages: usize,
    outcome: &mut Outcome,
    tell: &Narrator,
) -> Result<()> {
    let talk = mme::start_service(lab, service, mme::Sockets::Each)?;
    thread::sleep(Duration::from_secs(2));
    let before = mme::snapshot(&mut lab.peer, talk.peer)?;
    let began = SystemTime::now();
    for n in 0..outages {
        if n > 0 {
            thread::sleep(Duration::from_secs(5));
        }
        let woken = outage(lab, &talk, tell)?;
        figures(&woken, outcome)?;
        // One that hears of a shorter path by another association's message first does not send again on its own. That of
        // the first of each path comes after.
        let late = woken.iter().filter(|w| !w.is_nudged_first).count();
        outcome.require(late <= PATHS, || {
            format!("{late} associations spoke before the message that wakes their peers")
        });
        // From the second on the timers are so long that few peers have tried twice.
        if n == 0 {
            before_timers(&woken, outcome)?;
        } else {
            at_once(&woken, outcome);
        }
    }
    let after = mme::settle(lab, &talk)?;
    mme::judge(&before, &after, outcome);
    lab.wire(mme::PORT, began, SystemTime::now())?
        .judge(outcome);
    Ok(())
}

fn outage(lab: &mut Lab, talk: &mme::Talk, tell: &Narrator) -> Result<Vec<Wake>> {
    lab.source.sh(&format!("rm -rf {IMAGES}; mkdir {IMAGES}"))?;
    lab.source.sh(&migrate::lock(&mme::addresses()))?;
    let began = SystemTime::now();
    let out = migrate::dump(&mut lab.source, talk.server, &[])?;
    migrate::must("source", "criu dump", &out)?;
    tell.step("source: the server is gone, and its peers retransmit in vain");
    thread::sleep(OUTAGE.saturating_sub(began.elapsed().unwrap_or_default()));
    let out = migrate::restore(&mut lab.source)?;
    migrate::must("source", "criu restore", &out)?;
    tell.step("source: the server is back");
    thread::sleep(Duration::from_secs(2));

    // Reads the capture only after the switch has written it.
    lab.wire(mme::PORT, began, SystemTime::now())?;
    let woken = wake::wakes(&fs::read(lab.capture())?, mme::PORT, began);
    ensure!(
        woken.len() == mme::ASSOCIATIONS,
        "the capture shows {} associations fall silent and wake",
        woken.len()
    );
    Ok(woken)
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn figures(woken: &[Wake], outcome: &mut Outcome) -> Result<()> {
    let most = |of: fn(&Wake) -> Duration| woken.iter().map(of).max().context("no association");
    let least = |of: fn(&Wake) -> Duration| woken.iter().map(of).min().context("no association");
    outcome.figure("outage_ms", ms(least(|w| w.outage)?));
    outcome.worst("round_trip_ms", ms(most(|w| w.round_trip)?));
    outcome.worst("first_down_ms", ms(most(|w| w.down)?));
    outcome.worst("first_up_ms", ms(most(|w| w.up)?));
    Ok(())
}

/// Nobody waits as long as the shortest of timers.
fn at_once(woken: &[Wake], outcome: &mut Outcome) {
    let late = woken.iter().filter(|w| w.up >= RTO_MIN).count();
    outcome.require(late == 0, || {
        format!("{late} peers waited for a timer before they sent again")
    });
}

/// The timers of most peers would have fired much later.
fn before_timers(woken: &[Wake], outcome: &mut Outcome) -> Result<()> {
    // Round-trip times differ, so some timers may be about to fire by chance: those prove nothing.
    let proofs: Vec<(Duration, Duration)> = woken
        .iter()
        .filter_map(|w| Some((w.up, w.timer.filter(|t| *t >= RTO_MIN)?)))
        .collect();
    ensure!(
        2 * proofs.len() >= woken.len(),
        "the timers of {} peers fired at the end of the outage",
        woken.len() - proofs.len()
    );
    let timer = proofs.iter().map(|p| p.1).min().unwrap_or_default();
    outcome.figure("timer_left_ms", ms(timer));
    let late = proofs.iter().filter(|(up, timer)| *up * 4 > *timer).count();
    outcome.require(late == 0, || {
        format!("{late} peers waited for their timer before they sent again")
    });
    Ok(())
}
