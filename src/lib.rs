// SPDX-License-Identifier: GPL-2.0-only
//! telecr carries what CRIU cannot: SCTP sockets with their associations, and
//! GTP links with their tunnels.
//!
//! | module | what it does |
//! |---|---|
//! | [`sctp`] | dump and restore of one socket, through the kernel's repair mode |
//! | [`gtp`] | dump and restore of GTP links, tunnels and what routes to them |
//! | [`image`] | the files between dump and restore |
//! | [`lock`] | keeps packets out until a restore is complete |
//! | [`criu`] | what the CRIU plugin does: hand-over of sockets, the guard |
//! | [`netlink`] | the one way all of them talk to the kernel |

#![cfg_attr(
    not(any(test, fuzzing)),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod criu;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod gtp;
pub mod holders;
pub mod image;
pub mod lock;
pub mod netlink;
pub mod sctp;

/// The image types, generated from `proto/telecr.proto`.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; documented in the .proto file"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/telecr.rs"));
}
