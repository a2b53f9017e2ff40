// SPDX-License-Identifier: GPL-2.0-only
//! Messages: building requests, and taking apart what the kernel sends.

use super::attr::{align, array, Attrs};
use super::error::Refusal;
use super::{Error, Result, Writer};

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// A request: type, flags and payload. The socket adds sequence numbers.
#[derive(Debug, Clone)]
pub struct Message {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
}

impl Message {
    /// A message with a fixed header (`struct genlmsghdr` and the like).
    #[must_use]
    pub fn new(kind: u16, flags: i32, header: &[u8]) -> Self {
        // Every NLM_F_* flag fits 16 bits.
        let flags = u16::try_from(flags).unwrap_or_default();
        let mut payload = header.to_vec();
        payload.resize(align(payload.len()), 0);
        Self {
            kind,
            flags,
            payload,
        }
    }

    /// Adds attributes.
    #[must_use]
    pub fn with(mut self, attrs: &Writer) -> Self {
        self.payload.extend_from_slice(attrs.bytes());
        self
    }

    pub(super) fn flag(&mut self, flags: i32) {
        self.flags |= u16::try_from(flags).unwrap_or_default();
    }

    /// Fixed header and attributes.
    #[cfg(test)]
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Length on the wire.
    pub(super) fn len(&self) -> usize {
        align(HEADER + self.payload.len())
    }

    pub(super) fn write(&self, seq: u32, out: &mut Vec<u8>) -> Result<()> {
        let len =
            u32::try_from(HEADER + self.payload.len()).map_err(|_| Error::TooLong("message"))?;
        out.extend_from_slice(&len.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&seq.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.payload);
        out.resize(align(out.len()), 0);
        Ok(())
    }
}

/// A message received.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) payload: &'a [u8],
}

/// Walks the messages of one datagram, checking every length.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Messages<'a> {
    fn step(&mut self) -> Option<Received<'a>> {
        let len = usize::try_from(u32::from_ne_bytes(array(self.0, 0)?)).ok()?;
        let msg = Received {
            kind: u16::from_ne_bytes(array(self.0, 4)?),
            flags: u16::from_ne_bytes(array(self.0, 6)?),
            seq: u32::from_ne_bytes(array(self.0, 8)?),
            payload: self.0.get(HEADER..len)?,
        };
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some(msg)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Received<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let msg = self.step();
        if msg.is_none() {
            self.0 = &[];
        }
        Some(msg.ok_or(Error::Malformed("message beyond the end of its datagram")))
    }
}

/// The verdict in an `NLMSG_ERROR`, or in an `NLMSG_DONE` that carries one.
pub(crate) fn verdict(msg: &Received<'_>) -> Result<()> {
    /// The request is not repeated in the answer.
    const NLM_F_CAPPED: u16 = 0x100;
    /// Attributes follow.
    const NLM_F_ACK_TLVS: u16 = 0x200;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    const NLMSGERR_ATTR_MISS_TYPE: u16 = 5;

    let code = array(msg.payload, 0).map(i32::from_ne_bytes);
    let done = msg.kind == DONE;
    let errno = match code {
        None if done => return Ok(()),
        None => return Err(Error::Malformed("answer without an error number")),
        Some(0) => return Ok(()),
        Some(n) if done && n > 0 => return Ok(()),
        Some(n) => n.checked_neg().unwrap_or(libc::EINVAL),
    };
    let mut refusal = Refusal {
        errno,
        message: None,
    };
    if msg.flags & NLM_F_ACK_TLVS != 0 {
        let skip = if done {
            4
        } else if msg.flags & NLM_F_CAPPED != 0 {
            4 + HEADER
        } else {
            let echoed = array(msg.payload, 4).map_or(0, u32::from_ne_bytes);
            4usize.saturating_add(align(usize::try_from(echoed).unwrap_or_default()))
        };
        let attrs = Attrs::new(msg.payload.get(skip..).unwrap_or_default());
        if let Ok(Some(text)) = attrs.find(NLMSGERR_ATTR_MSG) {
            let text = String::from_utf8_lossy(text);
            let text = text.trim_end_matches(['\0', ' ']);
            refusal.message = Some(text.to_owned());
        } else if let Ok(Some(miss)) = attrs.find(NLMSGERR_ATTR_MISS_TYPE) {
            let kind = super::attr::get_u32(miss).unwrap_or_default();
            refusal.message = Some(format!("attribute {kind} is missing"));
        }
    }
    Err(Error::Refused(refusal))
}

/// `NLMSG_ERROR`, also the plain acknowledgement.
pub(super) const ERROR: u16 = 2;
/// `NLMSG_DONE`: end of a dump.
pub(super) const DONE: u16 = 3;
/// `NLMSG_OVERRUN`: the kernel lost data.
pub(super) const OVERRUN: u16 = 4;
/// `NLM_F_DUMP_INTR`: what is dumped changed meanwhile.
pub(super) const DUMP_INTR: u16 = 0x10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for msg in Messages(&bytes).flatten() {
                let _ = verdict(&msg);
            }
            for kind in [ERROR, DONE] {
                for flags in [0, 0x100, 0x200, 0x300] {
                    let _ = verdict(&Received { kind, flags, seq: 0, payload: &bytes });
                }
            }
        }
    }

    #[test]
    fn the_reason_in_words_is_found() {
        let mut w = Writer::new();
        w.put_str(1, "cannot be carried: AUTH").unwrap();
        let mut payload = (-libc::EOPNOTSUPP).to_ne_bytes().to_vec();
        payload.extend([0; HEADER]);
        payload.extend(w.bytes());
        let msg = Received {
            kind: ERROR,
            flags: 0x300,
            seq: 1,
            payload: &payload,
        };
        let Err(Error::Refused(r)) = verdict(&msg) else {
            panic!("not refused")
        };
        assert_eq!(r.errno, libc::EOPNOTSUPP);
        assert_eq!(r.message.as_deref(), Some("cannot be carried: AUTH"));
    }
}
