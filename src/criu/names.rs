// SPDX-License-Identifier: GPL-2.0-only
//! Names others see: image files, the inventory, the guard.

/// The plugin's name, in CRIU's log and in its inventory image.
pub const PLUGIN: &str = "telecr";

/// The guard's name in process lists (at most 15 bytes).
pub(crate) const GUARD: &str = "telecr-guard";

/// The guard's name while it only holds the sockets of tasks that are gone.
pub(crate) const DEPARTED: &str = "telecr-departed";

/// The process that sees to silent peers after a restore.
pub(crate) const REMINDER: &str = "telecr-reminder";

/// The image file of the socket CRIU calls `id`.
pub fn image(id: i32) -> String {
    format!("{PREFIX}{id}{SUFFIX}")
}

const PREFIX: &str = "telecr-sctp-";
const SUFFIX: &str = ".img";

/// The id in the name of an image file of ours.
pub(crate) fn image_id(name: &str) -> Option<i32> {
    name.strip_prefix(PREFIX)?
        .strip_suffix(SUFFIX)?
        .parse()
        .ok()
}

/// The image file of the GTP links of the dump's n-th network namespace.
pub(crate) fn gtp_image(number: usize) -> String {
    format!("{GTP_PREFIX}{number}{SUFFIX}")
}

const GTP_PREFIX: &str = "telecr-gtp-";

/// Whether a file is an image of GTP links.
pub(crate) fn is_gtp_image(name: &str) -> bool {
    name.starts_with(GTP_PREFIX) && name.ends_with(SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(image_id(&image(42)), Some(42));
        assert_eq!(image_id("telecr-sctp-x.img"), None);
        assert_eq!(image_id("core-1.img"), None);
        assert!([GUARD, DEPARTED, REMINDER].iter().all(|n| n.len() <= 15));
    }
}
