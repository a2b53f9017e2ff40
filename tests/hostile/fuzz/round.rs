// SPDX-License-Identifier: GPL-2.0-only
//! One round: associations, what a dump reads of them, and that played back wrongly.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use telecr::netlink::{Error, Genl, Writer};
use telecr::sctp::addr;

use super::mutate::{encode, mutate, Attr, NESTED};
use super::spec::{Kind, Sets};
use super::Tally;
use crate::pair;
use crate::rng::Rng;

// Commands of the family, as in `uapi/sctp_repair.h`.
const MODE_SET: u8 = 1;
const SOCK_GET: u8 = 2;
const ASSOC_GET: u8 = 3;
const STREAM_GET: u8 = 4;
const CHUNK_GET: u8 = 5;
const SOCK_SET: u8 = 6;
const ASSOC_NEW: u8 = 7;
const STREAM_SET: u8 = 8;
const CHUNK_ADD: u8 = 9;
const LAST: u64 = 10;

/// Associations of a round, one after another.
const PLAYS: u16 = 40;

const OFF: u32 = 0;
const ON: u32 = 1;
const QUIET: u32 = 2;

/// Reading, and what sets it again.
const READS: [(u8, u8, &str); 4] = [
    (SOCK_GET, SOCK_SET, "sock"),
    (ASSOC_GET, ASSOC_NEW, "assoc"),
    (STREAM_GET, STREAM_SET, "stream"),
    (CHUNK_GET, CHUNK_ADD, "chunk"),
];

/// Attributes that sock-set refuses, since bind() and listen() set them.
const NOT_SET: [u16; 6] = [2, 4, 5, 9, 10, 11];

struct Round<'a> {
    rng: &'a mut Rng,
    sets: &'a Sets,
    tally: &'a mut Tally,
    genl: Genl,
    /// What the kernel last refused, in its words.
    refusal: String,
}

