// SPDX-License-Identifier: GPL-2.0-only
//! The messages the two programs exchange.

/// First four bytes of each message.
const MAGIC: u32 = 0x5443_4d31;
/// Bytes before the filling.
pub const HEADER: usize = 20;

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbered user data.
    Data,
    /// "I sent this many on each stream and will send no more."
    Totals,
    /// "Tell me your account, complete or not."
    Ask,
    /// The account of what was received, as JSON.
    Account,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Totals => 2,
            Self::Ask => 3,
            Self::Account => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Data, Self::Totals, Self::Ask, Self::Account]
            .into_iter()
            .find(|k| k.code() == code)
    }
}

/// A message taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its purpose.
    pub kind: Kind,
    /// Stream it was sent on.
    pub stream: u16,
    /// The association's number, chosen by `enb-peer`.
    pub assoc: u32,
    /// Its number on this stream.
    pub seq: u64,
    /// What follows the header.
    pub body: &'a [u8],
}

/// A message with the given body.
pub fn build(kind: Kind, assoc: u32, stream: u16, seq: u64, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.push(kind.code());
    out.push(0);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&assoc.to_be_bytes());
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// A numbered data message, whose size and filling follow from its numbers.
pub fn data(assoc: u32, stream: u16, seq: u64) -> Vec<u8> {
    build(Kind::Data, assoc, stream, seq, &filling(assoc, stream, seq))
}

/// Takes a message apart; `None` when it is not one of ours.
pub fn parse(bytes: &[u8]) -> Option<Message<'_>> {
    let (header, body) = bytes.split_at_checked(HEADER)?;
    if header.get(..4)? != MAGIC.to_be_bytes() {
        return None;
    }
    Some(Message {
        kind: Kind::from_code(*header.get(4)?)?,
        stream: u16::from_be_bytes(header.get(6..8)?.try_into().ok()?),
        assoc: u32::from_be_bytes(header.get(8..12)?.try_into().ok()?),
        seq: u64::from_be_bytes(header.get(12..20)?.try_into().ok()?),
        body,
    })
}

/// Is the filling of a data message what its sender put there?
pub fn intact(m: &Message<'_>) -> bool {
    m.body == filling(m.assoc, m.stream, m.seq)
}

/// S1AP sizes: most messages 20 to 1400 bytes, one in 64 between 5 and 20 KB.
fn filling(assoc: u32, stream: u16, seq: u64) -> Vec<u8> {
    let mix = mix(seq ^ u64::from(assoc) << 40 ^ u64::from(stream) << 24);
    let size = if mix % 64 == 0 {
        5_000 + (mix >> 8) % 15_000
    } else {
        20 + (mix >> 8) % 1_380
    };
    let body = usize::try_from(size)
        .unwrap_or(HEADER)
        .saturating_sub(HEADER);
    let first = mix.to_le_bytes()[0];
    (0..body)
        .map(|i| first.wrapping_add(i.to_le_bytes()[0]))
        .collect()
}

/// A well-spread number from a plain one (splitmix64).
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let bytes = data(7, 3, 1000);
        let m = parse(&bytes).expect("ours");
        assert_eq!((m.kind, m.assoc, m.stream, m.seq), (Kind::Data, 7, 3, 1000));
        assert!(intact(&m));
    }

    #[test]
    fn damage_is_seen() {
        let mut bytes = (0..)
            .map(|s| data(1, 0, s))
            .find(|b| b.len() > 100)
            .expect("a long one");
        bytes[60] ^= 1;
        assert!(!intact(&parse(&bytes).expect("ours")));
        assert_eq!(parse(b"short"), None);
        assert_eq!(parse(&[0; 40]), None);
    }

    #[test]
    fn sizes_are_those_of_s1ap() {
        let sizes: Vec<usize> = (0..2000).map(|s| data(0, 0, s).len()).collect();
        assert!(sizes
            .iter()
            .all(|n| (20..=1400).contains(n) || (5_000..=20_000).contains(n)));
        assert!(sizes.iter().any(|n| *n > 5_000));
    }
}
