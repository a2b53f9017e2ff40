// SPDX-License-Identifier: GPL-2.0-only
//! Dump and restore against a real kernel companion and the GTP driver, both ends on this host.
//!
//! They need root and telecr's `sctp` module, so they run only when asked for:
//! `cargo test --test companion -- --ignored --test-threads 1`

mod gtp;
mod kinds;
mod pair;

use std::os::fd::{AsFd, OwnedFd};

use pair::{accept, connected, listener, recv, send, set_number};
use telecr::image;
use telecr::lock;
use telecr::netlink::local_addresses;
use telecr::sctp::repair::Repair;
use telecr::sctp::{dump, list, options, restore, Error, Summary};

const SCTP: i32 = libc::IPPROTO_SCTP;

fn write(repair: &mut Repair, fd: &OwnedFd) -> (Vec<u8>, Summary) {
    let mut out = image::Writer::new(Vec::new(), image::sctp_header(repair.version())).unwrap();
    let summary = dump::dump(repair, fd.as_fd(), &mut out).unwrap();
    (out.finish().unwrap(), summary)
}

fn read(repair: &mut Repair, image: &[u8]) -> Result<(OwnedFd, Summary), Error> {
    let here = local_addresses().unwrap();
    restore::restore(repair, &mut image::Reader::new(image).unwrap(), &here)
}

/// Freezes, dumps, closes, restores and wakes.
fn moved(fd: OwnedFd) -> (OwnedFd, Summary) {
    let mut repair = Repair::open().unwrap();
    let (fd, summary) = moved_asleep(&mut repair, fd);
    repair.wake(fd.as_fd()).unwrap();
    (fd, summary)
}

/// The same, but does not wake it yet.
fn moved_asleep(repair: &mut Repair, fd: OwnedFd) -> (OwnedFd, Summary) {
    repair.freeze(fd.as_fd()).unwrap();
    assert!(repair.is_frozen(fd.as_fd()).unwrap());
    let (image, dumped) = write(repair, &fd);
    // What the peer sends now would draw an ABORT.
    let here: Vec<_> = local_addresses().unwrap().into_iter().collect();
    lock::lock(&here, lock::LIMIT).unwrap();
    drop(fd);
    let (fd, restored) = read(repair, &image).unwrap();
    lock::unlock(&here).unwrap();
    assert_eq!(dumped, restored);
    // What was restored dumps the same way again.
    let (again, _) = write(repair, &fd);
    compare(&image, &again);
    (fd, restored)
}

fn compare(a: &[u8], b: &[u8]) {
    let bodies = |bytes| {
        let mut r = image::Reader::new(bytes).unwrap();
        let mut all = Vec::new();
        while let Some(body) = r.next_record().unwrap() {
            all.push(format!("{body:?}"));
        }
        all
    };
    let (a, b) = (bodies(a), bodies(b));
    for (x, y) in a.iter().zip(&b) {
        if x != y {
            println!("differs after restore:\n  {x:.300}\n  {y:.300}");
        }
    }
    assert_eq!(a.len(), b.len());
}

#[test]
#[ignore = "needs the kernel companion"]
fn an_association_goes_on_in_both_families() {
    for (server, client) in [
        ("127.0.0.1:7001", "127.0.0.1:7002"),
        ("[::1]:7001", "[::1]:7002"),
    ] {
        let l = listener(server);
        let c = connected(client, server);
        let s = accept(&l);
        send(&c, 1, b"before");
        assert_eq!(recv(&s), (1, b"before".to_vec()));
        let (s, summary) = moved(s);
        assert_eq!(summary.associations, 1);
        for n in 0..20u8 {
            let stream = u16::from(n % 10);
            send(&c, stream, &[n; 100]);
            assert_eq!(recv(&s), (stream, vec![n; 100]));
            send(&s, 3, &[n; 50]);
            assert_eq!(recv(&c), (3, vec![n; 50]));
        }
    }
}

