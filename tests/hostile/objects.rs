// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel has made for SCTP.

use std::time::Duration;

/// Users of the module, and the objects it has, where the kernel counts them (`SCTP_DBG_OBJCNT`).
#[derive(Debug, PartialEq, Eq)]
pub struct Objects(String);

impl Objects {
    pub fn now() -> Self {
        let users = std::fs::read_to_string("/sys/module/sctp/refcnt").expect("the sctp module");
        let objects = std::fs::read_to_string("/proc/net/sctp/sctp_dbg_objcnt").unwrap_or_default();
        Self(format!("users: {users}{objects}"))
    }

    /// Waits until there are no more than these: what ended sockets leave to the kernel takes its own time.
    pub fn is_all(&self) {
        let mut now = Self::now();
        for _ in 0..300 {
            if now == *self {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
            now = Self::now();
        }
        panic!("left over in the kernel:\n{}\nbefore:\n{}", now.0, self.0);
    }
}
