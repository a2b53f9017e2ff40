// SPDX-License-Identifier: GPL-2.0-only
//! The packet lock: SCTP packets to some local addresses are dropped until the
//! associations behind them are there.
//!
//! Without it a packet that arrives in between is out of the blue, and the
//! kernel answers it with an ABORT that ends the association at the peer.
//!
//! The lock is the nftables table `inet telecr`: two sets of addresses and a
//! chain before connection tracking that drops SCTP to them. It is made and
//! changed in one transaction each, however many addresses there are, and
//! `nft delete table inet telecr` removes it.

mod encode;
mod error;
mod ruleset;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use error::{Error, Result};

/// The table's name.
pub const TABLE: &str = "telecr";

/// Drops SCTP packets to these addresses, besides those locked already.
///
/// # Errors
/// No nftables in this kernel, or no `CAP_NET_ADMIN`.
pub fn lock(addrs: &[IpAddr]) -> Result<()> {
    ruleset::lock(addrs)
}

/// Lets packets to these addresses through again; with the last one the whole
/// lock goes. An address that is not locked is none of its business.
///
/// # Errors
/// As [`lock`].
pub fn unlock(addrs: &[IpAddr]) -> Result<()> {
    ruleset::unlock(addrs)
}

/// Removes the whole lock, if there is one.
///
/// # Errors
/// As [`lock`].
pub fn unlock_all() -> Result<()> {
    ruleset::unlock_all()
}

/// The locked addresses, none when there is no lock.
///
/// # Errors
/// As [`lock`].
pub fn status() -> Result<BTreeSet<IpAddr>> {
    ruleset::status()
}