#[test]
#[ignore = "needs the kernel companion"]
fn waiting_data_comes_in_order_in_both_directions() {
    let l = listener("127.0.0.1:7011");
    let c = connected("127.0.0.1:7012", "127.0.0.1:7011");
    let s = accept(&l);
    // Unread, of several sizes, one of many fragments.
    let sizes = [10, 3000, 60_000, 1, 20_000];
    for (n, len) in sizes.into_iter().enumerate() {
        let n = u8::try_from(n).unwrap();
        send(&c, u16::from(n % 3), &vec![n; len]);
    }
    // To the peer, more than it takes while it does not read.
    let mut unread = 0u32;
    while pair::try_send(&s, 2, &[&unread.to_ne_bytes()[..], &[7; 1200]].concat()) {
        unread += 1;
    }
    println!("{unread} messages wait");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (s, summary) = moved(s);
    println!("{summary:?}");
    assert!(summary.outgoing > 0 && summary.incoming > 0);
    for (n, len) in sizes.into_iter().enumerate() {
        let n = u8::try_from(n).unwrap();
        let (stream, data) = recv(&s);
        assert_eq!((stream, data.len()), (u16::from(n % 3), len));
        assert!(data.iter().all(|b| *b == n));
    }
    for n in 0..unread {
        let (stream, data) = recv(&c);
        assert_eq!(
            (stream, data.get(..4)),
            (2, Some(&n.to_ne_bytes()[..])),
            "message {n}"
        );
    }
}

