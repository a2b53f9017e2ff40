// SPDX-License-Identifier: GPL-2.0-only
//! `sock_diag` for SCTP: request and answer.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::super::addr;
use super::{Result, Socket, State};
use crate::netlink::attr::array;
use crate::netlink::{self, Attrs, Error, Message, Protocol};

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// Length of `struct inet_diag_msg`.
const REPLY: usize = 72;
const INET_DIAG_INFO: u16 = 2;
/// Where `struct sctp_info` counts DATA chunks that came ahead of others, twice, unordered and ordered.
const DATA_COUNTS: [usize; 4] = [96, 104, 128, 144];
/// Where it has the TSNs that are missing before the last received.
const PENDING: usize = 14;
const INET_DIAG_LOCALS: u16 = 12;
const INET_DIAG_PEERS: u16 = 13;
/// Length of `struct sockaddr_storage`, whatever the family.
const STORAGE: usize = 128;
/// `TCP_LISTEN`.
const LISTEN: u8 = 10;

/// The SCTP sockets of the current network namespace, without their holders.
pub(super) fn read() -> Result<Vec<Socket>> {
    let mut found = Vec::new();
    each(&mut open()?, |payload| {
        found.push(parse(payload)?);
        Ok(())
    })?;
    Ok(without_doubles(found))
}

/// A socket to ask about the current network namespace.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn open() -> netlink::Result<netlink::Socket> {
    netlink::Socket::open(Protocol::SockDiag)
}

/// What the associations of the socket's network namespace have received, by their
/// local verification tags.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn heard(socket: &mut netlink::Socket) -> Result<HashMap<u32, Heard>> {
    let mut found = HashMap::new();
    each(socket, |payload| {
        found.extend(data(payload)?);
        Ok(())
    })?;
    Ok(found)
}

/// What an association has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// DATA chunks, wanted or not.
    pub(crate) data: u64,
    /// Whether some are missing before the last.
    pub(crate) has_gaps: bool,
}

fn each(
    socket: &mut netlink::Socket,
    mut take: impl FnMut(&[u8]) -> netlink::Result<()>,
) -> Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        match socket.dump(request(family), &mut take) {
            // Connections come and go while they are listed.
            Ok(()) | Err(Error::Interrupted) => {}
            // SCTP or its sock_diag module is not there: so are no sockets.
            Err(e) if matches!(e.errno(), Some(libc::ENOENT | libc::EPROTONOSUPPORT)) => {}
            Err(e) => return Err(super::super::Error::doing("list SCTP sockets")(e)),
        }
    }
    Ok(())
}

/// An association by its `struct sctp_info`, with its tag.
fn data(payload: &[u8]) -> netlink::Result<Option<(u32, Heard)>> {
    let attrs = Attrs::new(payload.get(REPLY..).ok_or(SHORT)?);
    let Some(info) = attrs.find(INET_DIAG_INFO)? else {
        return Ok(None);
    };
    let tag = array(info, 0).map(u32::from_ne_bytes).unwrap_or_default();
    let counts = DATA_COUNTS.iter().filter_map(|at| array(info, *at));
    let heard = Heard {
        data: counts.fold(0, |sum, n| sum.wrapping_add(u64::from_ne_bytes(n))),
        has_gaps: array(info, PENDING).is_some_and(|n| u16::from_ne_bytes(n) > 0),
    };
    // Sockets without an association have no tag.
    Ok((tag != 0).then_some((tag, heard)))
}

/// `struct inet_diag_req_v2` for every state.
fn request(family: i32) -> Message {
    let byte = |n: i32| u8::try_from(n).unwrap_or_default();
    // With the queues, which come with INET_DIAG_INFO.
    let mut header = vec![byte(family), byte(libc::IPPROTO_SCTP), 1 << 1, 0];
    header.extend(u32::MAX.to_ne_bytes());
    header.resize(56, 0);
    Message::new(BY_FAMILY, 0, &header)
}

const SHORT: Error = Error::Malformed("short answer of sock_diag");

