// SPDX-License-Identifier: GPL-2.0-only
//! Settings below `/proc/sys/net`: those of a link, and forwarding.

use std::fs;
use std::path::PathBuf;

use super::{Error, Result};
use crate::proto::{GtpLink, Sysctl};

/// Settings of the namespace that packets from tunnels need. They are only
/// ever turned on: others may need them too. Turning them on sets those of all
/// links, so they come first.
const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
/// Directories with the settings of each link.
const OF_LINK: [&str; 2] = ["net/ipv4/conf", "net/ipv6/conf"];
/// Secrets, and what a link finds out by itself.
const NOT_CARRIED: [&str; 2] = ["stable_secret", "mc_forwarding"];
/// No setting of a link is longer.
const LONGEST: usize = 256;

/// `/proc/sys/net` is that of the network namespace of the calling thread.
fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name))
        .ok()
        .map(|v| v.trim().to_owned())
        .filter(|v| v.len() <= LONGEST)
}

/// Forwarding, where it is on.
#[must_use]
pub fn forwarding() -> Vec<Sysctl> {
    let on = |name: &&str| get(name).is_some_and(|v| v != "0");
    let entry = |name: &str| Sysctl {
        name: name.to_owned(),
        value: "1".to_owned(),
    };
    FORWARDING
        .iter()
        .filter(|n| on(n))
        .map(|n| entry(n))
        .collect()
}

/// The settings of a link.
///
/// # Errors
/// `/proc/sys` cannot be read.
pub fn of_link(link: &GtpLink) -> Result<Vec<Sysctl>> {
    let mut found = Vec::new();
    for dir in OF_LINK {
        let dir = format!("{dir}/{}", link.name);
        let Ok(entries) = fs::read_dir(path(&dir)) else {
            continue; // no IPv6 here
        };
        for entry in entries {
            let entry = entry.map_err(Error::sys(|| format!("cannot list /proc/sys/{dir}")))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if NOT_CARRIED.contains(&name.as_str()) {
                continue;
            }
            let name = format!("{dir}/{name}");
            if let Some(value) = get(&name) {
                found.push(Sysctl { name, value });
            }
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Sets what differs; answers the value from before, if it was another.
///
/// # Errors
/// The name is none that [`forwarding`] or [`of_link`] would report for
/// `link`, or the kernel refused the value.
pub fn set(link: &GtpLink, setting: &Sysctl) -> Result<Option<Sysctl>> {
    if !is_ours(link, &setting.name) {
        return Err(Error::BadImage("a setting is none of its link's"));
    }
    let before = match get(&setting.name) {
        Some(before) if before != setting.value => before,
        Some(_) => return Ok(None),
        None => {
            log::debug!("this kernel has no {}", setting.name);
            return Ok(None);
        }
    };
    write(setting)?;
    Ok(Some(Sysctl {
        name: setting.name.clone(),
        value: before,
    }))
}

/// Puts back what [`set`] has answered.
///
/// # Errors
/// The kernel refused the value.
pub fn write(setting: &Sysctl) -> Result<()> {
    fs::write(path(&setting.name), &setting.value).map_err(Error::sys(|| {
        format!("cannot set {} to {:?}", setting.name, setting.value)
    }))
}

/// An image may only touch what is its own.
fn is_ours(link: &GtpLink, name: &str) -> bool {
    let of_link = |dir: &str| {
        let rest = name.strip_prefix(dir).and_then(|r| r.strip_prefix('/'));
        let rest = rest.and_then(|r| r.strip_prefix(link.name.as_str()));
        let rest = rest.and_then(|r| r.strip_prefix('/'));
        rest.is_some_and(|leaf| !leaf.is_empty() && leaf.bytes().all(is_plain))
    };
    let name_is_safe = !matches!(link.name.as_str(), "" | "." | "..") && !link.name.contains('/');
    FORWARDING.contains(&name) || name_is_safe && OF_LINK.iter().any(|d| of_link(d))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_reaches_only_its_own_settings() {
        let link = GtpLink {
            name: "gtp0".into(),
            ..GtpLink::default()
        };
        assert!(is_ours(&link, "net/ipv4/conf/gtp0/rp_filter"));
        assert!(is_ours(&link, "net/ipv4/ip_forward"));
        for other in [
            "net/ipv4/conf/eth0/rp_filter",
            "net/ipv4/conf/gtp0/../all/rp_filter",
            "net/ipv4/conf/gtp0/a/b",
            "net/ipv4/conf/gtp01/rp_filter",
            "kernel/core_pattern",
            "net/ipv4/conf/gtp0/",
        ] {
            assert!(!is_ours(&link, other), "{other}");
        }
        let nameless = GtpLink::default();
        assert!(!is_ours(&nameless, "net/ipv4/conf//rp_filter"));
    }

    #[test]
    fn settings_of_the_loopback_are_read() {
        let lo = GtpLink {
            name: "lo".into(),
            ..GtpLink::default()
        };
        assert!(of_link(&lo)
            .unwrap()
            .iter()
            .any(|s| s.name == "net/ipv4/conf/lo/rp_filter"));
    }
}
