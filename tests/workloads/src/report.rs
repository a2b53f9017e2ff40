// SPDX-License-Identifier: GPL-2.0-only
//! What the programs tell the rig, through a file.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::ledger::Account;

/// SCTP notifications, counted since the program started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// SCTP_ASSOC_CHANGE with SCTP_COMM_UP.
    pub comm_up: u64,
    /// SCTP_ASSOC_CHANGE with SCTP_COMM_LOST.
    pub comm_lost: u64,
    /// SCTP_ASSOC_CHANGE with SCTP_RESTART.
    pub restart: u64,
    /// SCTP_ASSOC_CHANGE with SCTP_SHUTDOWN_COMP or SCTP_CANT_STR_ASSOC.
    pub ended: u64,
    /// SCTP_PEER_ADDR_CHANGE, any state.
    pub addr_change: u64,
    /// SCTP_PEER_ADDR_CHANGE to SCTP_ADDR_CONFIRMED: a path has been heard of for the first time.
    #[serde(default)]
    pub addr_confirmed: u64,
    /// SCTP_SHUTDOWN_EVENT.
    pub shutdown: u64,
    /// SCTP_SEND_FAILED.
    pub send_failed: u64,
    /// SCTP_REMOTE_ERROR.
    pub remote_error: u64,
    /// Anything else.
    pub other: u64,
}

/// A snapshot of either program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which program.
    pub role: String,
    /// Grows by one with each snapshot.
    pub snapshot: u64,
    /// Associations that are open.
    pub established: usize,
    /// Associations that ended, or failed with an error.
    pub closed: usize,
    /// Errors met, in words.
    pub errors: Vec<String>,
    /// Messages sent so far.
    pub sent: u64,
    /// Messages received so far.
    pub received: u64,
    /// Messages not made because a socket would not take more.
    pub throttled: u64,
    /// Notifications.
    pub events: Events,
    /// What the kernel said of the associations' paths, in words.
    pub paths: Vec<String>,
    /// Longest silence of any association, in milliseconds (peer only).
    pub gap_ms: u64,
    /// Longest silence of each association (peer only).
    pub gaps_ms: Vec<u64>,
    /// Both sides have told each other what they sent and received.
    pub settled: bool,
    /// From the peer to the server, as the server counted it.
    pub uplink: Account,
    /// From the server to the peer, as the peer counted it.
    pub downlink: Account,
}

impl Status {
    /// Writes the snapshot so that a reader never sees half of it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let temp = path.with_extension("new");
        fs::write(&temp, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        fs::rename(&temp, path)
    }
}
