// SPDX-License-Identifier: GPL-2.0-only
//! What was carried, in numbers.

use std::net::SocketAddr;

/// What a dump or a restore carried.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Bound addresses with the port; empty when not bound.
    pub local: Vec<SocketAddr>,
    /// Whether the socket listens.
    pub listening: bool,
    /// Associations of the socket.
    pub associations: u32,
    /// Chunks waiting to be sent, sent before or not.
    pub outgoing: u64,
    /// Fragments, messages and notifications the application has not read.
    pub incoming: u64,
    /// Bytes of user data and chunk headers in both.
    pub bytes: u64,
}

impl Summary {
    pub(super) fn count(&mut self, chunk: &crate::proto::Chunk) {
        use super::uapi::{SCTP_REPAIR_QUEUE_SENT, SCTP_REPAIR_QUEUE_UNSENT};
        match chunk.queue {
            Some(SCTP_REPAIR_QUEUE_SENT | SCTP_REPAIR_QUEUE_UNSENT) => self.outgoing += 1,
            _ => self.incoming += 1,
        }
        let len = chunk.data.as_ref().map_or(0, Vec::len);
        self.bytes += u64::try_from(len).unwrap_or_default();
    }
}
