// SPDX-License-Identifier: GPL-2.0-only
//! What one seed stands for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::rng::Rng;

/// How a socket holds its association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    OneToOne,
    OneToMany,
    PeeledOff,
}

/// One association.
#[derive(Debug)]
pub struct Association {
    pub client: Style,
    /// From the server's one-to-many socket.
    pub peeled_off: bool,
    /// Schedulers of server and client.
    pub schedulers: [u32; 2],
    /// Streams each way, as far as the other end takes them.
    pub streams: [u16; 2],
}

/// Addresses of an end: of which paths, and which families.
#[derive(Debug)]
pub struct Homing {
    pub paths: Vec<u8>,
    pub v4: bool,
    pub v6: bool,
}

impl Homing {
    /// The addresses of the mobile host end in 1, those of the other in 2.
    pub fn addresses(&self, host: u8) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for path in &self.paths {
            if self.v6 {
                all.push(v6(*path, host));
            }
            if self.v4 {
                all.push(v4(*path, host));
            }
        }
        all
    }
}

pub fn v4(path: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 1, path, host).into()
}

pub fn v6(path: u8, host: u8) -> IpAddr {
    Ipv6Addr::new(0xfd01, u16::from(path), 0, 0, 0, 0, 0, u16::from(host)).into()
}

/// What the wire does to packets.
#[derive(Debug)]
pub struct Wire {
    pub delay_ms: u64,
    pub jitter_ms: u64,
    pub loss: u64,
    pub reorder: u64,
    pub duplicate: u64,
    pub ecn: bool,
}

#[derive(Debug)]
pub struct Plan {
    pub associations: Vec<Association>,
    /// Does the server move, or the clients?
    pub server_moves: bool,
    pub server_many: bool,
    pub mobile: Homing,
    pub fixed: Homing,
    pub wire: Wire,
    pub gso: bool,
    pub migrations: u32,
    pub interleaving: bool,
    /// Of a hundred messages, so many that may be given up.
    pub partially_reliable: u64,
    pub unordered: u64,
    pub auth: bool,
    pub udp: bool,
    pub rto_min: u64,
    pub rto_max: u64,
    pub heartbeat_ms: u64,
    pub path_retransmissions: u64,
    pub receive_buffer: Option<u32>,
    pub send_buffer: Option<u32>,
    pub buffer_policy: bool,
    pub nodelay: bool,
    /// `SCTP_FRAGMENT_INTERLEAVE`.
    pub fragments: u32,
    pub largest: u64,
    /// Notifications besides those about the association itself.
    pub events: bool,
}

impl Plan {
    pub fn new(rng: &mut Rng) -> Self {
        let (v4, v6) = rng.pick(&[(true, false), (false, true), (true, true)]);
        let udp = rng.percent(8);
        let mut homing = || {
            let mut paths = vec![0, 1, 2];
            rng.shuffle(&mut paths);
            paths.truncate(rng.pick(&[1, 1, 2, 3]));
            Homing { paths, v4, v6 }
        };
        let (mobile, fixed) = (homing(), homing());
        let server_many = rng.percent(50);
        let interleaving = rng.percent(40);
        let associations = (0..rng.pick(&[1u8, 1, 2, 4]))
            .map(|_| Association {
                client: rng.pick(&[Style::OneToOne, Style::OneToMany, Style::PeeledOff]),
                peeled_off: server_many && rng.percent(35),
                schedulers: [rng.within(0..=4), rng.within(0..=4)],
                streams: [rng.within(1..=20), rng.within(1..=20)],
            })
            .collect();
        let delay_ms = rng.within(0..=30);
        let rto_min = rng.pick(&[60, 100, 200, 500]);
        let partially_reliable = rng.pick(&[0, 0, 20, 60]);
        // Linux without telecr loses messages where others are given up that need more than one chunk. A sender drops
        // what it has not sent yet of one that it sent in part, and if that part was acknowledged no FORWARD TSN tells
        // the receiver. A receiver of an I-FORWARD-TSN drops all fragments below the new cumulative TSN
        // (sctp_intl_reasm_flushtsn()), and one of a FORWARD-TSN the rest of a message delivered in part
        // (sctp_report_fwdtsn()). So such messages fit one chunk here.
        let largest = if partially_reliable > 0 {
            rng.pick(&[300, 1000])
        } else {
            rng.pick(&[300, 3000, 40_000])
        };
        let mut small = |of: &[u32]| rng.percent(30).then(|| rng.pick(of));
        let (receive_buffer, send_buffer) = (small(&[8192, 20_000]), small(&[9000, 30_000]));
        // The kernel takes no message longer than the buffer, which is twice what SO_SNDBUF is set to (socket(7)).
        let largest = send_buffer.map_or(largest, |half| largest.min(2 * u64::from(half)));
        let mut plan = Self {
            associations,
            server_moves: rng.percent(60),
            server_many,
            mobile,
            fixed,
            wire: Wire {
                delay_ms,
                jitter_ms: if rng.percent(50) { delay_ms / 2 } else { 0 },
                loss: rng.pick(&[0, 1, 3, 10]),
                reorder: if delay_ms > 0 {
                    rng.pick(&[0, 0, 10, 30])
                } else {
                    0
                },
                duplicate: rng.pick(&[0, 0, 1, 10]),
                ecn: rng.percent(15),
            },
            gso: rng.percent(50),
            migrations: rng.within(2..=6),
            interleaving,
            partially_reliable,
            unordered: rng.pick(&[0, 10, 50]),
            auth: rng.percent(25),
            udp,
            rto_min,
            rto_max: rng.pick(&[500, 1000, 3000]).max(rto_min),
            heartbeat_ms: rng.pick(&[100, 500, 30_000]),
            path_retransmissions: rng.pick(&[1, 5, 50]),
            receive_buffer,
            send_buffer,
            buffer_policy: rng.percent(30),
            nodelay: rng.percent(50),
            fragments: if interleaving { 2 } else { rng.within(0..=1) },
            largest,
            events: rng.percent(40),
        };
        // Linux without telecr takes no GSO packet with AUTH chunks that comes to it whole, as over veth, for all that
        // each of them is right: what is in it arrives once it is sent again one packet at a time, or never.
        plan.gso &= !plan.auth;
        // Associations that share a small receive buffer can fill it with what lies behind their gaps, and none gets
        // the chunk that would close one: each has a window still and reneges on nothing (sctp_eat_data()), and
        // sctp_ulpevent_make_rcvmsg() drops what the socket has no room for.
        plan.buffer_policy |= plan.receive_buffer.is_some() && plan.associations.len() > 1;
        // At level 1 Linux turns messages round: when a partial delivery ends, sctp_ulpq_clear_pd() hands out those that
        // were reassembled meanwhile before those in one chunk, which wait in the lobby.
        if !plan.interleaving {
            plan.fragments = 0;
        }
        plan
    }
}
