// SPDX-License-Identifier: GPL-2.0-only
//! SCTP sockets: repair mode, and their way into an image and back.
//!
//! | module | idea |
//! |---|---|
//! | [`repair`] | the kernel companion, verb by verb |
//! | `table` | which field of the image is which netlink attribute |
//! | [`options`] | every socket option, how it is read and put back |
//! | [`dump`] | a frozen socket into an image |
//! | [`restore`] | an image into a frozen socket |
//! | [`wake`] | frozen sockets speak again |
//! | [`nudge`] | peers that wait for a timer send again at once |
//! | `route` | what this host knows of the way to a peer |
//! | [`list`] | the SCTP sockets of this host |
//! | [`addr`] | `struct sockaddr` as bytes |
//! | `scope` | interfaces of link-local addresses, by name |

pub mod addr;
pub mod dump;
mod error;
pub mod list;
pub mod nudge;
pub mod options;
pub mod repair;
pub mod restore;
mod route;
mod scope;
mod sockopt;
mod summary;
pub(crate) mod table;
mod uapi;
pub mod wake;

pub use error::{Error, Result};
pub use summary::Summary;
