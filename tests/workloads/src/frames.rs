// SPDX-License-Identifier: GPL-2.0-only
//! Ethernet frames with SCTP inside, for those who send them past their own kernel.

use std::{
    cell::Cell,
    ffi::CString,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

use crate::sys::{check, owned};

/// Size of an address of an interface.
#[allow(clippy::cast_possible_truncation, reason = "20 bytes")]
const ADDRESS: libc::socklen_t = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// An interface, below all protocols.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    sent: Cell<u64>,
}

impl Wire {
    /// Opens it.
    pub fn open(interface: &str) -> io::Result<Self> {
        let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let socket = owned(unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(all)) })?;
        let name = CString::new(interface).map_err(io::Error::other)?;
        // SAFETY: `name` is a C string that lives over the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
        address.sll_protocol = all;
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        // SAFETY: `address` lives over the call and its size is passed.
        check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS) })?;
        Ok(Self {
            socket,
            sent: Cell::new(0),
        })
    }

    /// The next frame that this host has sent; not those of [`send`](Self::send).
    pub fn outgoing<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        loop {
            // SAFETY: all-zero is a valid sockaddr_ll.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut len = ADDRESS;
            // SAFETY: buffer, address and length live over the call and have the sizes that are passed.
            let n = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut len,
                )
            };
            let Ok(n) = usize::try_from(n) else {
                let e = io::Error::last_os_error();
                return if e.kind() == io::ErrorKind::WouldBlock {
                    Ok(None)
                } else {
                    Err(e)
                };
            };
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                return Ok(buffer.get(..n));
            }
        }
    }

    /// Sends a frame, or loses it, as wires do.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: `frame` lives over the call and its length is passed.
        let n = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
            )
        };
        self.sent.set(self.sent.get() + u64::from(n > 0));
    }

    /// How many were sent.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }
}

/// Whether a frame carries SCTP to this port that a network may deliver twice without harm: no INIT, COOKIE, ABORT or
/// SHUTDOWN, and no IP fragment, which would wait for its other half and be taken for that of a later packet.
pub fn may_repeat(frame: &[u8], port: u16) -> bool {
    // More fragments, or an offset; IPv6 has a header of its own for them.
    let whole = |flags: &[u8]| flags[0] & 0x3f == 0 && flags[1] == 0;
    let header = match frame.get(12..14) {
        Some([8, 0]) if frame.get(23) == Some(&132) && frame.get(20..22).is_some_and(whole) => {
            usize::from(frame.get(14).copied().unwrap_or(0) & 15) * 4
        }
        Some([0x86, 0xdd]) if frame.get(20) == Some(&132) => 40,
        _ => return false,
    };
    let sctp = frame.get(14 + header..).unwrap_or_default();
    if sctp.get(2..4) != Some(&port.to_be_bytes()) {
        return false;
    }
    // DATA, SACK, HEARTBEAT and its answer, FORWARD TSN.
    let mut chunks = sctp.get(12..).unwrap_or_default();
    while let [kind, _, high, low, ..] = chunks {
        if ![0, 3, 4, 5, 192].contains(kind) {
            return false;
        }
        let len = usize::from(u16::from_be_bytes([*high, *low])).max(4);
        chunks = chunks.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    true
}

/// A frame with an INIT (RFC 9260, 3.3.2), to where `like` went.
pub fn init(like: &[u8], from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut sctp = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    sctp.extend([0; 8]); // verification tag, checksum
    sctp.extend([1, 0, 0, 20]);
    sctp.extend(0x7e1e_0000u32.wrapping_add(from.1.into()).to_be_bytes()); // tag
    sctp.extend(65_536u32.to_be_bytes()); // window
    sctp.extend([0, 10, 0, 10]); // streams
    sctp.extend(1u32.to_be_bytes()); // TSN
    let sum = crc32c(&sctp).to_le_bytes();
    sctp[8..12].copy_from_slice(&sum);
    let mut frame = like.get(..12).unwrap_or_default().to_vec();
    frame.extend([8, 0]);
    let mut ip = vec![0x45, 0, 0, 52, 0, 0, 0x40, 0, 64, 132, 0, 0];
    ip.extend(from.0.octets());
    ip.extend(to.0.octets());
    let sum = ip
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0xffff);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(sctp);
    frame
}

/// SCTP's checksum (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn an_init_is_not_repeated_and_data_is() {
        let a = (Ipv4Addr::new(10, 45, 0, 3), 50_000);
        let mut frame = init(&[0; 14], a, (Ipv4Addr::new(10, 45, 0, 100), 36_412));
        assert_eq!(frame.len(), 14 + 20 + 32);
        assert!(!may_repeat(&frame, 36_412));
        frame[14 + 20 + 12] = 0;
        assert!(may_repeat(&frame, 36_412));
        assert!(!may_repeat(&frame, 2905));
        frame[20] = 0x20;
        assert!(!may_repeat(&frame, 36_412), "a first fragment");
        frame[20] = 0x40;
        let header = &frame[14..34];
        let sum: u32 = header
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
