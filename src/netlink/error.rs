// SPDX-License-Identifier: GPL-2.0-only
//! What can go wrong on a netlink socket.

use std::fmt;
use std::io;

/// An error of the netlink layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("netlink {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error(transparent)]
    Refused(Refusal),
    /// The kernel has no generic netlink family of this name.
    #[error("the kernel has no netlink family {0}")]
    NoFamily(String),
    /// A message does not follow its own format.
    #[error("malformed netlink message: {0}")]
    Malformed(&'static str),
    /// A value does not fit a netlink attribute or message.
    #[error("{0} is too long for netlink")]
    TooLong(&'static str),
    /// A reply was longer than any this layer takes.
    #[error("netlink reply of {0} bytes was cut off")]
    Truncated(usize),
    /// What was dumped changed while it was dumped.
    #[error("netlink dump was disturbed by a change, try again")]
    Interrupted,
}

/// The kernel's answer to a request it refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Error number.
    pub errno: i32,
    /// The reason in words (extended ack).
    pub message: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = io::Error::from_raw_os_error(self.errno);
        match &self.message {
            Some(m) => write!(f, "{m}: {errno}"),
            None => errno.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl Error {
    /// The error number of a refusal or failed system call.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused(r) => Some(r.errno),
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Result of the netlink layer.
pub type Result<T> = std::result::Result<T, Error>;
