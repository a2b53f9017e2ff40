// SPDX-License-Identifier: GPL-2.0-only
//! Many small requests in one buffer, for tables of a million entries.

use super::message::HEADER;
use super::socket::flags;
use super::{Error, Result, Writer};

/// Send this many at once: an answer to each of so many messages, should
/// all be refused, fits the kernel's default receive buffer.
const MESSAGES: usize = 128;

/// Requests behind one another, of which only errors are answered, and the
/// last one in any case.
pub struct Batch {
    buf: Writer,
    seq: u32,
    count: usize,
    last: usize,
}

impl Batch {
    pub(super) fn new(seq: u32) -> Self {
        Self {
            buf: Writer::new(),
            seq,
            count: 0,
            last: 0,
        }
    }

    /// Adds a request: its fixed header, then what `fill` writes.
    ///
    /// # Errors
    /// Those of `fill`; the request is not in the batch then.
    pub fn push(
        &mut self,
        kind: u16,
        flags: i32,
        header: &[u8],
        fill: impl FnOnce(&mut Writer) -> Result<()>,
    ) -> Result<()> {
        let start = self.buf.bytes().len();
        let bits = u16::try_from(flags | flags::REQUEST).unwrap_or_default();
        let out = self.buf.buffer();
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(&bits.to_ne_bytes());
        out.extend_from_slice(&self.seq.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(header);
        if let Err(e) = fill(&mut self.buf) {
            self.buf.buffer().truncate(start);
            return Err(e);
        }
        let out = self.buf.buffer();
        let len = u32::try_from(out.len() - start).map_err(|_| Error::TooLong("message"))?;
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
        self.last = start;
        self.seq = self.seq.wrapping_add(1);
        self.count += 1;
        Ok(())
    }

    /// Whether it is time to send.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count >= MESSAGES
    }

    /// Asks for an answer to the last request. `None` when there is none.
    pub(super) fn seal(&mut self) -> Option<usize> {
        const FLAGS: usize = 6;
        let place = self.last + FLAGS;
        let bytes = self.buf.buffer().get_mut(place..place + 2)?;
        let old = u16::from_ne_bytes(<[u8; 2]>::try_from(&*bytes).ok()?);
        let ack = u16::try_from(flags::ACK).unwrap_or_default();
        bytes.copy_from_slice(&(old | ack).to_ne_bytes());
        Some(self.count)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buf.bytes()
    }

    pub(super) fn reset(&mut self, seq: u32) {
        self.buf.buffer().clear();
        self.seq = seq;
        self.count = 0;
        self.last = 0;
    }
}

const _: () = assert!(HEADER == 16);

#[cfg(test)]
mod tests {
    use super::super::message::Messages;
    use super::*;

    #[test]
    fn requests_stand_behind_one_another() {
        let mut batch = Batch::new(7);
        for n in 0..3 {
            batch
                .push(20, 0x400, &[1, 2, 0, 0], |w| w.put_u32(n, u32::from(n)))
                .unwrap();
        }
        assert_eq!(batch.seal(), Some(3));
        let read: Vec<_> = Messages(batch.bytes()).map(|m| m.unwrap()).collect();
        assert_eq!(read.iter().map(|m| m.seq).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(
            read.iter().map(|m| m.flags).collect::<Vec<_>>(),
            [0x401, 0x401, 0x405]
        );
        assert_eq!(read[2].payload.len(), 12);
    }

    #[test]
    fn a_request_that_fails_leaves_nothing() {
        let mut batch = Batch::new(0);
        let long = vec![0; 70_000];
        assert!(batch.push(1, 0, &[], |w| w.put(1, &long)).is_err());
        assert_eq!(batch.seal(), None);
        assert!(batch.bytes().is_empty());
    }
}
