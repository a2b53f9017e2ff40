// SPDX-License-Identifier: GPL-2.0-only
//! What the peer's cables carry, for the chunks that may not be there and as a capture for people.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use super::check;

/// Packets kept for a capture of a seed that fails.
const KEPT: usize = 200_000;

/// `PACKET_IGNORE_OUTGOING` is not wanted: both directions are looked at.
const ETH_P_ALL: u16 = 3;

pub struct Tap {
    fd: OwnedFd,
    room: Vec<u8>,
    kept: VecDeque<(SystemTime, Vec<u8>)>,
    /// How many chunks of each type.
    pub seen: BTreeMap<u8, u64>,
}

impl Tap {
    /// Of the namespace this thread is in.
    pub fn new() -> Self {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are passed.
        let raw = check(
            unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(ETH_P_ALL.to_be())) },
            "packet socket",
        );
        // SAFETY: fresh from the kernel.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        super::super::pair::set_option(
            &fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            &(32i32 << 20).to_ne_bytes(),
        );
        Self {
            fd,
            room: vec![0; 1 << 16],
            kept: VecDeque::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Takes what has come.
    pub fn drain(&mut self) {
        loop {
            // SAFETY: `room` is as long as said and lives across the call.
            let n = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.room.as_mut_ptr().cast(),
                    self.room.len(),
                    0,
                )
            };
            let Ok(n) = usize::try_from(n) else { return };
            let packet = &self.room[..n];
            for kind in chunks(packet).unwrap_or_default() {
                *self.seen.entry(kind).or_default() += 1;
            }
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((SystemTime::now(), packet.to_vec()));
        }
    }

    /// Forgets the chunks seen so far.
    pub fn reset(&mut self) {
        self.drain();
        self.seen.clear();
    }

    /// Writes the capture, of raw IP packets.
    pub fn write(&self, path: &str) -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
        let word = |n: u32| n.to_le_bytes();
        for w in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 1 << 16, 101] {
            out.write_all(&word(w))?;
        }
        for (when, packet) in &self.kept {
            let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
            let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
            let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
            for w in [seconds, since.subsec_micros(), len, len] {
                out.write_all(&word(w))?;
            }
            out.write_all(packet)?;
        }
        out.flush()
    }
}

/// Types of the SCTP chunks in an IP packet, UDP in between or not. What follows the first fragment of a packet has no
/// header of its own.
fn chunks(packet: &[u8]) -> Option<Vec<u8>> {
    let offset = |at: usize, mask: u16| {
        let field = [*packet.get(at)?, *packet.get(at + 1)?];
        Some(u16::from_be_bytes(field) & mask)
    };
    let (mut protocol, mut rest, offset) = match packet.first()? >> 4 {
        4 => (
            packet.get(9)?,
            packet.get(usize::from(packet[0] & 15) * 4..)?,
            offset(6, 0x1fff)?,
        ),
        6 if *packet.get(6)? == 44 => (packet.get(40)?, packet.get(48..)?, offset(42, 0xfff8)?),
        6 => (packet.get(6)?, packet.get(40..)?, 0),
        _ => return None,
    };
    if offset != 0 {
        return None;
    }
    if *protocol == 17 && (rest.get(..2)? == 9899u16.to_be_bytes()) {
        (protocol, rest) = (&132, rest.get(8..)?);
    }
    if *protocol != 132 {
        return None;
    }
    let mut kinds = Vec::new();
    rest = rest.get(12..)?;
    while let [kind, _, high, low, ..] = rest {
        kinds.push(*kind);
        let len = usize::from(u16::from_be_bytes([*high, *low])).max(4);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(kinds)
}

#[cfg(test)]
mod tests {
    use super::chunks;

    #[test]
    fn only_the_first_fragment_has_chunks() {
        let mut four = vec![0x45, 0, 0, 40, 0, 0, 0x20, 0, 64, 132];
        four.extend([0; 10 + 12]);
        four.extend([6, 0, 0, 4]);
        assert_eq!(chunks(&four), Some(vec![6]));
        four[7] = 185;
        assert_eq!(chunks(&four), None);
        let mut six = vec![0x60, 0, 0, 0, 0, 24, 44, 64];
        six.extend([0; 32]);
        six.extend([132, 0, 0, 1, 0, 0, 0, 0]);
        six.extend([0; 12]);
        six.extend([6, 0, 0, 4]);
        assert_eq!(chunks(&six), Some(vec![6]));
        six[42] = 5;
        assert_eq!(chunks(&six), None);
    }
}