/// A message to play back: command, its set, its attributes.
type Recorded = (u8, &'static str, Vec<Attr>);

/// The shape of a pair.
struct Shape {
    server: SocketAddr,
    client: SocketAddr,
    many: bool,
}

pub fn run(rng: &mut Rng, sets: &Sets, tally: &mut Tally) {
    let sysctl = |yes: bool| if yes { "1" } else { "0" };
    let (interleaving, auth) = (rng.percent(40), rng.percent(40));
    pair::alone(&[
        ("sctp.intl_enable", sysctl(interleaving)),
        ("sctp.auth_enable", sysctl(auth)),
        ("sctp.addip_enable", "1"),
        ("sctp.addip_noauth_enable", "1"),
        ("sctp.reconf_enable", "1"),
        // Much happens in a round: short times, and patience where the machine is slow.
        ("sctp.rto_min", "50"),
        ("sctp.rto_initial", "50"),
        ("sctp.rto_max", "500"),
        ("sctp.association_max_retrans", "50"),
        ("sctp.max_init_retransmits", "20"),
        ("sctp.hb_interval", "200"),
    ]);
    let genl = Genl::connect("sctp_repair").expect("the companion");
    let mut round = Round {
        rng,
        sets,
        tally,
        genl,
        refusal: String::new(),
    };
    let mut before = users();
    for n in 0..PLAYS {
        round.story(format_args!(
            "play {n}, {} messages, interleaving {interleaving}, auth {auth}",
            round.tally.messages
        ));
        round.play(n, auth);
        if tracing() {
            // Of the sockets of this network namespace only the kernel's own is left.
            let mut more = users();
            for _ in 0..100 {
                if more == before {
                    break;
                }
                std::thread::sleep(Duration::from_millis(30));
                more = users();
            }
            round.story(format_args!(
                "play {n} leaves {more} users of the module of {before}"
            ));
            before = more;
        }
    }
}

fn tracing() -> bool {
    std::env::var_os("TELECR_FUZZ_TRACE").is_some()
}

fn users() -> String {
    let text = std::fs::read_to_string("/sys/module/sctp/refcnt");
    text.unwrap_or_default().trim().to_string()
}

impl Round<'_> {
    fn shape(&mut self, n: u16) -> Shape {
        let place = |v6: bool, host: u8, port: u16| -> SocketAddr {
            let text = if v6 {
                format!("[fd01::{host}]:{port}")
            } else {
                format!("10.1.0.{host}:{port}")
            };
            text.parse().expect("an address")
        };
        let v6 = self.rng.percent(40);
        Shape {
            server: place(v6, 1, 5000 + n),
            client: place(v6, 2, 6000 + n),
            many: self.rng.percent(50),
        }
    }

    fn socket(&mut self, at: SocketAddr, many: bool) -> OwnedFd {
        let kind = if many {
            libc::SOCK_SEQPACKET
        } else {
            libc::SOCK_STREAM
        };
        let domain = if at.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let fd = pair::socket(domain, kind | libc::SOCK_NONBLOCK);
        let _ = pair::set(&fd, 18, &2u32.to_ne_bytes()); // SCTP_FRAGMENT_INTERLEAVE
        let _ = pair::set(&fd, 125, &[0, 0, 0, 0, 1, 0, 0, 0]); // SCTP_INTERLEAVING_SUPPORTED
        let _ = pair::set(&fd, 11, &[1; 13]); // SCTP_EVENTS
        fd
    }

    /// An association between two sockets, things waiting in most of its queues.
    fn pair(&mut self, shape: &Shape, auth: bool) -> Option<(OwnedFd, OwnedFd, bool)> {
        let listener = self.socket(shape.server, shape.many);
        let client = self.socket(shape.client, false);
        for fd in [&listener, &client] {
            if auth {
                // DATA and I-DATA: Linux gives I-DATA a key where only DATA is to be authenticated, no AUTH chunk
                // with it, and never sends it (sctp_packet_will_fit()).
                for chunk in [0, 64] {
                    let _ = pair::set(fd, 21, &[chunk]);
                }
                let _ = pair::set(fd, 23, &[0, 0, 0, 0, 1, 0, 4, 0, 1, 2, 3, 4]);
                let _ = pair::set(fd, 24, &[0, 0, 0, 0, 1, 0, 0, 0]);
            }
        }
        pair::bind(&listener, shape.server);
        if self.rng.percent(40) {
            let mut second = shape.server;
            second.set_ip(
                if second.is_ipv4() {
                    "10.1.0.3".parse()
                } else {
                    "10.1.0.4".parse()
                }
                .expect("an address"),
            );
            let _ = pair::set(&listener, 100, &addr::bytes(second));
        }
        pair::bind(&client, shape.client);
        pair::listen(&listener);
        if !pair::connect(&client, shape.server) {
            wait(&client, libc::POLLOUT);
        }
        let server = if shape.many {
            listener
        } else {
            accept(&listener)?
        };
        let mut leaving = false;
        // What the peer does not answer meanwhile is there to be read.
        if self.rng.percent(50) {
            self.mode(&client, ON);
            leaving = self.requests(&server, shape);
        }
        for n in 0..self.rng.below(12) {
            let size = self.rng.pick(&[10usize, 100, 3000, 20_000]);
            let stream = u16::try_from(n % 4).expect("small");
            try_transmit(&client, stream, size, self.rng.percent(30));
            if !shape.many {
                try_transmit(&server, stream, size, self.rng.percent(30));
            }
        }
        Some((server, client, leaving))
    }

    /// Has it ask the peer for something: new streams, reset ones, another address, or the end; whether it was the end.
    fn requests(&mut self, fd: &OwnedFd, shape: &Shape) -> bool {
        if self.rng.percent(40) {
            let _ = pair::set(fd, 118, &[0, 0, 0, 0, 7, 0, 0, 0]); // SCTP_ENABLE_STREAM_RESET
            let kind = self.rng.below(3);
            self.story(format_args!("reset {kind}"));
            let _ = match kind {
                0 => pair::set(fd, 121, &[0, 0, 0, 0, 2, 0, 3, 0]), // SCTP_ADD_STREAMS
                1 => pair::set(fd, 119, &[0, 0, 0, 0, 2, 0, 1, 0, 3, 0]), // SCTP_RESET_STREAMS
                _ => pair::set(fd, 120, &[0, 0, 0, 0]),             // SCTP_RESET_ASSOC
            };
        }
        if self.rng.percent(40) {
            let mut more = shape.server;
            more.set_ip(
                if more.is_ipv4() {
                    "10.1.0.4".parse()
                } else {
                    "fd01::2".parse()
                }
                .expect("an address"),
            );
            self.story(format_args!("one more address"));
            let _ = pair::set(fd, 100, &addr::bytes(more));
        }
        let leaving = self.rng.percent(10);
        if leaving {
            // SAFETY: no pointers are passed.
            unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
        }
        leaving
    }

    /// Sends a message; true when the kernel took it.
    fn send(&mut self, command: u8, attrs: &[Attr]) -> bool {
        let mut writer = Writer::new();
        writer.append(&encode(attrs));
        self.tally.messages += 1;
        let done = if (ASSOC_GET..=CHUNK_GET).contains(&command) && !self.rng.percent(2) {
            self.genl.dump(command, &writer, |_| Ok::<(), Error>(()))
        } else {
            self.genl.request(command, &writer, |_| Ok(()))
        };
        match done {
            Ok(()) => {
                self.tally.taken += 1;
                true
            }
            Err(Error::Refused(r)) => {
                *self.tally.refused.entry(r.errno).or_default() += 1;
                self.refusal = r.to_string();
                false
            }
            // Longer than a message may be.
            Err(_) => false,
        }
    }

    fn mode(&mut self, fd: &OwnedFd, mode: u32) -> bool {
        let attrs = [named(fd), Attr::new(2, mode.to_ne_bytes().to_vec())];
        self.send(MODE_SET, &attrs)
    }

    /// A line on what is done, for a round that failed.
    fn story(&self, what: std::fmt::Arguments<'_>) {
        if tracing() {
            println!("  {what}");
        }
    }

    /// All that a dump reads, as the messages that would set it again.
    fn record(&mut self, fd: &OwnedFd) -> Vec<Recorded> {
        let mut all: Vec<Recorded> = Vec::new();
        let sets = self.sets;
        for (get, set, name) in READS {
            let mut writer = Writer::new();
            writer.append(&encode(&[named(fd)]));
            let mut take = |bytes: telecr::netlink::Attrs<'_>| {
                let mut attrs = vec![named(fd)];
                for a in bytes {
                    let (number, value) = a?;
                    if get != SOCK_GET || !NOT_SET.contains(&number) {
                        let kind = sets[name].get(usize::from(number) - 1);
                        let nest = matches!(kind, Some(Kind::Nest(_)));
                        let mark = if nest { NESTED } else { 0 };
                        attrs.push(Attr::new(number | mark, value.to_vec()));
                    }
                }
                all.push((set, name, attrs));
                Ok::<(), Error>(())
            };
            let done = if get == SOCK_GET {
                self.genl.request(get, &writer, take)
            } else {
                self.genl.dump(get, &writer, &mut take)
            };
            self.tally.messages += 1;
            self.tally.taken += 1;
            done.expect("reading a socket in repair mode");
        }
        sort_sent(&mut all);
        // A listener's state is set by listen().
        for (_, _, attrs) in all.iter_mut().filter(|(set, ..)| *set == SOCK_SET) {
            attrs.retain(|a| a.number != 3 || a.value != 10u32.to_ne_bytes());
        }
        all
    }

    fn play(&mut self, n: u16, auth: bool) {
        let shape = self.shape(n);
        let Some((server, peer, leaving)) = self.pair(&shape, auth) else {
            return;
        };
        if self.rng.percent(30) {
            std::thread::sleep(Duration::from_millis(self.rng.within(0..=10)));
        }
        self.strike(&server, 4);
        if !self.mode(&server, ON) {
            return;
        }
        let recorded = self.record(&server);
        self.strike(&server, 100);
        self.story(format_args!(
            "{} answer {leaving} {}, {} recorded",
            shape.server,
            shape.many,
            recorded.len()
        ));
        // It hears of nothing meanwhile, else an ABORT would tell it that nobody is there.
        self.mode(&peer, ON);
        drop(server);

        let fd = self.socket(shape.server, shape.many);
        assert!(self.mode(&fd, ON));
        pair::bind(&fd, shape.server);
        if shape.many {
            pair::listen(&fd);
        }
        // How often a message is changed: never, seldom, often.
        let chance = self.rng.pick(&[0, 5, 30, 80]);
        self.story(format_args!("chance {chance}"));
        for (command, set, attrs) in &recorded {
            let mut attrs = attrs.clone();
            attrs[0] = named(&fd);
            let mut refused = false;
            if self.rng.percent(chance) {
                let mut other = attrs.clone();
                for _ in 0..self.rng.within(1..=3u64) {
                    mutate(self.rng, self.sets, set, &mut other, true);
                }
                refused = !self.send(*command, &other);
            }
            // As it should be, after all.
            if chance == 0 || refused || self.rng.percent(70) {
                let taken = self.send(*command, &attrs);
                assert!(
                    taken || chance > 0,
                    "command {command} is not taken back: {}: {attrs:?}",
                    self.refusal
                );
            }
            if self.rng.percent(chance / 4) {
                self.strike(&fd, 2);
                self.use_it(&fd);
            }
        }
        if chance == 0 && !leaving {
            self.goes_on(&fd, &peer);
        }
        self.let_loose(fd, &peer);
    }

    /// What was read and set again unchanged is the association it was.
    fn goes_on(&mut self, fd: &OwnedFd, peer: &OwnedFd) {
        assert!(self.mode(fd, OFF));
        assert!(self.mode(peer, OFF));
        let size = 777;
        let mut sent = false;
        for _ in 0..4000 {
            sent = sent || try_transmit(peer, 1, size, false);
            match pair::hear(fd, 1 << 17, libc::MSG_DONTWAIT) {
                Ok(m) if m.data.len() == size => {
                    self.tally.survived += 1;
                    return;
                }
                Ok(m) => assert!(!m.data.is_empty(), "the association has ended"),
                Err(_) => {
                    let _ = pair::hear(peer, 1 << 17, libc::MSG_DONTWAIT);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        let state = ["assocs", "remaddr", "snmp"].map(|file| {
            std::fs::read_to_string(format!("/proc/thread-self/net/sctp/{file}"))
                .unwrap_or_default()
        });
        panic!(
            "an association set up as it was does not go on, message sent: {sent}\n{}",
            state.join("\n")
        );
    }

    /// Messages of any kind, most of them wrong, on one socket.
    fn strike(&mut self, fd: &OwnedFd, most: u64) {
        for _ in 0..self.rng.within(0..=most) {
            let (_, set, name) = self.rng.pick(&READS);
            let command = if self.rng.percent(70) {
                set
            } else {
                self.rng.within(2..=LAST)
            };
            let mut attrs = vec![named(fd)];
            for _ in 0..self.rng.within(0..=8u64) {
                mutate(self.rng, self.sets, name, &mut attrs, true);
            }
            self.send(command, &attrs);
        }
    }

    /// What an application might do meanwhile.
    fn use_it(&mut self, fd: &OwnedFd) {
        match self.rng.below(8) {
            0 => {
                try_transmit(fd, 1, 500, false);
            }
            1 => {
                let _ = pair::hear(fd, 3000, libc::MSG_DONTWAIT);
            }
            2 => look(fd, 14, 176),
            3 => look(fd, 108, 1024),
            4 => {
                // SAFETY: no pointers are passed.
                unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) };
            }
            5 => {
                let _ = pair::set(fd, 123, &[0, 0, 0, 0, self.rng.within(0..=4), 0, 0, 0]);
            }
            6 => {
                let mode = self.rng.pick(&[OFF, ON, QUIET]);
                self.mode(fd, mode);
                self.mode(fd, ON);
            }
            _ => {
                for (get, ..) in READS {
                    self.send(get, &[named(fd)]);
                }
            }
        }
    }

    /// Ends repair mode, talks, and closes in one way or the other.
    fn let_loose(&mut self, fd: OwnedFd, peer: &OwnedFd) {
        if self.rng.percent(20) {
            self.strike(&fd, 3);
        }
        match self.rng.below(8) {
            0 => return, // closed in repair mode
            1 => {
                self.mode(&fd, QUIET);
            }
            _ => {
                self.mode(&fd, OFF);
            }
        }
        let answer = self.rng.pick(&[OFF, QUIET]);
        self.mode(peer, answer);
        for _ in 0..self.rng.within(1..=6u64) {
            try_transmit(peer, 1, 700, false);
            try_transmit(&fd, 1, 700, false);
            let _ = pair::hear(&fd, 2000, libc::MSG_DONTWAIT);
            let _ = pair::hear(peer, 2000, libc::MSG_DONTWAIT);
        }
        if self.rng.percent(30) {
            std::thread::sleep(Duration::from_millis(self.rng.within(0..=60)));
            while pair::hear(&fd, 1 << 16, libc::MSG_DONTWAIT).is_ok_and(|m| !m.data.is_empty()) {}
        }
        // What was told to try for ever would.
        end_with_abort(&fd);
        if self.rng.percent(50) {
            end_with_abort(peer);
        }
        drop(fd);
    }
}

