// SPDX-License-Identifier: GPL-2.0-only
//! A test for each kind of socket and each state of an association.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use telecr::proto::Association;
use telecr::sctp::repair::Repair;
use telecr::sctp::{addr, Error};

use super::pair::{
    accept, allow_descriptors, alone, bind, connect, get, get_option, hear, kernel, listen,
    peel_off, recv, send, send_plain, set, set32, set_number, set_option, sh, shutdown_write,
    socket, transmit_on, try_bind, try_send,
};
use super::{moved, moved_asleep, read, write};

const ONE: i32 = libc::SOCK_STREAM;
const MANY: i32 = libc::SOCK_SEQPACKET;

fn place(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A socket of either style, bound to all of these.
fn bound_to(kind: i32, places: &[&str]) -> OwnedFd {
    let domain = if places.iter().any(|p| p.starts_with('[')) {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let fd = socket(domain, kind);
    // Short times, so that a test of timers does not last.
    set32(&fd, 0, &[0, 300, 1000, 200]);
    bind(&fd, place(places[0]));
    for p in &places[1..] {
        set(&fd, 100, &addr::bytes(place(p))).unwrap();
    }
    fd
}

fn server(kind: i32, places: &[&str]) -> OwnedFd {
    let fd = bound_to(kind, places);
    listen(&fd);
    fd
}

/// An association of two one-to-one sockets between `10.1.0.1` and `10.1.0.2`.
fn pair() -> (OwnedFd, OwnedFd) {
    pair_with(|_| ())
}

/// The same, with options set on both before they meet.
fn pair_with(options: impl Fn(&OwnedFd)) -> (OwnedFd, OwnedFd) {
    let l = bound_to(ONE, &["10.1.0.1:5000"]);
    options(&l);
    listen(&l);
    let c = bound_to(ONE, &["10.1.0.2:6000"]);
    options(&c);
    assert!(connect(&c, place("10.1.0.1:5000")));
    let s = accept(&l);
    (s, c)
}

fn both_ways(a: &OwnedFd, b: &OwnedFd) {
    for n in 0..5u8 {
        send(a, 1, &[n; 100]);
        assert_eq!(recv(b), (1, vec![n; 100]));
        send(b, 2, &[n; 3000]);
        assert_eq!(recv(a), (2, vec![n; 3000]));
    }
}

/// `SCTP_STATUS`: id and state.
fn status(fd: &OwnedFd, id: u32) -> (u32, u32) {
    let mut value = id.to_ne_bytes().to_vec();
    value.resize(176, 0);
    let got = get(fd, 14, value);
    let at = |n: usize| u32::from_ne_bytes(got[n..n + 4].try_into().unwrap());
    (at(0), at(4))
}

/// The state of its only association, in a handshake too.
fn state(fd: &OwnedFd) -> u32 {
    let mut repair = deaf(fd);
    let mut state = 0;
    repair
        .associations(fd.as_fd(), |a| {
            state = a.state.unwrap();
            Ok(())
        })
        .unwrap();
    repair.release(fd.as_fd()).unwrap();
    state
}

/// Ended in good order. Whoever shut down first is told that it is not connected.
fn ended(fd: &OwnedFd) {
    match hear(fd, 10, 0) {
        Ok(m) => assert_eq!(m.data, b""),
        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOTCONN), "{e}"),
    }
}

/// Cuts a socket off, so that it answers nothing.
fn deaf(fd: &OwnedFd) -> Repair {
    let mut repair = Repair::open().unwrap();
    repair.freeze(fd.as_fd()).unwrap();
    repair
}

fn pause(ms: u64) {
    sleep(Duration::from_millis(ms));
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        pause(50);
    }
    panic!("waited in vain for {what}");
}

