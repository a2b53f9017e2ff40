// SPDX-License-Identifier: GPL-2.0-only
//! The packet lock: packets to some local addresses are dropped until what they
//! are for is there.
//!
//! Without it an SCTP packet that arrives in between is out of the blue, and the
//! kernel answers it with an ABORT that ends the association at the peer. A GTP
//! packet, or one of a subscriber behind the address, would draw an ICMP error,
//! one of a TCP connection a reset.
//!
//! There are two degrees. To a locked *address* passes what a socket of this host
//! waits for, other than SCTP and GTP. A *network namespace* that is locked as a
//! whole gets nothing but ICMPv6: for a container's, where nobody is yet.
//!
//! A port of a locked address can be opened: where several programs share their
//! addresses, each comes in its own time. What looks first and changes then does so
//! only if nobody has changed anything meanwhile.
//!
//! The lock is the nftables table `inet telecr`: sets of what is locked and a
//! chain before connection tracking; and where this comes too late, the table
//! `netdev telecr` ([`doorstep`]). Each is made and changed in one transaction,
//! however many addresses there are; all that is locked expires by itself, should
//! whoever has placed it die; and `nft delete table inet telecr` removes it.

pub mod doorstep;
mod encode;
mod error;
mod expr;
#[cfg(test)]
mod fragments;
mod rules;
mod ruleset;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::netlink::local_addresses;

pub(crate) use expr::GTP_PORTS;
#[cfg(test)]
pub(crate) use ruleset::tests::in_namespace;

pub use error::{Error, Result};

/// The table's name.
pub const TABLE: &str = "telecr";

/// After this long peers have given up, and a lock is of no use.
pub const LIMIT: Duration = Duration::from_secs(600);

/// Where a program is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// `IPPROTO_SCTP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Its number, not 0.
    pub number: u16,
}

impl Port {
    /// One of SCTP.
    #[must_use]
    pub fn sctp(number: u16) -> Self {
        let protocol = 132;
        Self { protocol, number }
    }

    /// One of UDP.
    #[must_use]
    pub fn udp(number: u16) -> Self {
        let protocol = 17;
        Self { protocol, number }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            132 => write!(f, "sctp/{}", self.number),
            17 => write!(f, "udp/{}", self.number),
            other => write!(f, "{other}/{}", self.number),
        }
    }
}

/// Where somebody is reached, or will be.
pub type Place = (IpAddr, Port);

/// What is locked in a network namespace, and for how long still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The namespace as a whole.
    pub everything: Option<Duration>,
    /// Single addresses.
    pub addresses: BTreeMap<IpAddr, Duration>,
    /// Places whose addresses may not be here yet.
    pub doorstep: BTreeMap<Place, Duration>,
}

impl Status {
    /// Is nothing locked?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.everything.is_none() && self.addresses.is_empty() && self.doorstep.is_empty()
    }
}

/// Drops packets to these addresses for so long, besides those locked
/// already. For an address that is locked the time begins anew.
///
/// # Errors
/// No nftables in this kernel, or no `CAP_NET_ADMIN`.
pub fn lock(addrs: &[IpAddr], expiry: Duration) -> Result<()> {
    ruleset::lock(addrs, expiry)
}

/// For all that is locked the time begins anew; what is open stays open.
///
/// # Errors
/// As [`lock`].
pub fn renew(expiry: Duration) -> Result<()> {
    ruleset::renew(expiry)
}

/// Lets packets to these addresses through again; with the last one the whole
/// lock goes. An address that is not locked is none of its business.
///
/// # Errors
/// As [`lock`].
pub fn unlock(addrs: &[IpAddr]) -> Result<()> {
    ruleset::unlock(addrs)
}

/// Where sockets bound to these addresses are reached: at every address of this
/// network namespace, too, if one of them is unspecified (0.0.0.0 or ::).
///
/// # Errors
/// The addresses cannot be listed.
pub fn reached(mut bound: Vec<IpAddr>) -> Result<Vec<IpAddr>> {
    if bound.iter().any(IpAddr::is_unspecified) {
        bound.extend(local_addresses()?);
    }
    Ok(bound)
}

/// Drops all that arrives in this network namespace for so long; nothing of it is
/// [`open`] any more.
///
/// # Errors
/// As [`lock`].
pub fn lock_everything(expiry: Duration) -> Result<()> {
    ruleset::lock_everything(expiry)
}

/// Lets packets to these places through until anything here is locked anew;
/// nothing when no address is locked. The addresses stay locked.
///
/// # Errors
/// As [`lock`].
pub fn open(places: &[Place]) -> Result<()> {
    ruleset::open(places)
}

/// Instead of a network namespace locks these addresses in it, but for what is open
/// and these `places`, and says that it has; where it is not locked as a whole,
/// this is [`open`].
///
/// # Errors
/// As [`lock`].
pub fn narrow(addrs: &[IpAddr], places: &[Place], expiry: Duration) -> Result<bool> {
    ruleset::narrow(addrs, places, expiry)
}

/// Undoes [`lock_everything`]; locked addresses stay locked.
///
/// # Errors
/// As [`lock`].
pub fn unlock_everything() -> Result<()> {
    ruleset::unlock_everything()
}

/// Removes the whole lock, if there is one, at the doorstep too.
///
/// # Errors
/// As [`lock`].
pub fn unlock_all() -> Result<()> {
    ruleset::unlock_all()?;
    doorstep::unlock(|_| true)
}

/// What is locked; nothing when there is no lock.
///
/// # Errors
/// As [`lock`].
pub fn status() -> Result<Status> {
    let mut found = ruleset::status()?;
    found.doorstep = doorstep::status()?;
    Ok(found)
}
