// SPDX-License-Identifier: GPL-2.0-only
//! The sockets of a seed and their associations, while the wire is still good.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use telecr::sctp::addr;

use super::ends::{End, Place, Policy, Sock};
use super::ledger::{Ledger, Message};
use super::net::Net;
use super::plan::{Homing, Plan, Style};
use crate::pair;

const SERVER_PORT: u16 = 5000;
pub const SERVER: usize = 0;
pub const CLIENT: usize = 1;

/// Options of every socket, before it listens or connects.
fn options(fd: &OwnedFd, plan: &Plan) {
    let set = |name, value: &[u8]| {
        pair::set(fd, name, value).unwrap_or_else(|e| panic!("setsockopt {name}: {e}"));
    };
    pair::set32(fd, 32, &[1]); // SCTP_RECVRCVINFO
    pair::set32(fd, 18, &[plan.fragments]); // SCTP_FRAGMENT_INTERLEAVE
    set(2, &[20u16, 20, 50, 0].map(u16::to_ne_bytes).concat()); // SCTP_INITMSG
    if plan.interleaving {
        pair::set32(fd, 125, &[0, 1]); // SCTP_INTERLEAVING_SUPPORTED
    }
    if plan.nodelay {
        pair::set32(fd, 3, &[1]);
    }
    for (name, size) in [
        (libc::SO_RCVBUF, plan.receive_buffer),
        (libc::SO_SNDBUF, plan.send_buffer),
    ] {
        if let Some(size) = size {
            pair::set_option(fd, libc::SOL_SOCKET, name, &size.to_ne_bytes());
        }
    }
    if plan.auth {
        // SCTP_AUTH_CHUNK: DATA, SACK, HEARTBEAT, FORWARD TSN, I-DATA.
        for chunk in [0u8, 3, 4, 192, 64] {
            set(21, &[chunk]);
        }
        let secret = b"not much of one";
        let len = u16::try_from(secret.len()).unwrap();
        for id in [1u16, 2] {
            let key = [&[0; 4][..], &id.to_ne_bytes(), &len.to_ne_bytes(), secret].concat();
            set(23, &key); // SCTP_AUTH_KEY
        }
        set(24, &[0, 0, 0, 0, 1, 0, 0, 0]); // SCTP_AUTH_ACTIVE_KEY
    }
    // SCTP_EVENTS: the association, failed sends, remote errors, shutdown and partial delivery always.
    let some = u8::from(plan.events);
    set(
        11,
        &[0, 1, some, 1, 1, 1, 1, some, some, some, some, some, some],
    );
}