#[test]
#[ignore = "needs the kernel companion"]
fn one_to_many_sockets_with_many_associations() {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    // A kernel that watches over itself does not keep up with the timers of so many in a guest without KVM.
    let count = if release.contains("debug") { 200 } else { 2000 };
    alone(&[]);
    allow_descriptors(u64::from(count) + 100);
    let s = server(MANY, &["10.1.0.1:5000"]);
    // SO_RCVBUFFORCE: room for all of it.
    set_number(
        s.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        &[4 << 20],
    );
    let clients: Vec<OwnedFd> = (0..count)
        .map(|n| {
            let c = bound_to(ONE, &[&format!("10.1.0.2:{}", 6000 + n)]);
            assert!(connect(&c, place("10.1.0.1:5000")));
            send(&c, 1, format!("hello {n}").as_bytes());
            c
        })
        .collect();
    pause(300);
    let (s, summary) = moved(s);
    assert_eq!(summary.associations, count);
    assert!(summary.listening);
    // Each is answered on its own association, by the id it came with.
    for _ in &clients {
        let m = hear(&s, 1000, 0).unwrap();
        transmit_on(&s, m.association, 3, 0, &m.data, 0).unwrap();
    }
    for (n, c) in clients.iter().enumerate() {
        assert_eq!(recv(c), (3, format!("hello {n}").into_bytes()));
    }
    // And it still takes new ones.
    let c = bound_to(ONE, &["10.1.0.3:6000"]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    send(&c, 0, b"new");
    assert_eq!(recv(&s), (0, b"new".to_vec()));
}

#[test]
#[ignore = "needs the kernel companion"]
fn peeled_off_sockets() {
    alone(&[]);
    let s = server(MANY, &["10.1.0.1:5000"]);
    let c = bound_to(MANY, &["10.1.0.2:6000"]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    transmit_on(&c, own_id(&c), 1, 0, b"who", 0).unwrap();
    let id = hear(&s, 100, 0).unwrap().association;
    let branch = peel_off(&s, id);
    transmit_on(&c, own_id(&c), 1, 0, b"unread", 0).unwrap();
    pause(100);
    let (branch, summary) = moved(branch);
    assert_eq!(summary.associations, 1);
    assert_eq!(recv(&branch), (1, b"unread".to_vec()));
    send(&branch, 2, b"answer");
    assert_eq!(recv(&c), (2, b"answer".to_vec()));
    // A socket peeled off reports its association without being asked for an id.
    assert_eq!(status(&branch, 0), (id, 4));
    let (s, _) = moved(s);
    drop(s);
}

/// Where SELinux has labelled them; on other hosts there are none. The policy is the rig's.
#[test]
#[ignore = "needs the kernel companion"]
fn labels_of_an_association() {
    let selinux = std::path::Path::new("/sys/fs/selinux/load").exists();
    let label = |kind| selinux.then(|| format!("rig:rig:{kind}\0").into_bytes());
    alone(&[]);
    let s = server(MANY, &["10.1.0.1:5000"]);
    let c = bound_to(MANY, &["10.1.0.2:6000"]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    transmit_on(&c, own_id(&c), 1, 0, b"who", 0).unwrap();
    let id = hear(&s, 100, 0).unwrap().association;
    let (s, _) = moved(s);
    let association = record(&s);
    assert_eq!(association.label, label("local"));
    assert_eq!(association.peer_label, label("remote"));
    let branch = peel_off(&s, id);
    if selinux {
        const SO_PEERSEC: i32 = 31;
        let told = get_option(&branch, libc::SOL_SOCKET, SO_PEERSEC, vec![0; 100]);
        assert_eq!(Some(told), label("remote"));
    }
}

/// The id of the only association of a one-to-many socket (`SCTP_GET_ASSOC_ID_LIST`).
fn own_id(fd: &OwnedFd) -> u32 {
    let got = get(fd, 29, vec![0; 64]);
    assert_eq!(got[..4], 1u32.to_ne_bytes());
    u32::from_ne_bytes(got[4..8].try_into().unwrap())
}

#[test]
#[ignore = "needs the kernel companion"]
fn several_addresses_on_both_sides() {
    alone(&[]);
    let l = server(ONE, &["10.1.0.1:5000", "10.1.0.3:5000"]);
    let c = bound_to(ONE, &["10.1.0.2:6000", "10.1.0.4:6000"]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    let s = accept(&l);
    both_ways(&s, &c);
    // The other path becomes primary (SCTP_PRIMARY_ADDR).
    let mut prim = vec![0; 4];
    prim.extend(addr::bytes(place("10.1.0.4:6000")));
    prim.resize(132, 0);
    set(&s, 6, &prim).unwrap();
    let paths = |fd: &OwnedFd| get(fd, 108, vec![0; 256]);
    let before = (paths(&s), get(&s, 6, vec![0; 132]));
    send(&c, 1, b"unread");
    pause(100);
    let (s, _) = moved(s);
    assert_eq!(recv(&s), (1, b"unread".to_vec()));
    assert_eq!((paths(&s), get(&s, 6, vec![0; 132])), before);
    both_ways(&s, &c);
    let (c, _) = moved(c);
    both_ways(&s, &c);
    // One path dies; the other one carries on.
    sh("ip address del 10.1.0.2/32 dev lo");
    both_ways(&s, &c);
}

/// The only association of a socket as the kernel tells it.
fn record(fd: &OwnedFd) -> Association {
    let mut repair = deaf(fd);
    let mut all = Vec::new();
    repair
        .associations(fd.as_fd(), |a| {
            all.push(a);
            Ok(())
        })
        .unwrap();
    repair.release(fd.as_fd()).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// The state of the path to an address (`SCTP_GET_PEER_ADDR_INFO`).
fn path_state(fd: &OwnedFd, to: &str) -> u32 {
    let mut ask = vec![0; 4];
    ask.extend(addr::bytes(place(to)));
    ask.resize(152, 0);
    let got = get(fd, 15, ask);
    u32::from_ne_bytes(got[132..136].try_into().unwrap())
}

#[test]
#[ignore = "needs the kernel companion"]
fn every_state_of_a_path() {
    const FAR: &str = "10.1.0.4:6000";
    let (inactive, failed, active, unconfirmed) = (0, 1, 2, 3);
    let block = || {
        sh(
            "nft add table t; nft add chain t i '{ type filter hook input priority 0; }'; \
            nft add rule t i ip daddr 10.1.0.4 drop",
        );
    };
    let unblock = || sh("nft delete table t");
    alone(&[]);
    block();
    let l = server(ONE, &["10.1.0.1:5000"]);
    let c = bound_to(ONE, &["10.1.0.2:6000", FAR]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    let mut s = accept(&l);
    set32(&s, 131, &[0, 2]); // SCTP_EXPOSE_POTENTIALLY_FAILED_STATE
    let heartbeat = |fd: &OwnedFd, failures: u16| {
        // SCTP_PEER_ADDR_PARAMS: a heartbeat every 100 ms.
        let mut value = vec![0; 4];
        value.extend(addr::bytes(place(FAR)));
        value.resize(132, 0);
        value.extend(100u32.to_ne_bytes());
        value.extend(failures.to_ne_bytes());
        value.extend([0; 8]);
        value.extend(1u32.to_ne_bytes());
        value.resize(156, 0);
        set(fd, 9, &value).unwrap();
    };
    for (state, before) in [
        (unconfirmed, None),
        (active, Some(false)),
        (failed, Some(true)),
        (inactive, None),
        (active, Some(false)),
    ] {
        match before {
            Some(true) => block(),
            Some(false) => unblock(),
            None => {}
        }
        // SCTP_PEER_ADDR_THLDS: potentially failed after the first failure (RFC 7829).
        let mut limits = vec![0; 8];
        limits.extend(addr::bytes(place(FAR)));
        limits.resize(136, 0);
        limits.extend(if state == failed { 100u16 } else { 2 }.to_ne_bytes());
        limits.extend(u16::from(state != failed).to_ne_bytes());
        limits.resize(144, 0);
        if state != unconfirmed {
            heartbeat(&s, if state == failed { 100 } else { 2 });
            set(&s, 31, &limits).unwrap();
        }
        until(&format!("state {state}"), || path_state(&s, FAR) == state);
        (s, _) = moved(s);
        assert_eq!(path_state(&s, FAR), state);
        both_ways(&s, &c);
    }
}

/// All the numbers of an association and of its paths, which nothing changes meanwhile.
#[test]
#[ignore = "needs the kernel companion"]
fn all_that_is_told_of_an_association() {
    alone(&[]);
    let l = bound_to(ONE, &["10.1.0.1:5000", "10.1.0.3:5000"]);
    set32(&l, 7, &[4711]); // SCTP_ADAPTATION_LAYER
    listen(&l);
    let c = bound_to(ONE, &["10.1.0.2:6000", "10.1.0.4:6000"]);
    set32(&c, 7, &[815]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    let s = accept(&l);
    set32(&s, 0, &[0, 400, 5000, 252]); // SCTP_RTOINFO
    set32(&s, 1, &[7, 0, 0, 30_000, 0]); // SCTP_ASSOCINFO
    set32(&s, 16, &[0, 200, 3]); // SCTP_DELAYED_SACK
    set32(&s, 17, &[0, 77]); // SCTP_CONTEXT
    set32(&s, 20, &[0, 9]); // SCTP_MAX_BURST
    both_ways(&s, &c);
    until("both paths", || {
        path_state(&s, "10.1.0.2:6000") == 2 && path_state(&s, "10.1.0.4:6000") == 2
    });
    pause(500);
    let still = |fd: &OwnedFd| {
        let mut a = record(fd);
        // Chosen anew, by the routes.
        a.paths.iter_mut().for_each(|p| p.saddr = None);
        a
    };
    let before = still(&s);
    assert_eq!(before.peer_adaptation, Some(815));
    assert!(before
        .paths
        .iter()
        .all(|p| p.srtt.is_some() && p.rto > Some(0)));
    let mut repair = deaf(&s);
    let (image, _) = write(&mut repair, &s);
    drop(s);
    let (s, _) = read(&mut repair, &image).unwrap();
    let mut after = None;
    repair
        .associations(s.as_fd(), |a| {
            after = Some(a);
            Ok(())
        })
        .unwrap();
    let mut after = after.unwrap();
    after.paths.iter_mut().for_each(|p| p.saddr = None);
    assert_eq!(after, before);
    repair.wake(s.as_fd()).unwrap();
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn both_families_in_one_association() {
    alone(&[]);
    let l = server(ONE, &["[fd01::1]:5000", "10.1.0.1:5000"]);
    let c = bound_to(ONE, &["[fd01::2]:6000", "10.1.0.2:6000"]);
    assert!(connect(&c, place("[fd01::1]:5000")));
    let s = accept(&l);
    send(&c, 1, b"unread");
    pause(100);
    let (s, _) = moved(s);
    assert_eq!(recv(&s), (1, b"unread".to_vec()));
    let (c, _) = moved(c);
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn ipv4_over_an_ipv6_socket() {
    alone(&[]);
    let l = server(ONE, &["[::]:5000"]);
    let c = bound_to(ONE, &["10.1.0.2:6000"]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    let s = accept(&l);
    let (s, _) = moved(s);
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn link_local_addresses_with_their_scope() {
    alone(&[]);
    sh("ip link add here type dummy; ip link set here up; ip address add fe80::1/64 dev here nodad");
    let scope = nix::net::if_::if_nametoindex("here").unwrap();
    let l = server(ONE, &[&format!("[fe80::1%{scope}]:5000")]);
    let c = bound_to(ONE, &[&format!("[fe80::1%{scope}]:6000")]);
    assert!(connect(&c, place(&format!("[fe80::1%{scope}]:5000"))));
    let s = accept(&l);
    let (s, _) = moved(s);
    let (c, _) = moved(c);
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn an_interface_of_another_number_is_found_by_its_name() {
    alone(&[]);
    let make = "ip link add here type dummy; ip link set here up; ip address add fe80::1/64 dev here nodad";
    sh(make);
    let before = nix::net::if_::if_nametoindex("here").unwrap();
    let l = server(ONE, &[&format!("[fe80::1%{before}]:5000")]);
    let c = bound_to(ONE, &[&format!("[fe80::1%{before}]:6000")]);
    assert!(connect(&c, place(&format!("[fe80::1%{before}]:5000"))));
    let s = accept(&l);
    send(&c, 1, b"unread");
    pause(100);
    let mut repair = deaf(&s);
    repair.freeze(c.as_fd()).unwrap();
    let images = [&s, &c].map(|fd| write(&mut repair, fd).0);
    drop((s, c, l));
    // As on another host: first without the interface, then with another number.
    sh("ip link del here");
    let e = read(&mut repair, &images[0]).unwrap_err();
    assert!(
        matches!(&e, Error::InterfaceMissing { name } if name == "here"),
        "{e}"
    );
    sh(&format!("ip link add other type dummy; {make}"));
    let after = nix::net::if_::if_nametoindex("here").unwrap();
    assert_ne!(before, after);
    let [s, c] = images.map(|i| read(&mut repair, &i).unwrap().0);
    for fd in [&s, &c] {
        repair.wake(fd.as_fd()).unwrap();
    }
    assert_eq!(recv(&s), (1, b"unread".to_vec()));
    both_ways(&s, &c);
    let local = &record(&s).local_addrs[0];
    assert_eq!(
        local,
        &addr::bytes(place(&format!("[fe80::1%{after}]:5000")))
    );
}

/// Sends until the socket takes no more and the peer's window is full too, the
/// number of the message in front.
fn fill(fd: &OwnedFd, streams: u16, len: usize) -> u32 {
    let mut n = 0u32;
    loop {
        let stream = u16::try_from(n % u32::from(streams)).unwrap();
        let data = [&n.to_ne_bytes()[..], &vec![7; len]].concat();
        if !try_send(fd, stream, &data) {
            pause(100);
            if !try_send(fd, stream, &data) {
                return n;
            }
        }
        n += 1;
    }
}

/// All of them arrive, in order within their streams.
fn drain(fd: &OwnedFd, count: u32, len: usize) {
    let mut last = std::collections::HashMap::new();
    let mut seen = vec![false; count.try_into().unwrap()];
    for _ in 0..count {
        let (stream, data) = recv(fd);
        assert_eq!(data.len(), len + 4);
        let n = u32::from_ne_bytes(data[..4].try_into().unwrap());
        let before = last.insert(stream, n);
        assert!(before.is_none_or(|b| b < n), "{n} behind {before:?}");
        assert!(!std::mem::replace(
            &mut seen[usize::try_from(n).unwrap()],
            true
        ));
    }
}

#[test]
#[ignore = "needs the kernel companion"]
fn interleaved_messages() {
    for scheduler in 0..schedulers() {
        alone(&[("sctp.intl_enable", "1")]);
        let (s, c) = pair_with(|fd| {
            set32(fd, 18, &[2]); // SCTP_FRAGMENT_INTERLEAVE
            set32(fd, 125, &[0, 1]); // SCTP_INTERLEAVING_SUPPORTED
        });
        set32(&s, 123, &[0, scheduler]); // SCTP_STREAM_SCHEDULER
        let count = fill(&s, 7, 9000);
        assert!(count > 5);
        pause(200);
        let (s, _) = moved(s);
        let (c, _) = moved(c);
        let got = get(&s, 125, vec![0; 8]);
        assert_eq!(got[4], 1, "interleaving was lost");
        drain_interleaved(&c, count, 9000);
        both_ways(&s, &c);
    }
}

/// With interleaving a message comes in parts, among those of other streams.
fn drain_interleaved(fd: &OwnedFd, count: u32, len: usize) {
    let mut parts: std::collections::HashMap<u16, Vec<u8>> = std::collections::HashMap::new();
    let mut seen = std::collections::HashSet::new();
    while seen.len() < usize::try_from(count).unwrap() {
        let m = hear(fd, 100_000, 0).unwrap();
        assert!(!m.data.is_empty());
        let whole = parts.entry(m.stream).or_default();
        whole.extend(&m.data);
        if m.flags & libc::MSG_EOR != 0 {
            assert_eq!(whole.len(), len + 4);
            let n = u32::from_ne_bytes(whole[..4].try_into().unwrap());
            assert!(seen.insert(n));
            whole.clear();
        }
    }
}

/// How many schedulers there are: the fair ones came with Linux 6.4.
fn schedulers() -> u32 {
    if kernel() < (6, 4) {
        3
    } else {
        5
    }
}

#[test]
#[ignore = "needs the kernel companion"]
fn stream_schedulers_and_their_weights() {
    for scheduler in 1..schedulers() {
        alone(&[]);
        let (s, c) = pair();
        set32(&s, 123, &[0, scheduler]);
        let weight = |fd: &OwnedFd| get(fd, 124, vec![0, 0, 0, 0, 3, 0, 0, 0]);
        // SCTP_STREAM_SCHEDULER_VALUE: association, stream, value.
        let _ = set(&s, 124, &[0, 0, 0, 0, 3, 0, 9, 0]);
        let before = (get(&s, 123, vec![0; 8]), weight(&s));
        let count = fill(&s, 7, 2000);
        let (s, _) = moved(s);
        assert_eq!((get(&s, 123, vec![0; 8]), weight(&s)), before);
        drain(&c, count, 2000);
        both_ways(&s, &c);
    }
}

/// `SCTP_DEFAULT_PRINFO`: association, value, policy.
fn prinfo(policy: u16, value: u32) -> Vec<u8> {
    let parts = [[0; 4], value.to_ne_bytes(), u32::from(policy).to_ne_bytes()];
    parts.concat()
}

#[test]
#[ignore = "needs the kernel companion"]
fn messages_given_up() {
    alone(&[]);
    let (s, c) = pair();
    set(&s, 114, &prinfo(0x10, 100)).unwrap(); // 100 ms to live
    let mut far = deaf(&c);
    for n in 0..40u8 {
        try_send(&s, 1, &[n; 1200]);
    }
    pause(1500);
    // Some are abandoned by now, and the peer was not told.
    set(&s, 114, &prinfo(0, 0)).unwrap();
    send(&s, 2, b"kept");
    let mut given_up = 0;
    let mut repair = deaf(&s);
    repair
        .chunks(s.as_fd(), |c| {
            given_up += c.flags.unwrap() >> 3 & 1;
            Ok(())
        })
        .unwrap();
    assert!(given_up > 0);
    let (s, _) = moved(s);
    far.wake(c.as_fd()).unwrap();
    // What was given up may be missing, what was not may not.
    until("the message that was kept", || {
        recv(&c) == (2, b"kept".to_vec())
    });
    both_ways(&s, &c);
}

/// `SCTP_GET_ASSOC_STATS`, then for each policy of PR-SCTP and all of them
/// `SCTP_PR_ASSOC_STATUS` and, of streams 0 to 2, `SCTP_PR_STREAM_STATUS`.
fn counters(fd: &OwnedFd) -> Vec<Vec<u8>> {
    let mut all = vec![get(fd, 112, vec![0; 256])];
    for policy in [0x10, 0x20, 0x30, 0x80u16] {
        for (option, stream) in [(115, 0), (116, 0), (116, 1), (116, 2u16)] {
            let mut status = vec![0; 24];
            status[4..6].copy_from_slice(&stream.to_ne_bytes());
            status[6..8].copy_from_slice(&policy.to_ne_bytes());
            all.push(get(fd, option, status));
        }
    }
    all
}

#[test]
#[ignore = "needs the kernel companion"]
fn what_an_association_has_counted() {
    alone(&[]);
    let (s, c) = pair();
    both_ways(&s, &c);
    let mut far = deaf(&c);
    set(&s, 114, &prinfo(0x10, 100)).unwrap(); // 100 ms to live
    for n in 0..40u8 {
        send_plain(&s, &[n; 1200]);
    }
    pause(1500);
    set(&s, 114, &prinfo(0, 0)).unwrap();
    send(&s, 2, b"kept");
    pause(1500);
    let mut repair = deaf(&s);
    let (image, _) = write(&mut repair, &s);
    // To ask for the largest RTO begins a new observation: after the image.
    let before = counters(&s);
    drop(s);
    let (s, _) = read(&mut repair, &image).unwrap();
    assert_eq!(counters(&s), before);
    let at = |value: &[u8], n: usize| u64::from_ne_bytes(value[n..n + 8].try_into().unwrap());
    let (stats, given_up) = (&before[0], &before[2]);
    assert!(at(stats, 136) > 0, "largest RTO");
    assert!(at(stats, 160) > 0, "packets sent");
    assert!(at(stats, 176) > 0, "chunks sent again");
    assert!(
        at(given_up, 8) > 0,
        "messages given up before they were sent"
    );
    assert!(
        at(given_up, 16) > 0,
        "messages given up after they were sent"
    );
    repair.wake(s.as_fd()).unwrap();
    far.wake(c.as_fd()).unwrap();
    until("the message that was kept", || {
        recv(&c) == (2, b"kept".to_vec())
    });
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn messages_that_may_not_be_sent_again() {
    alone(&[]);
    let (s, c) = pair_with(|fd| set_number(fd.as_fd(), libc::IPPROTO_SCTP, 3, &[1])); // SCTP_NODELAY
    set(&s, 114, &prinfo(0x20, 0)).unwrap(); // no retransmission
    let mut far = deaf(&c);
    for n in 0..3u8 {
        send_plain(&s, &[n; 500]);
    }
    set(&s, 114, &prinfo(0x30, 9)).unwrap(); // SCTP_PR_SCTP_PRIO
    send_plain(&s, b"important");
    set(&s, 114, &prinfo(0, 0)).unwrap();
    send_plain(&s, b"kept");
    let (s, summary) = moved(s);
    assert_eq!(summary.outgoing, 5);
    pause(1000);
    far.wake(c.as_fd()).unwrap();
    // The limit of the first three was reached before.
    assert_eq!(recv(&c), (0, b"important".to_vec()));
    assert_eq!(recv(&c), (0, b"kept".to_vec()));
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_lifetime_goes_on_from_where_it_was() {
    alone(&[]);
    let (s, c) = pair();
    set(&s, 114, &prinfo(0x10, 60_000)).unwrap();
    let mut far = deaf(&c);
    send_plain(&s, b"late");
    pause(500);
    let mut repair = deaf(&s);
    let lifetime = |repair: &mut Repair, fd: &OwnedFd| {
        let mut left = None;
        repair
            .chunks(fd.as_fd(), |c| {
                left = c.lifetime;
                Ok(())
            })
            .unwrap();
        left.unwrap()
    };
    let before = lifetime(&mut repair, &s);
    let (image, _) = write(&mut repair, &s);
    assert!(before <= 59_500, "{before}");
    drop(s);
    let (s, _) = read(&mut repair, &image).unwrap();
    assert!(lifetime(&mut repair, &s) <= before + 4);
    repair.wake(s.as_fd()).unwrap();
    far.wake(c.as_fd()).unwrap();
    assert_eq!(recv(&c), (0, b"late".to_vec()));
}

#[test]
#[ignore = "needs the kernel companion"]
fn an_echo_of_congestion_goes_on() {
    alone(&[]);
    let (s, c) = pair();
    both_ways(&s, &c);
    // The peer's packets are marked on their way (RFC 3168), and it does not hear of it.
    sh(
        "nft add table t; nft add chain t i '{ type filter hook input priority 0; }'; \
        nft add rule t i ip daddr 10.1.0.1 ip ecn set ce; nft add rule t i ip saddr 10.1.0.1 drop",
    );
    send(&c, 1, b"marked");
    assert_eq!(recv(&s), (1, b"marked".to_vec()));
    assert_eq!(record(&s).need_ecne, Some(1));
    let (s, _) = moved(s);
    assert_eq!(record(&s).need_ecne, Some(1));
    let before = record(&c);
    sh("nft delete table t");
    until("the peer to have reduced", || {
        both_ways(&s, &c);
        record(&s).need_ecne == Some(0)
    });
    assert_ne!(record(&c).last_cwr_tsn, before.last_cwr_tsn);
}

#[test]
#[ignore = "needs the kernel companion"]
fn authenticated_associations() {
    alone(&[("sctp.auth_enable", "1")]);
    let key = |id: u16, text: &[u8]| {
        let len = u16::try_from(text.len()).unwrap();
        [&[0; 4][..], &id.to_ne_bytes(), &len.to_ne_bytes(), text].concat()
    };
    let (s, c) = pair_with(|fd| {
        set(fd, 21, &[0]).unwrap(); // SCTP_AUTH_CHUNK: DATA
        set(fd, 21, &[3]).unwrap(); // and SACK
        set(fd, 23, &key(1, b"first secret")).unwrap(); // SCTP_AUTH_KEY
        set(fd, 23, &key(2, b"second")).unwrap();
        set(fd, 24, &[0, 0, 0, 0, 1, 0, 0, 0]).unwrap(); // SCTP_AUTH_ACTIVE_KEY
    });
    both_ways(&s, &c);
    let count = fill(&s, 3, 1000);
    let chunks = |fd: &OwnedFd| (get(fd, 26, vec![0; 64]), get(fd, 27, vec![0; 64]));
    let before = chunks(&s);
    let (s, _) = moved(s);
    assert_eq!(chunks(&s), before);
    drain(&c, count, 1000);
    let (c, _) = moved(c);
    both_ways(&s, &c);
    // The other key is there too.
    set(&s, 24, &[0, 0, 0, 0, 2, 0, 0, 0]).unwrap();
    set(&c, 24, &[0, 0, 0, 0, 2, 0, 0, 0]).unwrap();
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn listeners_keep_their_keys() {
    alone(&[("sctp.auth_enable", "1")]);
    let key = [&[0; 4][..], &[1, 0, 6, 0], b"secret"].concat();
    let options = |fd: &OwnedFd| {
        set(fd, 21, &[0]).unwrap();
        set(fd, 23, &key).unwrap();
        set(fd, 24, &[0, 0, 0, 0, 1, 0, 0, 0]).unwrap();
    };
    let l = bound_to(ONE, &["10.1.0.1:5000"]);
    options(&l);
    listen(&l);
    let (l, _) = moved(l);
    let c = bound_to(ONE, &["10.1.0.2:6000"]);
    options(&c);
    assert!(connect(&c, place("10.1.0.1:5000")));
    both_ways(&accept(&l), &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn address_changes_under_way() {
    let asconf = [
        ("sctp.addip_enable", "1"),
        ("sctp.addip_noauth_enable", "1"),
    ];
    alone(&asconf);
    let (s, c) = pair();
    let mut far = deaf(&c);
    // Two requests: one is sent, one waits for its answer.
    set(&s, 100, &addr::bytes(place("10.1.0.3:5000"))).unwrap();
    set(&s, 100, &addr::bytes(place("10.1.0.4:5000"))).unwrap();
    pause(100);
    let (s, _) = moved(s);
    far.wake(c.as_fd()).unwrap();
    let peers = || get(&c, 108, vec![0; 512])[4];
    until("the peer to take both addresses", || peers() == 3);
    both_ways(&s, &c);
    // And back: one is deleted, and its answer is lost in the move.
    let mut far = deaf(&c);
    set(&s, 101, &addr::bytes(place("10.1.0.4:5000"))).unwrap();
    pause(100);
    let (s, _) = moved(s);
    far.wake(c.as_fd()).unwrap();
    until("the peer to give it up", || peers() == 2);
    let (c, _) = moved(c);
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_change_of_the_only_address_is_refused() {
    alone(&[
        ("sctp.addip_enable", "1"),
        ("sctp.addip_noauth_enable", "1"),
    ]);
    let (s, c) = pair();
    // The socket has a second address, its association does not: ASCONF was off.
    set32(&s, 128, &[0, 0]);
    set(&s, 100, &addr::bytes(place("10.1.0.3:5000"))).unwrap();
    set32(&s, 128, &[0, 1]);
    set(&s, 101, &addr::bytes(place("10.1.0.1:5000"))).unwrap();
    let mut repair = Repair::open().unwrap();
    let e = repair.freeze(s.as_fd()).unwrap_err();
    assert!(e.to_string().contains("changes its only address"), "{e}");
    assert!(!repair.is_frozen(s.as_fd()).unwrap());
    drop(c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn stream_resets_under_way() {
    alone(&[("sctp.reconf_enable", "1")]);
    let (s, c) = pair_with(|fd| set32(fd, 118, &[0, 7])); // SCTP_ENABLE_STREAM_RESET
    both_ways(&s, &c);
    let mut far = deaf(&c);
    // SCTP_RESET_STREAMS: outgoing stream 1.
    set(&s, 119, &[0, 0, 0, 0, 2, 0, 1, 0, 1, 0]).unwrap();
    pause(100);
    let (s, _) = moved(s);
    far.wake(c.as_fd()).unwrap();
    until("stream 1 to open again", || try_send(&s, 1, b"from zero"));
    assert_eq!(recv(&c), (1, b"from zero".to_vec()));
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn streams_being_added() {
    alone(&[("sctp.reconf_enable", "1")]);
    let (s, c) = pair_with(|fd| set32(fd, 118, &[0, 7]));
    let mut far = deaf(&c);
    // SCTP_ADD_STREAMS: association, in, out.
    set(&s, 121, &[0, 0, 0, 0, 0, 0, 5, 0]).unwrap();
    pause(100);
    let (s, _) = moved(s);
    far.wake(c.as_fd()).unwrap();
    until("stream 14 to open", || try_send(&s, 14, b"new"));
    assert_eq!(recv(&c), (14, b"new".to_vec()));
    let (c, _) = moved(c);
    send(&s, 13, b"newer");
    assert_eq!(recv(&c), (13, b"newer".to_vec()));
}

#[test]
#[ignore = "needs the kernel companion"]
fn sctp_over_udp() {
    alone(&[("sctp.udp_port", "9899"), ("sctp.encap_port", "9899")]);
    let (s, c) = pair();
    both_ways(&s, &c);
    let mut repair = Repair::open().unwrap();
    repair.freeze(s.as_fd()).unwrap();
    let (image, _) = write(&mut repair, &s);
    drop(s);
    std::fs::write("/proc/sys/net/sctp/udp_port", "0").unwrap();
    let e = read(&mut repair, &image).unwrap_err();
    assert!(e.to_string().contains("net.sctp.udp_port"), "{e}");
    std::fs::write("/proc/sys/net/sctp/udp_port", "9899").unwrap();
    let (s, _) = read(&mut repair, &image).unwrap();
    repair.wake(s.as_fd()).unwrap();
    both_ways(&s, &c);
    // SCTP_REMOTE_UDP_ENCAPS_PORT of the path, in network order.
    let mut ask = vec![0; 8];
    ask.extend(addr::bytes(place("10.1.0.2:6000")));
    ask.resize(144, 0);
    assert_eq!(get(&s, 132, ask)[136..138], 9899u16.to_be_bytes());
}

#[test]
#[ignore = "needs the kernel companion"]
fn event_subscriptions() {
    alone(&[]);
    let s = server(MANY, &["10.1.0.1:5000"]);
    let c = bound_to(ONE, &["10.1.0.2:6000"]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    send(&c, 1, b"hello");
    let id = hear(&s, 100, 0).unwrap().association;
    // SCTP_EVENT: shutdown of this association, sender dry of all to come (SCTP_FUTURE_ASSOC).
    let event = |id: u32, kind: u16, on: u8| {
        [&id.to_ne_bytes()[..], &kind.to_ne_bytes(), &[on, 0]].concat()
    };
    set(&s, 127, &event(id, 0x8005, 1)).unwrap();
    set(&s, 127, &event(0, 0x8009, 1)).unwrap();
    let all = |fd: &OwnedFd| {
        [(id, 0x8005), (id, 0x8009), (0, 0x8005), (0, 0x8009)]
            .map(|(id, kind)| get(fd, 127, event(id, kind, 0))[6])
    };
    assert_eq!(all(&s), [1, 0, 0, 1]);
    let (s, _) = moved(s);
    assert_eq!(all(&s), [1, 0, 0, 1]);
    drop(c);
    // The notification of the shutdown, sn_type first.
    until("SCTP_SHUTDOWN_EVENT", || {
        hear(&s, 100, 0).is_ok_and(|m| m.data[..2] == 0x8005u16.to_ne_bytes())
    });
}

#[test]
#[ignore = "needs the kernel companion"]
fn the_packet_lock_holds_over_udp() {
    alone(&[("sctp.udp_port", "9899"), ("sctp.encap_port", "9899")]);
    let (s, c) = pair();
    both_ways(&s, &c);
    let mut repair = Repair::open().unwrap();
    repair.freeze(s.as_fd()).unwrap();
    let (image, _) = write(&mut repair, &s);
    let here = ["10.1.0.1".parse().unwrap()];
    telecr::lock::lock(&here, telecr::lock::LIMIT).unwrap();
    drop(s);
    // Nobody answers with an ABORT that there is no such association.
    send(&c, 1, b"meanwhile");
    pause(500);
    let (s, _) = read(&mut repair, &image).unwrap();
    // Its port is open, the address stays locked.
    let port = telecr::lock::Port::sctp(5000);
    telecr::lock::open(&[(here[0], port)]).unwrap();
    repair.wake(s.as_fd()).unwrap();
    assert_eq!(recv(&s), (1, b"meanwhile".to_vec()));
    both_ways(&s, &c);
    telecr::lock::unlock(&here).unwrap();
    both_ways(&s, &c);
}

/// Every event there is (`SCTP_EVENTS`).
fn subscribe(fd: &OwnedFd) {
    set(fd, 11, &[1; 8]).unwrap();
}

#[test]
#[ignore = "needs the kernel companion"]
fn notifications_not_yet_read() {
    alone(&[]);
    let s = bound_to(MANY, &["10.1.0.1:5000"]);
    subscribe(&s);
    listen(&s);
    let c = bound_to(ONE, &["10.1.0.2:6000"]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    send(&c, 1, b"data");
    pause(200);
    let events = |fd: &OwnedFd| {
        let mut all = Vec::new();
        while let Ok(m) = hear(fd, 1000, libc::MSG_DONTWAIT) {
            all.push((m.flags, m.data));
        }
        all
    };
    let (s, _) = moved(s);
    let got = events(&s);
    assert!(got.iter().any(|(f, _)| f & 0x8000 != 0), "{got:?}");
    assert!(got.iter().any(|(_, d)| d == b"data"));
}

#[test]
#[ignore = "needs the kernel companion"]
fn what_an_ended_association_left_unread() {
    for kind in [ONE, MANY] {
        alone(&[]);
        let l = bound_to(kind, &["10.1.0.1:5000"]);
        subscribe(&l);
        listen(&l);
        let c = bound_to(ONE, &["10.1.0.2:6000"]);
        assert!(connect(&c, place("10.1.0.1:5000")));
        let s = if kind == ONE { accept(&l) } else { l };
        for n in 0..5u8 {
            send(&c, 1, &[n; 2000]);
        }
        pause(100);
        drop(c);
        pause(300);
        let (s, _) = moved(s);
        let mut data = Vec::new();
        let mut notifications = 0;
        while let Ok(m) = hear(&s, 10_000, libc::MSG_DONTWAIT) {
            if m.data.is_empty() {
                break;
            }
            if m.flags & 0x8000 != 0 {
                notifications += 1;
            } else {
                assert_eq!(m.stream, 1);
                data.push(m.data);
            }
        }
        let sent: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 2000]).collect();
        assert_eq!(data, sent);
        assert!(notifications > 1);
    }
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_message_read_in_part() {
    alone(&[]);
    let (s, c) = pair();
    send(&c, 1, &[5; 20_000]);
    send(&c, 2, b"next");
    pause(200);
    let first = hear(&s, 3000, 0).unwrap();
    assert_eq!((first.data.len(), first.flags & libc::MSG_EOR), (3000, 0));
    let (s, _) = moved(s);
    assert_eq!(recv(&s), (1, vec![5; 17_000]));
    assert_eq!(recv(&s), (2, b"next".to_vec()));
}

#[test]
#[ignore = "needs the kernel companion"]
fn partial_delivery_under_way() {
    alone(&[]);
    let s = bound_to(MANY, &["10.1.0.1:5000"]);
    set32(&s, 18, &[1]);
    set32(&s, 19, &[2000]); // SCTP_PARTIAL_DELIVERY_POINT
    listen(&s);
    let big = bound_to(ONE, &["10.1.0.2:6000"]);
    let small = bound_to(ONE, &["10.1.0.3:6000"]);
    for c in [&big, &small] {
        assert!(connect(c, place("10.1.0.1:5000")));
    }
    // More than the window takes at once: its front is delivered, its rest is on the way.
    let writer = std::thread::spawn({
        let big = big.try_clone().unwrap();
        move || send(&big, 1, &[9; 150_000])
    });
    pause(300);
    let mut got = hear(&s, 1500, 0).unwrap().data;
    send(&small, 2, b"behind");
    pause(200);
    let (s, _) = moved(s);
    let mut others = Vec::new();
    while got.len() < 150_000 || others.is_empty() {
        let m = hear(&s, 100_000, 0).unwrap();
        if m.stream == 1 {
            got.extend(m.data);
        } else {
            others.push(m.data);
        }
    }
    assert!(got.len() == 150_000 && got.iter().all(|b| *b == 9));
    assert_eq!(others, [b"behind"]);
    writer.join().unwrap();
}

#[test]
#[ignore = "needs the kernel companion"]
fn autoclose_goes_on_from_where_it_was() {
    alone(&[]);
    let s = bound_to(MANY, &["10.1.0.1:5000"]);
    set32(&s, 4, &[3]); // SCTP_AUTOCLOSE, s
    listen(&s);
    let c = bound_to(ONE, &["10.1.0.2:6000"]);
    assert!(connect(&c, place("10.1.0.1:5000")));
    send(&c, 1, b"last");
    assert_eq!(recv(&s), (1, b"last".to_vec()));
    pause(1500);
    let (s, _) = moved(s);
    let id = own_id(&s);
    assert_eq!(status(&s, id).1, 4);
    // A fresh timer would have 3 s to go.
    pause(2300);
    assert_eq!(get(&s, 29, vec![0; 64])[0], 0, "it was not closed");
    drop(c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn parameters_of_an_association() {
    alone(&[]);
    let (s, _c) = pair();
    set32(&s, 0, &[0, 400, 5000, 250]); // SCTP_RTOINFO
    set32(&s, 1, &[7, 0, 0, 30_000, 0]); // SCTP_ASSOCINFO, first word below
    set(
        &s,
        10,
        &[3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 42]
            .iter()
            .copied()
            .chain([0; 20])
            .collect::<Vec<u8>>(),
    )
    .unwrap(); // SCTP_DEFAULT_SEND_PARAM
    set32(&s, 16, &[0, 150, 3]); // SCTP_DELAYED_SACK
    set32(&s, 17, &[0, 77]); // SCTP_CONTEXT
    set32(&s, 20, &[0, 9]); // SCTP_MAX_BURST
    let all = |fd: &OwnedFd| {
        [
            (0, 16),
            (1, 20),
            (9, 156),
            (10, 32),
            (13, 8),
            (16, 12),
            (17, 8),
            (20, 8),
        ]
        .map(|(name, len)| get(fd, name, vec![0; len]))
    };
    let before = all(&s);
    let (s, _) = moved(s);
    assert_eq!(all(&s), before);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_shutdown_that_waits_for_data() {
    alone(&[]);
    let (s, c) = pair();
    let count = fill(&s, 3, 1000);
    shutdown_write(&s);
    assert_eq!(state(&s), 5);
    let (s, _) = moved(s);
    assert_eq!(state(&s), 5);
    drain(&c, count, 1000);
    ended(&c);
    ended(&s);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_shutdown_that_waits_is_not_given_up() {
    alone(&[]);
    let (s, c) = pair();
    let mut far = deaf(&c);
    send(&s, 1, b"still to come");
    shutdown_write(&s);
    // In and out of the mode, and by way of an image: no guard runs, none starts.
    assert_eq!(state(&s), 5);
    pause(300);
    assert_eq!(record(&s).shutdown_left, None);
    let (s, _) = moved(s);
    pause(300);
    assert_eq!(state(&s), 5);
    far.wake(c.as_fd()).unwrap();
    assert_eq!(recv(&c), (1, b"still to come".to_vec()));
    ended(&c);
    ended(&s);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_shutdown_the_peer_has_not_answered() {
    alone(&[]);
    let (s, c) = pair();
    let mut far = deaf(&c);
    shutdown_write(&s);
    until("SHUTDOWN to be sent", || state(&s) == 6);
    let (s, _) = moved(s);
    assert_eq!(state(&s), 6);
    far.wake(c.as_fd()).unwrap();
    ended(&c);
    ended(&s);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_shutdown_that_was_received() {
    alone(&[]);
    let (s, c) = pair();
    // The server has data for a peer that does not take it, and a SHUTDOWN of that peer.
    let count = fill(&s, 3, 1000);
    shutdown_write(&c);
    until("SHUTDOWN to arrive", || state(&s) == 7);
    let (s, _) = moved(s);
    assert_eq!(state(&s), 7);
    drain(&c, count, 1000);
    ended(&s);
    ended(&c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_shutdown_ack_the_peer_has_not_answered() {
    alone(&[]);
    let (s, c) = pair();
    // The peer goes deaf as soon as its SHUTDOWN is out: the answer is lost.
    sh(
        "nft add table t; nft add chain t i '{ type filter hook input priority 0; }'; \
        nft add rule t i ip saddr 10.1.0.1 sctp chunk shutdown-ack exists drop",
    );
    shutdown_write(&c);
    until("SHUTDOWN ACK to be sent", || state(&s) == 8);
    let (s, _) = moved(s);
    assert_eq!(state(&s), 8);
    sh("nft delete table t");
    ended(&s);
    ended(&c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_handshake_in_its_first_half() {
    alone(&[]);
    let l = server(ONE, &["10.1.0.1:5000"]);
    let mut far = deaf(&l);
    let c = bound_to(ONE | libc::SOCK_NONBLOCK, &["10.1.0.2:6000"]);
    assert!(!connect(&c, place("10.1.0.1:5000")));
    pause(100);
    assert_eq!(state(&c), 2);
    let (c, _) = moved(c);
    far.wake(l.as_fd()).unwrap();
    let s = accept(&l);
    until("the association", || state(&c) == 4);
    send(&s, 1, b"welcome");
    until("a message", || {
        hear(&c, 100, 0).is_ok_and(|m| m.data == b"welcome")
    });
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_handshake_with_addresses_the_peer_has_not_named() {
    alone(&[]);
    let l = server(ONE, &["10.1.0.1:5000"]);
    let mut far = deaf(&l);
    let c = bound_to(ONE | libc::SOCK_NONBLOCK, &["10.1.0.2:6000"]);
    // SCTP_SOCKOPT_CONNECTX: one of them is not the peer's.
    let to = ["10.1.0.1:5000", "10.1.0.4:5000"].map(|a| addr::bytes(place(a)));
    set(&c, 110, &to.concat()).unwrap_err();
    pause(100);
    assert_eq!(record(&c).paths.len(), 2);
    // An INIT that nobody hears would make it try the other address.
    let (c, _) = moved_asleep(&mut far, c);
    far.wake(l.as_fd()).unwrap();
    far.wake(c.as_fd()).unwrap();
    let s = accept(&l);
    until("the association", || state(&c) == 4);
    assert_eq!(record(&c).paths.len(), 1);
    send(&s, 1, b"welcome");
    until("a message", || {
        hear(&c, 100, 0).is_ok_and(|m| m.data == b"welcome")
    });
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_handshake_in_its_second_half() {
    alone(&[]);
    let l = server(ONE, &["10.1.0.1:5000"]);
    sh(
        "nft add table t; nft add chain t i '{ type filter hook input priority 0; }'; \
        nft add rule t i ip saddr 10.1.0.2 sctp chunk cookie-echo exists drop",
    );
    let c = bound_to(MANY | libc::SOCK_NONBLOCK, &["10.1.0.2:6000"]);
    assert!(!connect(&c, place("10.1.0.1:5000")));
    until("COOKIE ECHO to be sent", || state(&c) == 3);
    transmit_on(&c, own_id(&c), 1, 0, b"early", 0).unwrap();
    let (c, _) = moved(c);
    assert_eq!(state(&c), 3);
    sh("nft delete table t");
    let s = accept(&l);
    until("the association", || state(&c) == 4);
    assert_eq!(recv(&s), (1, b"early".to_vec()));
    send(&s, 1, b"welcome");
    until("a message", || {
        hear(&c, 100, 0).is_ok_and(|m| m.data == b"welcome")
    });
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_pending_error() {
    alone(&[]);
    let (s, c) = pair();
    // An ABORT of the peer: SO_LINGER with no time.
    let linger = [1i32, 0];
    set_number(c.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger);
    drop(c);
    pause(200);
    let (s, _) = moved(s);
    let e = hear(&s, 100, 0).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::ECONNRESET), "{e}");
}

#[test]
#[ignore = "needs the kernel companion"]
fn sockets_that_share_a_port() {
    alone(&[]);
    let member = || {
        let fd = socket(libc::AF_INET, ONE);
        set_number(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, &[1]);
        bind(&fd, place("10.1.0.1:5000"));
        listen(&fd);
        fd
    };
    let group = [member(), member(), member()];
    let group = group.map(|fd| moved(fd).0);
    for n in 0..6 {
        let c = bound_to(ONE, &[&format!("10.1.0.2:{}", 6000 + n)]);
        assert!(connect(&c, place("10.1.0.1:5000")));
    }
    drop(group);
}

#[test]
#[ignore = "needs the kernel companion"]
fn sockets_bound_to_a_device_and_a_vrf() {
    alone(&[]);
    sh("ip link add v0 type veth peer name v1; ip link add red type vrf table 10; ip link set red up; \
        ip link set v0 master red; ip link set v0 up; ip link set v1 up; \
        ip address add 10.2.0.1/24 dev v0; ip address add 10.2.0.2/32 dev v0");
    let to = |fd: &OwnedFd, device: &std::ffi::CStr| {
        let name: Vec<u8> = device.to_bytes_with_nul().to_vec();
        set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name);
    };
    let l = socket(libc::AF_INET, ONE);
    to(&l, c"red");
    // SCTP finds no address within a VRF before Linux 6.2.
    if kernel() < (6, 2) {
        let e = try_bind(&l, place("10.2.0.1:5000")).unwrap_err();
        assert_eq!(e.kind(), std::io::ErrorKind::AddrNotAvailable);
        return;
    }
    bind(&l, place("10.2.0.1:5000"));
    listen(&l);
    let c = socket(libc::AF_INET, ONE);
    to(&c, c"red");
    bind(&c, place("10.2.0.2:6000"));
    assert!(connect(&c, place("10.2.0.1:5000")));
    let s = accept(&l);
    let (s, _) = moved(s);
    let (c, _) = moved(c);
    let (_l, _) = moved(l);
    both_ways(&s, &c);
}

#[test]
#[ignore = "needs the kernel companion"]
fn an_id_that_is_taken_is_named() {
    alone(&[]);
    let (s, _c) = pair();
    let mut repair = Repair::open().unwrap();
    repair.freeze(s.as_fd()).unwrap();
    let (image, _) = write(&mut repair, &s);
    let e = read(&mut repair, &image).unwrap_err();
    assert!(matches!(e, Error::Refused { .. }), "{e}");
    repair.release(s.as_fd()).unwrap();
}
