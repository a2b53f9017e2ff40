// SPDX-License-Identifier: GPL-2.0-only
//! An initrd: the agent, the modules that the root disk needs, and the payload. One cpio archive ("newc").

use std::{collections::BTreeSet, path::Path};

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    dirs: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// Adds a file and the folders above it.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let above = Path::new(path)
            .ancestors()
            .skip(1)
            .filter_map(Path::to_str)
            .filter(|p| !p.is_empty());
        let above: Vec<String> = above.map(String::from).collect();
        for dir in above.into_iter().rev() {
            if self.dirs.insert(dir.clone()) {
                self.entry(&dir, 0o040_755, &[]);
            }
        }
        self.entry(path, 0o100_000 | mode, content);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let (size, name_size) = (content.len(), name.len() + 1);
        let head = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.inode, 0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The files that hold `wanted` and what they need, in the order to load them. `dep` is a `modules.dep`.
pub fn module_order(dep: &str, wanted: &[&str]) -> Vec<String> {
    let line = |name: &str| {
        dep.lines()
            .filter_map(|l| l.split_once(':'))
            .find(|(path, _)| {
                let file = path.rsplit('/').next().unwrap_or(path);
                file.split('.').next() == Some(name)
            })
    };
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some((path, needs)) = line(name) else {
            continue;
        }; // built in
           // modules.dep lists the nearest first, so the last is loaded first.
        for file in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|o| o == file) {
                order.push(file.to_string());
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dep =
            "k/ext4.ko.xz: k/jbd2.ko.xz k/crc16.ko.xz\nk/jbd2.ko.xz:\nk/net.ko: k/jbd2.ko.xz\n";
        let order = module_order(dep, &["ext4", "net", "builtin"]);
        assert_eq!(
            order,
            ["k/crc16.ko.xz", "k/jbd2.ko.xz", "k/ext4.ko.xz", "k/net.ko"]
        );
    }

    #[test]
    fn entries_are_aligned_and_folders_come_once() {
        let mut a = Archive::default();
        a.file("x/y/one", 0o644, b"1");
        a.file("x/y/two", 0o755, b"22222");
        let bytes = a.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
    }
}