/// What was sent is listed path by path, and taken back in the order of TSNs, as the tool does.
fn sort_sent(all: &mut [Recorded]) {
    let value = |attrs: &[Attr], number: u16, at: usize| -> Option<[u8; 4]> {
        let found = attrs.iter().find(|a| a.number == number)?;
        found.value.get(at..at + 4)?.try_into().ok()
    };
    // SCTP_REPAIR_A_CHUNK_QUEUE, and the TSN in SCTP_REPAIR_A_CHUNK_DATA.
    let sent = |r: &Recorded| r.0 == CHUNK_ADD && value(&r.2, 3, 0) == Some([0; 4]);
    let tsn = |r: &Recorded| value(&r.2, 5, 4).map_or(0, u32::from_be_bytes);
    for run in all.chunk_by_mut(|a, b| sent(a) && sent(b)) {
        let base = tsn(&run[0]).wrapping_add(1 << 31);
        run.sort_by_key(|r| tsn(r).wrapping_sub(base));
    }
}

/// The attribute that names the socket.
fn named(fd: &OwnedFd) -> Attr {
    Attr::new(1, fd.as_raw_fd().to_ne_bytes().to_vec())
}

fn wait(fd: &OwnedFd, events: i16) {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: `poll` lives across the call.
    unsafe { libc::poll(&raw mut poll, 1, 5000) };
}

fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    wait(listener, libc::POLLIN);
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: null pointers are allowed here.
    let raw = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            flags,
        )
    };
    // SAFETY: fresh from the kernel.
    (raw >= 0).then(|| unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Whether the socket took a message.
fn try_transmit(fd: &OwnedFd, stream: u16, size: usize, unordered: bool) -> bool {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    pair::transmit_on(fd, 0, stream, u16::from(unordered), &vec![7; size], flags).is_ok()
}

/// Reads an SCTP option, whatever comes of it.
fn look(fd: &OwnedFd, name: i32, len: u32) {
    let mut value = vec![0u8; usize::try_from(len).unwrap()];
    let mut len = len;
    // SAFETY: `value` is as long as said and both live across the call.
    unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_SCTP,
            name,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
}

/// Has close() send an ABORT.
fn end_with_abort(fd: &OwnedFd) {
    pair::set_option(
        fd,
        libc::SOL_SOCKET,
        libc::SO_LINGER,
        &[1, 0, 0, 0, 0, 0, 0, 0],
    );
}
