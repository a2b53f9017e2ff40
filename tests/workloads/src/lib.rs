// SPDX-License-Identifier: GPL-2.0-only
//! Programs that the rig migrates and watches.
//!
//! `mme-server` and `enb-peer` are the two ends of S1AP-like conversations: many associations, several streams each,
//! numbered messages both ways. Both keep an exact account, so that "lost" is a fact and not a guess.
//!
//! `flood` sends again and again what `enb-peer` sends. `spgw` and `ran-peer` are the two ends of GTP tunnels.

pub mod assoc;
pub mod engine;
pub mod frames;
pub mod gtpnl;
pub mod gtpu;
mod hub;
pub mod ledger;
pub mod message;
pub mod ran;
pub mod report;
pub mod sctp;
mod sockaddr;
pub mod sys;
pub mod zoo;
