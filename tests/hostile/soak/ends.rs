// SPDX-License-Identifier: GPL-2.0-only
//! The sockets of one end, and how they send and receive.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};

use super::ledger::{decode, Ledger, Message};
use crate::rng::Rng;

const SCTP: i32 = libc::IPPROTO_SCTP;
/// The fourth control message: `struct sctp_rcvinfo`.
const RCVINFO: i32 = 3;
const MSG_NOTIFICATION: i32 = 0x8000;
/// `SCTP_UNORDERED`, in `sinfo_flags` and `rcv_flags`.
const UNORDERED: u16 = 1;

/// What a message may be given up by, in `sinfo_flags`, and the value it goes with.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub flags: u16,
    pub value: u32,
    pub may_fail: bool,
}

impl Policy {
    pub const RELIABLE: Self = Self {
        flags: 0,
        value: 0,
        may_fail: false,
    };

    /// Lifetime, retransmissions, priority; some of them so generous that nothing may be lost.
    pub fn any(rng: &mut Rng) -> Self {
        let (flags, value, may_fail) = rng.pick(&[
            (0x10, 1, true),
            (0x10, 50, true),
            (0x10, 400, true),
            (0x10, 3_600_000, false),
            (0x20, 0, true),
            (0x20, 2, true),
            (0x20, 1_000_000, false),
            (0x30, 1, true),
            (0x30, 100, true),
        ]);
        Self {
            flags,
            value,
            may_fail,
        }
    }
}

#[derive(Debug)]
pub struct Sock {
    pub fd: OwnedFd,
    /// A one-to-one socket that listens is not read from.
    pub listener: bool,
    notification: Vec<u8>,
}

impl Sock {
    pub fn new(fd: OwnedFd, listener: bool) -> Self {
        Self {
            fd,
            listener,
            notification: Vec::new(),
        }
    }
}

/// One of the two ends.
pub struct End {
    /// 0 or 1, the direction it sends in.
    pub number: u8,
    pub socks: Vec<Sock>,
    /// For each association: its socket, its id on this end, streams that it may use.
    pub places: Vec<Place>,
    partial: HashMap<(u32, u16, bool), Vec<u8>>,
    room: Vec<u8>,
    /// Notifications by type.
    pub told: HashMap<u16, u64>,
    /// Given up according to notifications.
    pub failed: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub sock: usize,
    pub id: u32,
    pub streams: u16,
}

/// What one `recvmsg` returned.
struct Part {
    id: u32,
    stream: u16,
    unordered: bool,
    flags: i32,
    len: usize,
}

impl End {
    pub fn new(number: u8) -> Self {
        Self {
            number,
            socks: Vec::new(),
            places: Vec::new(),
            partial: HashMap::new(),
            room: vec![0; 1 << 17],
            told: HashMap::new(),
            failed: 0,
        }
    }