pub(crate) fn parse(payload: &[u8]) -> netlink::Result<Socket> {
    let byte = |at| array::<1>(payload, at).map(|[b]| b).ok_or(SHORT);
    let number = |at| array(payload, at).map(u32::from_ne_bytes).ok_or(SHORT);
    let attrs = Attrs::new(payload.get(REPLY..).ok_or(SHORT)?);

    let peer = addresses(attrs.find(INET_DIAG_PEERS)?);
    let state = match byte(1)? {
        LISTEN if peer.is_empty() => State::Listen,
        _ if peer.is_empty() => State::Closed,
        1 => State::CookieWait,
        2 => State::CookieEchoed,
        3 => State::Established,
        4 => State::ShutdownPending,
        5 => State::ShutdownSent,
        6 => State::ShutdownReceived,
        7 => State::ShutdownAckSent,
        _ => State::Closed,
    };
    // Addresses come without their ports.
    let port = |at| array(payload, at).map(u16::from_be_bytes).ok_or(SHORT);
    let with = |mut all: Vec<SocketAddr>, port| {
        all.iter_mut().for_each(|a| a.set_port(port));
        all
    };
    Ok(Socket {
        state,
        local: with(addresses(attrs.find(INET_DIAG_LOCALS)?), port(4)?),
        peer: with(peer, port(6)?),
        recv_queue: number(56)?,
        send_queue: number(60)?,
        inode: number(68)?,
        holders: Vec::new(),
    })
}

fn addresses(value: Option<&[u8]>) -> Vec<SocketAddr> {
    value
        .unwrap_or_default()
        .chunks(STORAGE)
        .filter_map(addr::parse_storage)
        .collect()
}

/// An association is reported next to the socket it hangs on.
fn without_doubles(mut found: Vec<Socket>) -> Vec<Socket> {
    let connected: HashSet<u32> = found
        .iter()
        .filter(|s| !s.peer.is_empty())
        .map(|s| s.inode)
        .collect();
    found.retain(|s| s.state != State::Closed || !connected.contains(&s.inode));
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
            let _ = data(&bytes);
        }
    }

    fn storage(text: &str) -> Vec<u8> {
        let mut bytes = addr::bytes(text.parse().unwrap());
        bytes.resize(STORAGE, 0);
        bytes
    }

    #[test]
    fn an_association_is_read() {
        let mut payload = vec![0; REPLY];
        payload[1] = 3;
        payload[4..6].copy_from_slice(&36412u16.to_be_bytes());
        payload[6..8].copy_from_slice(&5000u16.to_be_bytes());
        payload[60..64].copy_from_slice(&77u32.to_ne_bytes());
        payload[68..72].copy_from_slice(&4711u32.to_ne_bytes());
        let mut attrs = netlink::Writer::new();
        attrs
            .put(INET_DIAG_LOCALS, &storage("192.0.2.1:0"))
            .unwrap();
        let peers = [storage("192.0.2.2:0"), storage("192.0.2.3:0")].concat();
        attrs.put(INET_DIAG_PEERS, &peers).unwrap();
        payload.extend(attrs.bytes());
        let s = parse(&payload).unwrap();
        assert_eq!(s.state, State::Established);
        assert_eq!(s.local, ["192.0.2.1:36412".parse().unwrap()]);
        assert_eq!(
            s.peer,
            [
                "192.0.2.2:5000".parse().unwrap(),
                "192.0.2.3:5000".parse().unwrap()
            ]
        );
        assert_eq!((s.recv_queue, s.send_queue, s.inode), (0, 77, 4711));
    }

    #[test]
    fn data_that_came_in_is_counted() {
        let counted = |tag: u32, counts: &[usize]| {
            let mut info = vec![0; 200];
            info[..4].copy_from_slice(&tag.to_ne_bytes());
            counts.iter().for_each(|at| info[*at] = 5);
            let mut attrs = netlink::Writer::new();
            attrs.put(INET_DIAG_INFO, &info).unwrap();
            let payload = [&[0; REPLY], attrs.bytes()].concat();
            data(&payload).unwrap()
        };
        let heard = |data, has_gaps| Some((7, Heard { data, has_gaps }));
        // A SACK, a packet, a heartbeat.
        assert_eq!(counted(7, &[56, 80, 160]), heard(0, false));
        assert_eq!(counted(7, &DATA_COUNTS), heard(20, false));
        assert_eq!(counted(7, &[PENDING, DATA_COUNTS[3]]), heard(5, true));
        assert_eq!(counted(0, &DATA_COUNTS), None);
    }
}
