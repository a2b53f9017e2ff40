// SPDX-License-Identifier: GPL-2.0-only
//! What can go wrong with GTP links, cause first and cure last.

use std::io;

use super::pdp::Pdp;
use crate::netlink::settled::Unsettled;
use crate::{image, netlink};

/// An error of the GTP part.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver is not there.
    #[error("the kernel has no GTP driver; modprobe gtp (Debian's cloud kernel has none, the ordinary one does)")]
    NoModule,
    /// The table did not stand still.
    #[error("the tunnel table changed during each of {0} attempts to read it; stop the program that changes it, or dump while it stands still")]
    Unsteady(u32),
    /// The kernel refused a tunnel.
    #[error("link {link}: cannot add {pdp}: {why}{hint}", why = cause(source), hint = hint(pdp, source))]
    Tunnel {
        /// Name of the link.
        link: String,
        /// The tunnel.
        pdp: Box<Pdp>,
        /// The kernel's answer.
        source: netlink::Error,
    },
    /// The kernel refused something else.
    #[error("{what}: {source}")]
    Refused {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: netlink::Error,
    },
    /// Something of the target is in the way.
    #[error("{0}")]
    InTheWay(String),
    /// Something that cannot be carried.
    #[error("{0}")]
    Unsupported(String),
    /// The image holds something that makes no sense.
    #[error("image cannot be restored: {0}")]
    BadImage(&'static str),
    /// A system call failed.
    #[error("{what}: {source}")]
    Sys {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The netlink layer failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The image could not be read or written.
    #[error(transparent)]
    Image(#[from] image::Error),
}

/// Some answers of the driver mean more than their error number says.
fn hint(pdp: &Pdp, e: &netlink::Error) -> &'static str {
    match e.errno() {
        Some(libc::EEXIST) => "; its TEID or MS address is in the table already",
        Some(libc::ENODEV) => "; the link has no socket for this GTP version",
        Some(libc::EINVAL | libc::EAFNOSUPPORT) if pdp.is_v6() => {
            "; IPv6 tunnels need Linux 6.10 or later"
        }
        _ => "",
    }
}

fn cause(e: &netlink::Error) -> String {
    e.to_string()
}

impl Unsettled for Error {
    fn is_interrupted(&self) -> bool {
        matches!(self, Self::Netlink(e) if e.is_interrupted())
    }
}

impl Error {
    /// Says what was being done.
    pub(crate) fn doing<S: Into<String>>(
        what: impl FnOnce() -> S,
    ) -> impl FnOnce(netlink::Error) -> Self {
        move |source| Self::Refused {
            what: what().into(),
            source,
        }
    }

    /// A failed system call.
    pub(crate) fn sys<S: Into<String>>(what: impl FnOnce() -> S) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Sys {
            what: what().into(),
            source,
        }
    }

    /// The error number behind it, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Tunnel { source, .. } | Self::Refused { source, .. } | Self::Netlink(source) => {
                source.errno()
            }
            Self::Sys { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Result of the GTP part.
pub type Result<T> = std::result::Result<T, Error>;
