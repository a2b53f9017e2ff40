// SPDX-License-Identifier: GPL-2.0-only
//! One netlink layer for every family telecr speaks: generic netlink,
//! `sock_diag`, rtnetlink and nfnetlink.
//!
//! Constants come from `neli`, the socket from `netlink-sys`. The codec is our
//! own: neli's lets `nla_len` wrap past 64 KiB, and it allocates for each of
//! the million attributes of a long queue.

mod addresses;
pub(crate) mod attr;
mod batch;
mod error;
mod genl;
pub(crate) mod message;
pub(crate) mod nft;
pub(crate) mod settled;
pub(crate) mod socket;

pub use addresses::{ip, local_addresses};
pub use attr::{Attrs, Writer};
pub use batch::Batch;
pub use error::{Error, Refusal, Result};
pub use genl::Genl;
pub use message::Message;
pub use socket::{Protocol, Socket};