    /// Sends one message, if the socket takes it now.
    pub fn send(
        &self,
        association: usize,
        ledger: &mut Ledger,
        m: Message,
        bytes: &[u8],
        policy: Policy,
    ) -> Result<bool, String> {
        let place = self.places[association];
        let how = policy.flags | if m.unordered { UNORDERED } else { 0 };
        let fd = &self.socks[place.sock].fd;
        match transmit(fd, place.id, m.stream, how, policy.value, bytes) {
            Ok(()) => {
                ledger.sent(m);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(format!("end {}, send {m:?}: {e}", self.number)),
        }
    }

    /// Reads one piece from a socket; false when there was none.
    pub fn receive(
        &mut self,
        sock: usize,
        room: usize,
        ledgers: &mut [[Ledger; 2]],
    ) -> Result<bool, String> {
        let place = format!("end {}, socket {sock}", self.number);
        let part = match receive(&self.socks[sock].fd, &mut self.room[..room]) {
            Ok(part) => part,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(format!("{place}: receive: {e}")),
        };
        let data = self.room[..part.len].to_vec();
        let whole = part.flags & libc::MSG_EOR != 0;
        if part.flags & MSG_NOTIFICATION != 0 {
            let text = &mut self.socks[sock].notification;
            text.extend(data);
            if whole {
                let text = std::mem::take(text);
                self.notified(&text, ledgers)
                    .map_err(|e| format!("{place}: {e}"))?;
            }
            return Ok(true);
        }
        if data.is_empty() {
            return Err(format!("{place}: the association has ended"));
        }
        let key = (part.id, part.stream, part.unordered);
        self.partial.entry(key).or_default().extend(data);
        if !whole {
            return Ok(true);
        }
        let bytes = self.partial.remove(&key).unwrap_or_default();
        let (association, direction, _) = decode(&bytes)
            .ok_or_else(|| format!("{place}: {} bytes nobody sent: {:?}", bytes.len(), key))?;
        let index = usize::from(association);
        let known = self.places[index];
        if known.sock != sock || (known.id != part.id && known.id != 0) {
            return Err(format!(
                "{place}: message of association {association} under id {}, not {}",
                part.id, known.id
            ));
        }
        if direction == self.number {
            return Err(format!("{place}: its own message came back"));
        }
        self.places[index].id = part.id;
        ledgers[index][usize::from(direction)]
            .came(part.stream, &bytes)
            .map_err(|e| format!("{place}, association {association}: {e}"))?;
        Ok(true)
    }

    fn notified(&mut self, text: &[u8], ledgers: &mut [[Ledger; 2]]) -> Result<(), String> {
        let half = |at: usize| {
            text.get(at..at + 2)
                .map(|b| u16::from_ne_bytes([b[0], b[1]]))
        };
        let word = |at: usize| {
            text.get(at..at + 4)
                .map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
        };
        let kind = half(0).ok_or("a notification cut short")?;
        *self.told.entry(kind).or_default() += 1;
        match kind {
            // SCTP_ASSOC_CHANGE: anything but SCTP_COMM_UP.
            0x8001 if half(8) != Some(0) => Err(format!(
                "association change {:?}, error {:?}",
                half(8),
                half(10)
            )),
            // SCTP_SEND_FAILED: the message itself is behind 48 bytes.
            0x8003 => {
                self.failed += 1;
                let Some((association, direction, number)) = decode(&text[48.min(text.len())..])
                else {
                    return Ok(());
                };
                let ledger = &ledgers[usize::from(association)][usize::from(direction)];
                if ledger.may_fail(number) {
                    return Ok(());
                }
                Err(format!(
                    "message {number} of association {association} was given up: error {:?}",
                    word(8)
                ))
            }
            0x8004 => Err(format!("remote error {:?}", half(8))),
            0x8005 => Err("the peer shuts down".into()),
            // SCTP_PARTIAL_DELIVERY_EVENT: the rest of a message will not come.
            0x8006 => {
                let id = word(12).unwrap_or_default();
                let stream = word(16)
                    .and_then(|s| u16::try_from(s).ok())
                    .unwrap_or_default();
                let unordered = half(2).is_some_and(|f| f & UNORDERED != 0);
                // Without interleaving there is but one, and the stream is not told.
                let one = self.partial.keys().filter(|k| k.0 == id).count() == 1;
                self.partial
                    .retain(|k, _| k.0 != id || !one && *k != (id, stream, unordered));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Drop for End {
    /// The verdict has been passed and the wire goes next: an end that waited for the last SACK would wait for a
    /// thousand retransmissions, and be taken for a leak. SO_LINGER of zero has close() send an ABORT and forget.
    fn drop(&mut self) {
        let now = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        for sock in &self.socks {
            // Not every one is a socket where a move failed half-way.
            let _ = setsockopt(&sock.fd, sockopt::Linger, &now);
        }
    }
}

fn transmit(
    fd: &OwnedFd,
    id: u32,
    stream: u16,
    how: u16,
    value: u32,
    data: &[u8],
) -> io::Result<()> {
    // A control message of 16 bytes with a struct sctp_sndrcvinfo of 32.
    let mut control = [0u64; 6];
    // SAFETY: all zeroes is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = 48;
    // SAFETY: `control` has room for the header and what follows, and is aligned for it.
    unsafe {
        let c = libc::CMSG_FIRSTHDR(&raw const msg);
        (*c).cmsg_level = SCTP;
        (*c).cmsg_type = 1; // SCTP_SNDRCV
        (*c).cmsg_len = libc::CMSG_LEN(32).try_into().unwrap();
        let info = libc::CMSG_DATA(c);
        info.cast::<u16>().write_unaligned(stream);
        info.add(4).cast::<u16>().write_unaligned(how);
        info.add(16).cast::<u32>().write_unaligned(value);
        info.add(28).cast::<u32>().write_unaligned(id);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: everything `msg` points to lives across the call.
    let n = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, flags) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    assert_eq!(n.unsigned_abs(), data.len());
    Ok(())
}

fn receive(fd: &OwnedFd, room: &mut [u8]) -> io::Result<Part> {
    let mut control = [0u64; 32];
    // SAFETY: all zeroes is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut iov = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = 256;
    // SAFETY: everything `msg` points to lives across the call.
    let n = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, libc::MSG_DONTWAIT) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut part = Part {
        id: 0,
        stream: 0,
        unordered: false,
        flags: msg.msg_flags,
        len: n.unsigned_abs(),
    };
    // SAFETY: the kernel has filled in the control messages; a struct sctp_rcvinfo has 28 bytes.
    unsafe {
        let c = libc::CMSG_FIRSTHDR(&raw const msg);
        if !c.is_null() && (*c).cmsg_type == RCVINFO {
            let info = libc::CMSG_DATA(c);
            part.stream = info.cast::<u16>().read_unaligned();
            part.unordered = info.add(4).cast::<u16>().read_unaligned() & UNORDERED != 0;
            part.id = info.add(24).cast::<u32>().read_unaligned();
        }
    }
    Ok(part)
}
