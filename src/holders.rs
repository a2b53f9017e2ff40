// SPDX-License-Identifier: GPL-2.0-only
//! Which process holds which socket, and which network namespaces there are.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A descriptor a socket is open as.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    /// The process.
    pub pid: i32,
    /// Its name.
    pub command: String,
    /// The descriptor's number.
    pub fd: i32,
}

/// Process ids in `/proc`; processes come and go meanwhile.
fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// The sockets of one process or of all, by inode. What may not be looked at
/// is left out.
pub fn scan(only: Option<i32>) -> HashMap<u32, Vec<Holder>> {
    let mut held: HashMap<u32, Vec<Holder>> = HashMap::new();
    let all: Vec<i32> = only.map_or_else(|| pids().collect(), |p| vec![p]);
    for pid in all {
        let dir = format!("/proc/{pid}");
        let Ok(fds) = fs::read_dir(format!("{dir}/fd")) else {
            continue;
        };
        let command = fs::read_to_string(format!("{dir}/comm")).unwrap_or_default();
        for entry in fds.flatten() {
            let number = entry.file_name().to_str().and_then(|n| n.parse().ok());
            if let (Some(fd), Some(inode)) = (number, socket_inode(&entry.path())) {
                let command = command.trim_end().to_owned();
                held.entry(inode)
                    .or_default()
                    .push(Holder { pid, command, fd });
            }
        }
    }
    held
}

fn socket_inode(link: &Path) -> Option<u32> {
    let target = fs::read_link(link).ok()?;
    target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// One handle on each network namespace some process lives in.
pub(crate) fn namespaces() -> Vec<File> {
    let mut found = BTreeMap::new();
    for pid in pids() {
        let Ok(file) = File::open(format!("/proc/{pid}/ns/net")) else {
            continue;
        };
        let Ok(meta) = file.metadata() else { continue };
        found.entry(meta.ino()).or_insert(file);
    }
    found.into_values().collect()
}
