// SPDX-License-Identifier: GPL-2.0-only
//! The MME-like server and its peers, as every scenario uses them.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use telecr_workloads::report::Status;

use crate::{
    guest::Guest,
    lab::{Lab, PEER4, PEER6, SERVICE4, SERVICE4_NET, SERVICE6, SERVICE6_NET},
    migrate,
    outcome::Outcome,
};

/// S1AP's port.
pub const PORT: u16 = 36412;
/// eNBs.
pub const ASSOCIATIONS: usize = 16;

const STATUS: &str = "/var/tmp/status.json";

/// A running server with its peers.
#[derive(Debug)]
pub struct Talk {
    /// The server's process id.
    pub server: i32,
    /// The peers' process id.
    pub peer: i32,
}

/// How the server keeps its associations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sockets {
    /// A socket each, one address on either side.
    Each,
    /// All on one one-to-many socket, with an IPv4 and an IPv6 address on either side.
    One,
}

/// Gives the source the address that moves and starts both programs.
pub fn start(lab: &mut Lab) -> Result<Talk> {
    start_with(lab, Sockets::Each)
}

/// The same, with either kind of socket.
pub fn start_with(lab: &mut Lab, sockets: Sockets) -> Result<Talk> {
    start_service(lab, &S1, sockets)
}

/// The same, with peers that speak more or less often.
pub fn start_service(lab: &mut Lab, service: &Service, sockets: Sockets) -> Result<Talk> {
    lab.source.sh(&format!("rm -f {STATUS}"))?;
    migrate::own(&mut lab.source, &addresses())?;
    let (listen4, listen6) = (format!("{SERVICE4}:{PORT}"), format!("[{SERVICE6}]:{PORT}"));
    let mut argv = vec!["mme-server", "--listen", &listen4, "--listen", &listen6];
    if sockets == Sockets::One {
        argv.push("--one-to-many");
    }
    argv.extend(["--status", STATUS]);
    let server = lab.source.spawn(&argv, "/dev/null")?;
    lab.source.until("the server to listen", 10.0, |guest| {
        Ok(guest.get(STATUS).is_ok())
    })?;
    let peer = peers_of(lab, service, sockets)?;
    Ok(Talk { server, peer })
}

/// Starts the peers of a server that listens or is about to, and waits until all associations are up.
pub fn peers(lab: &mut Lab, sockets: Sockets) -> Result<i32> {
    peers_of(lab, &S1, sockets)
}

/// A service and where its peers are.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its addresses; the peers take turns.
    pub addresses: &'static [&'static str],
    /// Its port.
    pub port: u16,
    /// Messages a second to each association.
    pub rate: u64,
    /// The first port of the peers.
    pub from: u16,
    /// Where the peers' status goes.
    pub status: &'static str,
}

impl Service {
    /// With associations of their own for each round, so that the capture tells them apart.
    pub fn in_round(self, round: u16) -> Self {
        Self {
            from: self.from + 100 * round,
            ..self
        }
    }
}

/// The MME's.
pub const S1: Service = Service {
    addresses: &[SERVICE4, SERVICE6],
    port: PORT,
    rate: 20,
    from: 40000,
    status: STATUS,
};

/// The same for any service.
pub fn peers_of(lab: &mut Lab, service: &Service, sockets: Sockets) -> Result<i32> {
    let status = service.status;
    lab.peer.sh(&format!("rm -f {status}"))?;
    let mut argv: Vec<String> = ["enb-peer", "--status", status, "--associations"]
        .map(String::from)
        .to_vec();
    argv.push(ASSOCIATIONS.to_string());
    argv.extend(["--rate".into(), service.rate.to_string()]);
    for address in service.addresses {
        let (own, to) = if address.contains(':') {
            (format!("[{PEER6}]"), format!("[{address}]"))
        } else {
            (PEER4.to_owned(), (*address).to_owned())
        };
        let bind = format!("{own}:{}", service.from);
        let connect = format!("{to}:{}", service.port);
        argv.extend(["--bind".into(), bind, "--connect".into(), connect]);
    }
    if sockets == Sockets::One {
        argv.push("--multi-homed".into());
    }
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let peer = lab.peer.spawn(&argv, "/var/tmp/enb-peer.log")?;
    lab.peer.until("all associations to be up", 30.0, |guest| {
        if let Some(code) = guest.ended(peer)? {
            anyhow::bail!(
                "enb-peer ended with {code}: {}",
                guest.sh("cat /var/tmp/enb-peer.log")?
            );
        }
        Ok(guest.get(status).is_ok())
    })?;
    Ok(peer)
}

/// Associations and what they have lived through.
#[derive(Debug)]
pub struct Peers {
    service: Service,
    pid: i32,
    before: Status,
}

