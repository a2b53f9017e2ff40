// SPDX-License-Identifier: GPL-2.0-only
//! The lock for real, in a network namespace of its own.

use super::*;
use crate::lock::Port;

const WHILE: Duration = Duration::from_secs(60);

fn set(text: &[&str]) -> BTreeSet<IpAddr> {
    text.iter().map(|t| t.parse().unwrap()).collect()
}

/// The locked addresses.
fn locked() -> BTreeSet<IpAddr> {
    status().unwrap().addresses.into_keys().collect()
}

/// Runs `f` in a new network namespace, or says why it cannot.
pub(crate) fn in_namespace(f: impl FnOnce() + Send + 'static) {
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
        assert_eq!(locked(), set(&[]));
        unlock_all().unwrap();
        unlock(&["192.0.2.1".parse().unwrap()]).unwrap();

        let a = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        lock(&a, WHILE).unwrap();
        lock(&a, WHILE).unwrap();
        lock(
            &[
                "192.0.2.2".parse().unwrap(),
                "::ffff:192.0.2.3".parse().unwrap(),
            ],
            WHILE,
        )
        .unwrap();
        assert_eq!(
            locked(),
            set(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"])
        );

        unlock(&["192.0.2.2".parse().unwrap(), "192.0.2.99".parse().unwrap()]).unwrap();
        assert_eq!(locked(), set(&["192.0.2.1", "192.0.2.3", "2001:db8::1"]));

        unlock(&[
            "192.0.2.1".parse().unwrap(),
            "192.0.2.3".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
        ])
        .unwrap();
        assert_eq!(locked(), set(&[]));
        unlock_all().unwrap();
    });
}

#[test]
fn three_thousand_addresses_are_one_transaction() {
    in_namespace(|| {
        let many: Vec<IpAddr> = (0..3000u32)
            .map(|n| std::net::Ipv4Addr::from(0x0a00_0000 + n).into())
            .collect();
        lock(&many, WHILE).unwrap();
        assert_eq!(locked().len(), 3000);
    });
}

#[test]
fn the_whole_namespace_is_locked_beside_addresses() {
    in_namespace(|| {
        lock_everything(WHILE).unwrap();
        let left = status().unwrap().everything.unwrap();
        assert!(left <= WHILE && left > WHILE / 2, "{left:?}");
        lock(&["192.0.2.1".parse().unwrap()], WHILE).unwrap();
        lock_everything(2 * WHILE).unwrap();
        assert!(status().unwrap().everything.unwrap() > WHILE);
        unlock_everything().unwrap();
        assert_eq!(status().unwrap().everything, None);
        assert_eq!(locked(), set(&["192.0.2.1"]));
        lock_everything(WHILE).unwrap();
        unlock(&["192.0.2.1".parse().unwrap()]).unwrap();
        assert!(status().unwrap().everything.is_some());
        unlock_everything().unwrap();
        assert!(status().unwrap().is_empty());
        unlock_everything().unwrap();
    });
}

/// How a UDP packet fares to a port of loopback that nobody has bound.
fn refused(port: u16) -> bool {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    socket.send(b"?").unwrap();
    socket.recv(&mut [0]).unwrap_err().kind() == std::io::ErrorKind::ConnectionRefused
}

