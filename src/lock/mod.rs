// SPDX-License-Identifier: GPL-2.0-only
//! The packet lock: packets to some local addresses are dropped until what they
//! are for is there.
//!
//! Without it an SCTP packet that arrives in between is out of the blue, and the
//! kernel answers it with an ABORT that ends the association at the peer. A GTP
//! packet, or one of a subscriber behind the address, would draw an ICMP error,
//! one of a TCP connection a reset. What a socket of this host waits for passes,
//! other than SCTP and GTP.
//!
//! The lock is the nftables table `inet telecr`: two sets of addresses and a
//! chain before connection tracking. It is made and changed in one transaction
//! each, however many addresses there are, and `nft delete table inet telecr`
//! removes it.

mod encode;
mod error;
mod rules;
mod ruleset;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use error::{Error, Result};

/// The table's name.
pub const TABLE: &str = "telecr";

/// Drops packets to these addresses, besides those locked already.
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
