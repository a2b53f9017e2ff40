// SPDX-License-Identifier: GPL-2.0-only
//! Logs of CRIU 4.1.1 that `cargo rig --keep explain` left, each cut to its first lines and its last.

use std::time::{Duration, SystemTime};

use super::log::{find, read, Report};
use super::rules::Rules;
use super::{code, NO_ERROR, UNKNOWN};

fn explain(log: &str) -> Report {
    read(log, &Rules::new().expect("the rules are good"))
}

/// Cause and cure of the first finding, which must be the only one.
fn only(log: &str) -> (String, String) {
    let mut report = explain(log);
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert!(report.unexplained.is_empty(), "{report:?}");
    let first = report.findings.remove(0);
    (first.cause, first.cure)
}

#[test]
fn our_own_errors_are_cut_into_cause_and_cure() {
    // The log also has CRIU's complaint about tun, which means nothing.
    let (cause, cure) = only(include_str!("logs/no-repair-mode.log"));
    assert_eq!(
        cause,
        "repair mode cannot be used: the kernel has no SCTP repair mode"
    );
    assert!(cure.contains("package telecr-sctp-dkms"), "{cure}");
    let (cause, cure) = only(include_str!("logs/address.log"));
    assert!(cause.ends_with("10.9.9.9 is not on this host"), "{cause}");
    assert_eq!(cure, "ip address add 10.9.9.9/32 dev DEV");
}

#[test]
fn what_only_follows_is_left_out() {
    let (cause, cure) = only(include_str!("logs/file-gone.log"));
    assert!(
        cause.contains("/var/tmp/open-file-gone/f, which"),
        "{cause}"
    );
    assert!(cure.contains("copy /var/tmp/open-file-gone/f "), "{cure}");
}

#[test]
fn options_are_named() {
    let report = explain(include_str!("logs/tcp.log"));
    assert_eq!(report.criu.as_deref(), Some("4.1.1"));
    assert_eq!(report.kernel.as_deref(), Some("Linux 6.12.117+deb13-amd64"));
    let (_, cure) = only(include_str!("logs/tcp.log"));
    assert!(cure.contains("--tcp-established"), "{cure}");
}

#[test]
fn a_line_before_tells_more() {
    let (cause, _) = only(include_str!("logs/image-lost.log"));
    assert!(cause.contains("core-403.img"), "{cause}");
    let (cause, _) = only(include_str!("logs/no-images.log"));
    assert!(cause.contains("no checkpoint"), "{cause}");
}

#[test]
fn a_warning_can_be_the_cause() {
    let (cause, cure) = only(include_str!("logs/traced.log"));
    assert!(cause.contains("281 cannot be traced"), "{cause}");
    assert!(cure.contains("/proc/281/status"), "{cure}");
}

#[test]
fn no_error_is_no_finding() {
    let report = explain(include_str!("logs/finished.log"));
    assert!(report.finished);
    assert_eq!(code(&report), NO_ERROR);
    assert_eq!(code(&explain("")), NO_ERROR);
}

#[test]
fn the_unknown_is_shown() {
    let report = explain("(00.1) Error (criu/x.c:1): no such thing was ever heard of\n(00.2) Error (criu/cr-dump.c:2111): Dumping FAILED.\n");
    assert_eq!(code(&report), UNKNOWN);
    assert_eq!(report.unexplained.len(), 1);
}

#[test]
fn the_newest_log_is_found() {
    let dir = std::env::temp_dir().join(format!("telecr-explain-{}", std::process::id()));
    let inner = dir.join("id/userdata");
    std::fs::create_dir_all(&inner).expect("created");
    assert!(find(&dir).is_err());
    let write = |path: &std::path::Path, age: u64| {
        let file = std::fs::File::create(path).expect("created");
        file.set_modified(SystemTime::now() - Duration::from_secs(age))
            .expect("set");
    };
    write(&dir.join("restore.log"), 9);
    write(&inner.join("dump.log"), 3);
    write(&dir.join("other.log"), 0);
    assert_eq!(find(&dir).expect("found"), inner.join("dump.log"));
    assert!(find(&dir.join("nothing.log")).is_err());
    std::fs::remove_dir_all(&dir).expect("removed");
}