#[test]
#[ignore = "needs the kernel companion"]
fn associations_not_yet_accepted_are_still_there() {
    let l = listener("127.0.0.1:7021");
    let clients = ["127.0.0.1:7022", "127.0.0.1:7023", "127.0.0.1:7024"]
        .map(|c| connected(c, "127.0.0.1:7021"));
    for c in &clients {
        send(c, 0, b"waiting");
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let (l, summary) = moved(l);
    assert!(summary.listening);
    assert_eq!(summary.associations, 3);
    for _ in &clients {
        let s = accept(&l);
        assert_eq!(recv(&s), (0, b"waiting".to_vec()));
        send(&s, 0, b"welcome");
    }
    for c in &clients {
        assert_eq!(recv(c), (0, b"welcome".to_vec()));
    }
}

#[test]
#[ignore = "needs the kernel companion"]
fn sockets_bound_to_any_address_move() {
    for (server, to, client) in [
        ("0.0.0.0:7071", "127.0.0.1:7071", "127.0.0.1:7072"),
        ("[::]:7073", "[::1]:7073", "[::1]:7074"),
        ("[::]:7075", "127.0.0.1:7075", "127.0.0.1:7076"),
        ("127.0.0.1:7077", "127.0.0.1:7077", "0.0.0.0:0"),
    ] {
        println!("{server} from {client}");
        let l = listener(server);
        let c = connected(client, to);
        let s = accept(&l);
        // All three, in an order in which each finds its port taken.
        let (s, _) = moved(s);
        let (l, _) = moved(l);
        // A peer bound to any IPv6 address has IPv4 addresses too: multi-homing.
        let c = if server.starts_with("[::]") {
            c
        } else {
            moved(c).0
        };
        for n in 0..5u8 {
            send(&c, 1, &[n; 100]);
            assert_eq!(recv(&s), (1, vec![n; 100]));
            send(&s, 2, &[n; 100]);
            assert_eq!(recv(&c), (2, vec![n; 100]));
        }
        let c2 = connected(&client.replace(":70", ":71"), to);
        let s2 = accept(&l);
        send(&c2, 0, b"new");
        assert_eq!(recv(&s2), (0, b"new".to_vec()));
    }
}

#[test]
#[ignore = "needs the kernel companion"]
fn sockets_without_associations_move() {
    let (fresh, summary) = moved(pair::fresh(libc::AF_INET6, libc::SOCK_NONBLOCK));
    assert_eq!(summary, Summary::default());
    assert_eq!(pair::status_flags(&fresh), libc::O_RDWR | libc::O_NONBLOCK);
    pair::set_status_flags(&fresh, libc::O_ASYNC);
    let (fresh, _) = moved(fresh);
    assert_eq!(pair::status_flags(&fresh), libc::O_RDWR | libc::O_ASYNC);
    let (bound, summary) = moved(pair::bound("127.0.0.1:7081"));
    assert_eq!(summary.local, ["127.0.0.1:7081".parse().unwrap()]);
    assert!(!summary.listening);
    drop((fresh, bound));
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_socket_with_a_bpf_filter_is_refused_and_lives_on() {
    let l = listener("127.0.0.1:7085");
    let c = connected("127.0.0.1:7086", "127.0.0.1:7085");
    let s = accept(&l);
    pair::filter(&s, true);
    let mut repair = Repair::open().unwrap();
    repair.freeze(s.as_fd()).unwrap();
    let mut out = image::Writer::new(Vec::new(), image::sctp_header(repair.version())).unwrap();
    let e = dump::dump(&mut repair, s.as_fd(), &mut out).unwrap_err();
    assert!(matches!(e, Error::Filter { port: 7085 }), "{e}");
    repair.release(s.as_fd()).unwrap();
    send(&c, 0, b"heard");
    assert_eq!(recv(&s), (0, b"heard".to_vec()));
    pair::filter(&s, false);
    let (s, _) = moved(s);
    send(&c, 0, b"moved");
    assert_eq!(recv(&s), (0, b"moved".to_vec()));
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_missing_address_is_refused_and_a_retry_succeeds() {
    let ip = |verb: &str, address: &str| {
        let words = ["address", verb, address, "dev", "lo"];
        let busybox = std::path::Path::new("/bin/busybox").exists();
        let mut ip = std::process::Command::new(if busybox { "/bin/busybox" } else { "ip" });
        if busybox {
            ip.arg("ip");
        }
        assert!(ip.args(words).status().unwrap().success());
    };
    let server = "192.0.2.77/32";
    let client = "192.0.2.78/32";
    ip("add", server);
    ip("add", client);
    let l = listener("192.0.2.77:7091");
    let c = connected("192.0.2.78:7092", "192.0.2.77:7091");
    let s = accept(&l);
    let mut repair = Repair::open().unwrap();
    repair.freeze(s.as_fd()).unwrap();
    let (image, _) = write(&mut repair, &s);
    drop((s, l));
    ip("del", server);
    let e = read(&mut repair, &image).unwrap_err();
    assert!(matches!(e, Error::AddressMissing { .. }), "{e}");
    ip("add", server);
    let (s, _) = read(&mut repair, &image).unwrap();
    repair.wake(s.as_fd()).unwrap();
    send(&c, 0, b"back");
    assert_eq!(recv(&s), (0, b"back".to_vec()));
    ip("del", server);
    ip("del", client);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_cut_image_sends_nothing_and_a_retry_succeeds() {
    let l = listener("127.0.0.1:7095");
    let c = connected("127.0.0.1:7096", "127.0.0.1:7095");
    let s = accept(&l);
    for _ in 0..50 {
        send(&c, 0, &[1; 500]);
    }
    let mut repair = Repair::open().unwrap();
    repair.freeze(s.as_fd()).unwrap();
    let (image, _) = write(&mut repair, &s);
    // The attempts may take longer than the peer's timer, and nobody is there to keep quiet.
    let here = ["127.0.0.1".parse().unwrap()];
    telecr::lock::lock(&here, telecr::lock::LIMIT).unwrap();
    drop(s);
    for cut in (100..image.len()).step_by(image.len() / 40) {
        let Ok(mut half) = image::Reader::new(&image[..cut]) else {
            continue;
        };
        restore::restore(&mut repair, &mut half, &local_addresses().unwrap()).unwrap_err();
    }
    let (s, _) = read(&mut repair, &image).unwrap();
    telecr::lock::unlock(&here).unwrap();
    repair.wake(s.as_fd()).unwrap();
    for _ in 0..50 {
        assert_eq!(recv(&s), (0, vec![1; 500]));
    }
    send(&s, 0, b"done");
    assert_eq!(recv(&c), (0, b"done".to_vec()));
}

#[test]
#[ignore = "needs the kernel companion"]
fn options_survive() {
    let l = listener("127.0.0.1:7031");
    let fd = l.as_fd();
    for (level, name, value) in [
        (libc::SOL_SOCKET, libc::SO_RCVBUF, 123_456),
        (libc::SOL_SOCKET, libc::SO_SNDBUF, 98_304),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::SOL_SOCKET, libc::SO_PRIORITY, 5),
        (libc::SOL_SOCKET, libc::SO_MARK, 42),
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1),
        (libc::SOL_SOCKET, libc::SO_TIMESTAMPING, 0x18),
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1),
        (libc::SOL_SOCKET, 75, 1), // SO_RCVMARK
        (libc::IPPROTO_IP, libc::IP_TOS, 0xb8),
        (SCTP, 3, 1),     // NODELAY
        (SCTP, 7, 4711),  // ADAPTATION_LAYER
        (SCTP, 18, 1),    // FRAGMENT_INTERLEAVE
        (SCTP, 19, 1000), // PARTIAL_DELIVERY_POINT
        (SCTP, 32, 1),    // RECVRCVINFO
    ] {
        set_number(fd, level, name, &[value]);
    }
    set_number(fd, SCTP, 0, &[0, 500, 5000, 200]); // RTOINFO
    set_number(fd, SCTP, 13, &[0, 700]); // MAXSEG
    set_number(fd, SCTP, 17, &[0, 99]); // CONTEXT
    set_number(fd, SCTP, 16, &[0, 50, 3]); // DELAYED_SACK
    let before = options::read(fd, false).unwrap();
    let (l, _) = moved(l);
    assert_eq!(options::read(l.as_fd(), false).unwrap(), before);

    let l = listener("[::1]:7033");
    // IPV6_PREFER_SRC_PUBLIC
    let prefer = (libc::IPPROTO_IPV6, libc::IPV6_ADDR_PREFERENCES);
    set_number(l.as_fd(), prefer.0, prefer.1, &[2]);
    let before = options::read(l.as_fd(), false).unwrap();
    let (l, _) = moved(l);
    assert_eq!(options::read(l.as_fd(), false).unwrap(), before);
}

#[test]
#[ignore = "needs the kernel companion"]
fn a_second_restore_is_refused_and_harms_nobody() {
    let l = listener("127.0.0.1:7041");
    let c = connected("127.0.0.1:7042", "127.0.0.1:7041");
    let s = accept(&l);
    let mut repair = Repair::open().unwrap();
    repair.freeze(s.as_fd()).unwrap();
    let (image, _) = write(&mut repair, &s);
    let e = read(&mut repair, &image).unwrap_err();
    println!("{e}");
    repair.release(s.as_fd()).unwrap();
    let e2 = read(&mut repair, &image).unwrap_err();
    println!("{e2}");
    assert!(matches!(e2, Error::Refused { .. }));
    send(&c, 0, b"alive");
    assert_eq!(recv(&s), (0, b"alive".to_vec()));
}

#[test]
#[ignore = "needs the kernel companion"]
fn reading_without_freezing_is_refused_in_words() {
    let l = listener("127.0.0.1:7051");
    let mut repair = Repair::open().unwrap();
    let e = repair.associations(l.as_fd(), |_| Ok(())).unwrap_err();
    println!("{e}");
    assert!(e.to_string().contains("repair mode"), "{e}");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let e = repair.freeze(udp.as_fd()).unwrap_err();
    assert!(e.to_string().contains("not an SCTP socket"), "{e}");
}

#[test]
#[ignore = "needs the kernel companion"]
fn sockets_are_listed_with_their_holders() {
    let l = listener("127.0.0.1:7061");
    let c = connected("127.0.0.1:7062", "127.0.0.1:7061");
    let mine = i32::try_from(std::process::id()).unwrap();
    for found in [list::of_process(mine).unwrap(), list::all().unwrap()] {
        println!("{found:#?}");
        let port = |p| move |s: &&list::Socket| s.local.iter().any(|a| a.port() == p);
        let server = found
            .iter()
            .filter(port(7061))
            .find(|s| s.state == list::State::Listen)
            .unwrap();
        assert!(server.holders.iter().any(|h| h.pid == mine));
        let client: Vec<_> = found.iter().filter(port(7062)).collect();
        assert_eq!(client.len(), 1);
        assert_eq!(client[0].state, list::State::Established);
        assert_eq!(client[0].peer, ["127.0.0.1:7061".parse().unwrap()]);
    }
    drop((l, c));
}
