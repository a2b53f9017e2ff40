// SPDX-License-Identifier: GPL-2.0-only
//! SCTP programs that the rig migrates and watches.
//!
//! `mme-server` and `enb-peer` are the two ends of S1AP-like conversations: many associations, several streams each,
//! numbered messages both ways. Both keep an exact account, so that "lost" is a fact and not a guess.

pub mod assoc;
pub mod engine;
mod hub;
pub mod ledger;
pub mod message;
pub mod report;
pub mod sctp;
mod sockaddr;
pub mod sys;
pub mod zoo;