fn socket(kind: i32, homing: &Homing, host: u8, port: u16, plan: &Plan) -> OwnedFd {
    let addresses = homing.addresses(host);
    let domain = if homing.v6 {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let fd = pair::socket(domain, kind);
    options(&fd, plan);
    let mut all = addresses.iter().map(|a| SocketAddr::new(*a, port));
    pair::bind(&fd, all.next().expect("at least one address"));
    for a in all {
        pair::set(&fd, 100, &addr::bytes(a)).expect("SCTP_SOCKOPT_BINDX_ADD");
    }
    fd
}

/// Both ends, server first, each association up and known to both.
pub fn ends(net: &Net, plan: &Plan, ledgers: &mut [[Ledger; 2]]) -> Result<[End; 2], String> {
    let (here, there) = ((0, &plan.mobile, 1), (super::net::PEER, &plan.fixed, 2));
    let (server_at, client_at) = if plan.server_moves {
        (here, there)
    } else {
        (there, here)
    };
    let (mut server, mut client) = (End::new(0), End::new(1));
    let many = if plan.server_many {
        libc::SOCK_SEQPACKET
    } else {
        libc::SOCK_STREAM
    };
    net.enter(server_at.0);
    let l = socket(many, server_at.1, server_at.2, SERVER_PORT, plan);
    pair::listen(&l);
    let to: Vec<IpAddr> = server_at.1.addresses(server_at.2);
    net.enter(client_at.0);
    for (n, a) in plan.associations.iter().enumerate() {
        let kind = if a.client == Style::OneToOne {
            libc::SOCK_STREAM
        } else {
            libc::SOCK_SEQPACKET
        };
        let port = 6000 + u16::try_from(n).unwrap();
        let fd = socket(kind, client_at.1, client_at.2, port, plan);
        assert!(pair::connect(&fd, SocketAddr::new(to[0], SERVER_PORT)));
        let id = id(&fd, a.client);
        let fd = if a.client == Style::PeeledOff {
            let branch = pair::peel_off(&fd, id);
            client.socks.push(Sock::new(fd, false));
            branch
        } else {
            fd
        };
        let streams = prepare(&fd, id, a.schedulers[CLIENT], a.streams[CLIENT]);
        client.places.push(Place {
            sock: client.socks.len(),
            id,
            streams,
        });
        client.socks.push(Sock::new(fd, false));
        hello(&client, n, ledgers)?;
        // Its id at the server is known with the first message.
        let sock = if plan.server_many {
            0
        } else {
            let fd = pair::accept(&l);
            server.socks.push(Sock::new(fd, false));
            server.socks.len()
        };
        server.places.push(Place {
            sock,
            id: 0,
            streams: 1,
        });
    }
    server.socks.insert(0, Sock::new(l, !plan.server_many));
    greet(&mut server, ledgers)?;
    // A socket is peeled off in its own network namespace only.
    net.enter(server_at.0);
    for (n, a) in plan.associations.iter().enumerate() {
        let place = &mut server.places[n];
        if a.peeled_off {
            let branch = pair::peel_off(&server.socks[0].fd, place.id);
            place.sock = server.socks.len();
            server.socks.push(Sock::new(branch, false));
        }
        let fd = &server.socks[place.sock].fd;
        place.streams = prepare(fd, place.id, a.schedulers[SERVER], a.streams[SERVER]);
    }
    Ok([server, client])
}

/// The first message of a client.
fn hello(client: &End, n: usize, ledgers: &mut [[Ledger; 2]]) -> Result<(), String> {
    let ledger = &mut ledgers[n][CLIENT];
    let (number, bytes) = ledger.next(u8::try_from(n).unwrap(), client.number, 100);
    let m = Message {
        number,
        stream: 0,
        unordered: false,
        may_fail: false,
        len: bytes.len(),
    };
    if client.send(n, ledger, m, &bytes, Policy::RELIABLE)? {
        Ok(())
    } else {
        Err("the first message did not fit".into())
    }
}

/// Reads until every association has said something.
fn greet(server: &mut End, ledgers: &mut [[Ledger; 2]]) -> Result<(), String> {
    for _ in 0..3000 {
        for sock in 0..server.socks.len() {
            while !server.socks[sock].listener && server.receive(sock, 1 << 16, ledgers)? {}
        }
        if server.places.iter().all(|p| p.id != 0) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err("the first messages do not arrive".into())
}

/// The id of a socket's only association: `SCTP_STATUS`, or `SCTP_GET_ASSOC_ID_LIST`.
fn id(fd: &OwnedFd, style: Style) -> u32 {
    let (name, at, len) = if style == Style::OneToOne {
        (14, 0, 176)
    } else {
        (29, 4, 64)
    };
    let got = pair::get(fd, name, vec![0; len]);
    u32::from_ne_bytes(got[at..at + 4].try_into().unwrap())
}

/// Sets the scheduler; returns how many streams there are to use.
fn prepare(fd: &OwnedFd, id: u32, scheduler: u32, wanted: u16) -> u16 {
    pair::set32(fd, 123, &[id, scheduler]); // SCTP_STREAM_SCHEDULER
    let mut value = id.to_ne_bytes().to_vec();
    value.resize(176, 0);
    let got = pair::get(fd, 14, value); // SCTP_STATUS: outgoing streams
    let there = u16::from_ne_bytes([got[18], got[19]]);
    if scheduler == 1 || scheduler == 4 {
        for stream in 0..there.min(wanted) {
            // SCTP_STREAM_SCHEDULER_VALUE: priority or weight.
            let value = [
                &id.to_ne_bytes()[..],
                &stream.to_ne_bytes(),
                &(stream % 5 + 1).to_ne_bytes(),
            ];
            pair::set(fd, 124, &value.concat()).expect("SCTP_STREAM_SCHEDULER_VALUE");
        }
    }
    there.min(wanted)
}