#[test]
fn a_port_of_a_locked_address_is_open() {
    in_namespace(|| {
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let at = |port| -> Place { (IpAddr::from([127, 0, 0, 1]), port) };
        let gtp = at(Port::udp(2152));
        open(&[gtp]).unwrap();
        assert!(status().unwrap().is_empty());
        assert!(refused(2152));
        let loopback = ["127.0.0.1".parse().unwrap()];
        lock(&loopback, WHILE).unwrap();
        assert!(!refused(2152));
        open(&[(IpAddr::from([127, 0, 0, 2]), Port::udp(2152))]).unwrap();
        assert!(!refused(2152), "another address's");
        open(&[gtp, at(Port::sctp(3386))]).unwrap();
        open(&[gtp]).unwrap();
        assert!(refused(2152));
        // Another protocol's.
        assert!(!refused(3386));
        renew(2 * WHILE).unwrap();
        assert!(refused(2152));
        assert_eq!(locked(), set(&["127.0.0.1"]));
        // A new lock has nothing open.
        lock(&loopback, WHILE).unwrap();
        assert!(!refused(2152));
        unlock_all().unwrap();
        assert!(refused(2152));
        // The whole namespace, and then its addresses but for a place.
        assert!(!narrow(&loopback, &[gtp], WHILE).unwrap());
        assert!(status().unwrap().is_empty());
        lock_everything(WHILE).unwrap();
        assert!(!refused(2152));
        assert!(narrow(&loopback, &[gtp], WHILE).unwrap());
        assert!(refused(2152));
        assert!(!refused(3386));
        // One that comes second to the same leaves open what is.
        assert!(!narrow(&loopback, &[at(Port::udp(3386))], WHILE).unwrap());
        assert!(refused(2152));
        assert!(refused(3386));
    });
}

/// Changes that others make meanwhile.
#[test]
fn what_has_changed_meanwhile_is_looked_at_again() {
    in_namespace(|| {
        let [ours, theirs] = ["192.0.2.1", "192.0.2.2"].map(|a| a.parse().unwrap());
        lock(&[ours], WHILE).unwrap();
        let looked = Cell::new(0);
        // Unlocks the last address: the table would go, with the other's lock.
        change(|now| {
            looked.set(looked.get() + 1);
            if looked.get() == 1 {
                lock(&[theirs], WHILE).unwrap();
            }
            Ok(match now.addresses.contains_key(&theirs) {
                true => Some(vec![encode::remove(Family::V4, &[ours])?]),
                false => None,
            })
        })
        .unwrap();
        assert_eq!(looked.get(), 2);
        assert_eq!(locked(), set(&["192.0.2.2"]));
    });
}

#[test]
fn fragments_for_an_open_port_pass() {
    in_namespace(|| {
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "mtu", "1500", "up"])
            .status();
        assert!(up.unwrap().success());
        let server = std::net::UdpSocket::bind("127.0.0.1:2152").unwrap();
        let wait = Some(Duration::from_millis(200));
        server.set_read_timeout(wait).unwrap();
        let arrives = || {
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client
                .send_to(&[7; 4000], server.local_addr().unwrap())
                .unwrap();
            server.recv(&mut [0; 5000]).is_ok()
        };
        assert!(arrives());
        lock(&["127.0.0.1".parse().unwrap()], WHILE).unwrap();
        assert!(!arrives());
        open(&[(IpAddr::from([127, 0, 0, 1]), Port::udp(2152))]).unwrap();
        assert!(arrives());
    });
}

#[test]
fn a_lock_expires() {
    in_namespace(|| {
        lock(&["192.0.2.1".parse().unwrap()], Duration::from_millis(50)).unwrap();
        lock_everything(Duration::from_millis(50)).unwrap();
        let begin = std::time::Instant::now();
        while !status().unwrap().is_empty() {
            assert!(begin.elapsed() < WHILE, "{:?}", status());
            std::thread::sleep(Duration::from_millis(10));
        }
        unlock_all().unwrap();
    });
}

#[test]
fn a_locked_namespace_answers_nothing() {
    in_namespace(|| {
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let refused = || {
            let wait = Duration::from_millis(200);
            let to = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
            std::net::TcpStream::connect_timeout(&to, wait)
                .unwrap_err()
                .kind()
        };
        assert_eq!(refused(), std::io::ErrorKind::ConnectionRefused);
        lock_everything(WHILE).unwrap();
        assert_eq!(refused(), std::io::ErrorKind::TimedOut);
        unlock_everything().unwrap();
        assert_eq!(refused(), std::io::ErrorKind::ConnectionRefused);
    });
}
