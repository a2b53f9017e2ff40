// SPDX-License-Identifier: GPL-2.0-only
//! What can go wrong with the packet lock.

use crate::netlink;

/// An error of the packet lock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel has no nftables.
    #[error("the kernel has no nftables for the packet lock; modprobe nf_tables")]
    NoNftables,
    /// The caller may not change packet filters.
    #[error("the packet lock needs CAP_NET_ADMIN; run as root")]
    NotPermitted,
    /// The kernel refused.
    #[error("packet lock: {0}")]
    Netlink(netlink::Error),
}

impl From<netlink::Error> for Error {
    fn from(e: netlink::Error) -> Self {
        match e.errno() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            Some(libc::EPROTONOSUPPORT) => Self::NoNftables,
            // nfnetlink answers so while the subsystem is not loaded.
            Some(libc::EINVAL | libc::EOPNOTSUPP)
                if !std::path::Path::new("/sys/module/nf_tables").exists() =>
            {
                Self::NoNftables
            }
            _ => Self::Netlink(e),
        }
    }
}

/// Result of the packet lock.
pub type Result<T> = std::result::Result<T, Error>;