impl Peers {
    /// Starts them.
    pub fn start(lab: &mut Lab, service: Service) -> Result<Self> {
        let pid = peers_of(lab, &service, Sockets::Each)?;
        thread::sleep(Duration::from_secs(1));
        let before = snapshot_at(&mut lab.peer, pid, service.status)?;
        Ok(Self {
            service,
            pid,
            before,
        })
    }

    /// Judges what they have to say, and what went over the wire since `began`.
    pub fn finish(self, lab: &mut Lab, began: SystemTime, outcome: &mut Outcome) -> Result<()> {
        let after = settle_at(&mut lab.peer, self.pid, self.service.status)?;
        judge(&self.before, &after, outcome);
        lab.wire(self.service.port, began, SystemTime::now())?
            .judge(outcome);
        Ok(())
    }
}

/// The addresses that move, with their prefix lengths.
pub fn addresses() -> [&'static str; 2] {
    [SERVICE4_NET, SERVICE6_NET]
}

/// A fresh snapshot of either program.
pub fn snapshot(guest: &mut Guest, pid: i32) -> Result<Status> {
    snapshot_at(guest, pid, STATUS)
}

/// The same from another status file.
pub fn snapshot_at(guest: &mut Guest, pid: i32, path: &str) -> Result<Status> {
    let before = read(guest, path).map_or(0, |s| s.snapshot);
    if let Err(e) = guest.signal(pid, libc::SIGUSR1) {
        let end = guest.ended(pid)?;
        return Err(e.context(format!("the program is gone, its exit code is {end:?}")));
    }
    let mut status = Status::default();
    guest.until("a snapshot", 10.0, |g| {
        status = read(g, path)?;
        Ok(status.snapshot > before)
    })?;
    Ok(status)
}

/// Fails unless the server takes in more of what the peers say, and they hear more of it.
pub fn runs_on(lab: &mut Lab, talk: &Talk) -> Result<()> {
    let enough = 2 * ASSOCIATIONS as u64;
    for (guest, pid) in [(&mut lab.source, talk.server), (&mut lab.peer, talk.peer)] {
        let from = snapshot(guest, pid)?;
        guest.until("the conversation to go on", 30.0, |g| {
            let now = snapshot(g, pid)?;
            anyhow::ensure!(
                now.established == ASSOCIATIONS,
                "only {} associations are left",
                now.established
            );
            Ok(now.received >= from.received + enough && now.sent >= from.sent + enough)
        })?;
    }
    Ok(())
}

/// Lets both sides agree on the totals and returns the peer's account.
pub fn settle(lab: &mut Lab, talk: &Talk) -> Result<Status> {
    settle_at(&mut lab.peer, talk.peer, STATUS)
}

/// The same with another status file.
pub fn settle_at(peer: &mut Guest, pid: i32, path: &str) -> Result<Status> {
    peer.signal(pid, libc::SIGUSR2)?;
    let mut status = Status::default();
    let before = read(peer, path)?.snapshot;
    peer.until("both sides to agree on the totals", 30.0, |g| {
        status = read(g, path)?;
        Ok(status.snapshot > before)
    })?;
    Ok(status)
}

fn read(guest: &mut Guest, path: &str) -> Result<Status> {
    serde_json::from_slice(&guest.get(path)?).context("a status that is not one")
}

/// Judges the peer's account.
pub fn judge(before: &Status, after: &Status, outcome: &mut Outcome) {
    let (up, down) = (&after.uplink, &after.downlink);
    outcome.figure("associations", after.established);
    outcome.figure("messages", up.received + down.received);
    outcome.zero("lost", up.lost + down.lost);
    outcome.zero("duplicated", up.duplicated + down.duplicated);
    outcome.zero("reordered", up.reordered + down.reordered);
    outcome.zero("corrupted", up.corrupted + down.corrupted);
    outcome.worst("peer_gap_ms", after.gap_ms);
    outcome.require(after.settled, || {
        "the two sides did not agree on the totals".into()
    });
    outcome.require(after.established == ASSOCIATIONS, || {
        format!("{} associations are left", after.established)
    });
    outcome.require(up.received > 0 && down.received > 0, || {
        "nothing was said in one direction".into()
    });
    // A path confirmed late is no sign of a move.
    let mut expected = before.events.clone();
    expected.addr_confirmed = after.events.addr_confirmed;
    outcome.require(after.events == expected, || {
        format!(
            "the peer noticed: {:?} became {:?}; {}",
            before.events,
            after.events,
            after.paths.join("; ")
        )
    });
    outcome.require(after.errors.is_empty(), || {
        format!("the peer met errors: {}", after.errors.join("; "))
    });
}
