// SPDX-License-Identifier: GPL-2.0-only
//! What can go wrong with an SCTP socket.

use std::io;
use std::net::IpAddr;

use crate::{image, netlink};

/// An error of the SCTP part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The loaded `sctp` module knows no repair mode.
    #[error("the kernel has no SCTP repair mode; install telecr's module (package telecr-sctp-dkms), then modprobe sctp, or reboot where the stock sctp is loaded already: it cannot be unloaded")]
    NoCompanion,
    /// The loaded module is older than this build.
    #[error("the loaded sctp module has repair mode version {have}, this telecr needs {need}; install the module that came with it and reboot")]
    TooOld {
        /// Version of the loaded module.
        have: u32,
        /// Oldest version that will do.
        need: u32,
    },
    /// The kernel companion refused.
    #[error("cannot {doing}: {refusal}")]
    Refused {
        /// What was asked of it.
        doing: &'static str,
        /// Its reason.
        refusal: netlink::Refusal,
    },
    /// A BPF filter looks at what arrives, and cannot be read back as it was set.
    #[error("a BPF filter is attached to the socket bound to port {port}, which telecr does not carry; have the program detach it (SO_DETACH_FILTER) before the dump")]
    Filter {
        /// The port it is bound to, 0 if none.
        port: u32,
    },
    /// An address of the socket is not on this host.
    #[error("address {addr} is not on this host; ip address add {addr}/{prefix} dev DEV", prefix = if addr.is_ipv4() { 32 } else { 128 })]
    AddressMissing {
        /// The address.
        addr: IpAddr,
    },
    /// An interface of a link-local address is not on this host.
    #[error("interface {name}, which a link-local address belongs to, is not on this host; ip link set dev DEV name {name}")]
    InterfaceMissing {
        /// Its name.
        name: String,
    },
    /// A system call on the socket failed.
    #[error("{what}: {source}")]
    Sys {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The image holds something that makes no sense.
    #[error("image cannot be restored: {0}")]
    BadImage(&'static str),
    /// The kernel companion sent something this build does not know.
    #[error("the sctp module reports attribute {attr} of {of}, which this telecr does not know; use the telecr that came with the module")]
    UnknownAttribute {
        /// Which message of the image.
        of: &'static str,
        /// The attribute's number.
        attr: u16,
    },
    /// A value does not fit the attribute that carries it.
    #[error("image cannot be restored: {field} of {of} is out of range")]
    OutOfRange {
        /// Which message of the image.
        of: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// The netlink layer failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The image could not be read or written.
    #[error(transparent)]
    Image(#[from] image::Error),
}

impl Error {
    /// Adds what was being done to a refusal.
    pub(super) fn doing(doing: &'static str) -> impl FnOnce(netlink::Error) -> Self {
        move |e| match e {
            netlink::Error::Refused(refusal) => Self::Refused { doing, refusal },
            other => Self::Netlink(other),
        }
    }

    /// A failed system call.
    pub(super) fn sys(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Sys { what, source }
    }

    /// The error number behind it, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.errno),
            Self::Netlink(e) => e.errno(),
            Self::Sys { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Result of the SCTP part.
pub type Result<T> = std::result::Result<T, Error>;
