// SPDX-License-Identifier: GPL-2.0-only
//! GTP links (`drivers/net/gtp.c`), their tunnels and what makes packets reach
//! them: their way into an image and back.
//!
//! Everything works in the network namespace of the calling thread, and needs
//! CAP_NET_ADMIN in the initial user namespace, as the driver does.
//!
//! | module | idea |
//! |---|---|
//! | [`pdp`] | one PDP context, and how netlink says it |
//! | `columns` | a thousand of them in a record of the image |
//! | [`table`] | the table of a kernel: read consistently, written in batches |
//! | [`link`] | links of kind "gtp": list, create, delete |
//! | [`owner`] | which socket belongs to which link |
//! | [`network`] | addresses, routes and policy rules of a link |
//! | [`nat`] | rules that translate the subscribers' addresses |
//! | [`flow`] | connections of subscribers the kernel tracks |
//! | [`sysctl`] | settings of a link, and forwarding |
//! | [`dump`] | all of it into an image |
//! | [`restore`] | an image into the kernel, or nothing at all |
//! | [`diff`] | what differs between two images, or an image and the kernel |

pub(crate) mod columns;
pub mod diff;
pub mod dump;
mod error;
pub mod flow;
pub mod link;
pub mod nat;
pub mod network;
pub mod owner;
pub mod pdp;
pub mod restore;
pub mod sysctl;
pub mod table;

pub use error::{Error, Result};

/// The driver's generic netlink family.
const FAMILY: &str = "gtp";

/// Commands of the family (`enum gtp_genl_cmds`).
mod command {
    pub(super) const NEWPDP: u8 = 0;
    pub(super) const DELPDP: u8 = 1;
    pub(super) const GETPDP: u8 = 2;
    pub(super) const ECHOREQ: u8 = 3;
}

/// Attributes of the family (`enum gtp_attrs`).
mod attribute {
    pub(super) const LINK: u16 = 1;
    pub(super) const VERSION: u16 = 2;
    pub(super) const TID: u16 = 3;
    pub(super) const PEER_ADDRESS: u16 = 4;
    pub(super) const MS_ADDRESS: u16 = 5;
    pub(super) const FLOW: u16 = 6;
    pub(super) const I_TEI: u16 = 8;
    pub(super) const O_TEI: u16 = 9;
    pub(super) const PEER_ADDR6: u16 = 11;
    pub(super) const MS_ADDR6: u16 = 12;
    pub(super) const FAMILY: u16 = 13;
}

/// Connects to the driver.
///
/// # Errors
/// [`Error::NoModule`] when it is not loaded.
pub fn connect() -> Result<crate::netlink::Genl> {
    use crate::netlink::{Error as Netlink, Genl};
    Genl::connect(FAMILY).map_err(|e| match e {
        Netlink::NoFamily(_) => Error::NoModule,
        e => e.into(),
    })
}
