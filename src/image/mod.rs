// SPDX-License-Identifier: GPL-2.0-only
//! The file one dumped socket, or the GTP links of a process, are kept in: framed protobuf records, described
//! in `proto/telecr.proto`.
//!
//! An image is untrusted: every length is checked before it is used, and
//! whatever this build does not know is refused by name.

use std::sync::LazyLock;

mod error;
pub(crate) mod json;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{Error, Result};
pub use reader::{open, verify, Reader, Verified};
pub use writer::Writer;

/// First bytes of a file. The line end tells of transfers that change text.
pub(crate) const MAGIC: &[u8; 8] = b"telecr\r\n";
/// The format this build writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Kind of an image that holds an SCTP socket.
pub const KIND_SCTP_SOCKET: &str = "sctp-socket";
/// Kind of an image that holds the GTP links of a network namespace.
pub const KIND_GTP: &str = "gtp";
/// No record is longer.
pub(crate) const MAX_RECORD: usize = 1 << 20;

/// The running kernel's release.
static KERNEL: LazyLock<String> = LazyLock::new(|| {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
});

/// The record that begins an image of an SCTP socket written here and now.
#[must_use]
pub fn sctp_header(companion_version: u32) -> crate::proto::Header {
    header(KIND_SCTP_SOCKET, companion_version)
}

/// The record that begins an image of GTP links written here and now.
#[must_use]
pub fn gtp_header() -> crate::proto::Header {
    header(KIND_GTP, 0)
}

fn header(kind: &str, companion_version: u32) -> crate::proto::Header {
    crate::proto::Header {
        format_version: FORMAT_VERSION,
        kind: kind.to_owned(),
        kernel: KERNEL.clone(),
        companion_version,
        tool: concat!("telecr ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}
