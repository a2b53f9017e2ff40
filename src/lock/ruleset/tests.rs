// SPDX-License-Identifier: GPL-2.0-only
//! The lock for real, in a network namespace of its own.

use super::*;

fn set(text: &[&str]) -> BTreeSet<IpAddr> {
    text.iter().map(|t| t.parse().unwrap()).collect()
}

/// Runs `f` in a new network namespace, or says why it cannot.
fn in_namespace(f: impl FnOnce() + Send + 'static) {
    let worker = std::thread::spawn(move || {
        if let Err(e) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            eprintln!("skipped: no network namespace: {e}");
            return;
        }
        if matches!(status(), Err(Error::NoNftables)) {
            eprintln!("skipped: no nftables in this kernel");
            return;
        }
        f();
    });
    worker.join().unwrap();
}

#[test]
fn locks_add_up_and_go() {
    in_namespace(|| {
        assert_eq!(status().unwrap(), set(&[]));
        unlock_all().unwrap();
        unlock(&["192.0.2.1".parse().unwrap()]).unwrap();

        let a = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        lock(&a).unwrap();
        lock(&a).unwrap();
        lock(&[
            "192.0.2.2".parse().unwrap(),
            "::ffff:192.0.2.3".parse().unwrap(),
        ])
        .unwrap();
        assert_eq!(
            status().unwrap(),
            set(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"])
        );

        unlock(&["192.0.2.2".parse().unwrap(), "192.0.2.99".parse().unwrap()]).unwrap();
        assert_eq!(
            status().unwrap(),
            set(&["192.0.2.1", "192.0.2.3", "2001:db8::1"])
        );

        if let Ok(out) = std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()
        {
            let text = String::from_utf8_lossy(&out.stdout);
            println!("{text}");
            assert_eq!(text.matches("drop").count(), 10, "{text}");
            for line in [
                "ip daddr @local4 meta l4proto sctp drop",
                "ip6 daddr @local6 meta l4proto sctp drop",
                "ip daddr @local4 udp dport 2152 drop",
                "ip6 daddr @local6 udp dport 3386 drop",
                "ip daddr @local4 meta l4proto tcp drop",
            ] {
                assert!(text.contains(line), "{line:?} is not in {text}");
            }
            assert_eq!(text.matches("accept").count(), 3, "{text}");
        }

        unlock(&[
            "192.0.2.1".parse().unwrap(),
            "192.0.2.3".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
        ])
        .unwrap();
        assert_eq!(status().unwrap(), set(&[]));
        unlock_all().unwrap();
    });
}

#[test]
fn three_thousand_addresses_are_one_transaction() {
    in_namespace(|| {
        let many: Vec<IpAddr> = (0..3000u32)
            .map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).into())
            .collect();
        lock(&many).unwrap();
        assert_eq!(status().unwrap().len(), 3000);
    });
}
