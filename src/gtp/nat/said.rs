// SPDX-License-Identifier: GPL-2.0-only
//! What a rule says: whether it translates addresses, and whose.

use super::super::Result;
use crate::netlink::attr::get_str;
use crate::netlink::{self, Attrs};
use crate::proto::GtpLink;

/// Whose packets a rule must be about.
pub struct Subscribers<'a> {
    /// Their links.
    pub links: &'a [GtpLink],
    /// Their addresses: bytes and prefix length.
    pub prefixes: &'a [(Vec<u8>, u8)],
}

impl Subscribers<'_> {
    /// Whether the first `bits` of `bytes`, the beginning of an address, may be those of a subscriber's.
    fn overlap(&self, bytes: &[u8], bits: usize) -> bool {
        self.overlapping(bytes, bits).next().is_some()
    }

    /// The prefixes that have addresses with these first `bits`.
    fn overlapping<'a>(
        &'a self,
        bytes: &'a [u8],
        bits: usize,
    ) -> impl Iterator<Item = &'a (Vec<u8>, u8)> {
        let same = move |(prefix, len): &&(Vec<u8>, u8)| {
            let bits = usize::from(*len).min(bits).min(bytes.len() * 8);
            let whole = bits / 8;
            let rest = u8::try_from(0xff00u16 >> (bits % 8) & 0xff).unwrap_or_default();
            let last = |b: &[u8]| b.get(whole).map(|b| b & rest);
            bytes.get(..whole) == prefix.get(..whole) && (rest == 0 || last(bytes) == last(prefix))
        };
        self.prefixes.iter().filter(same)
    }

    /// Whether an address is a subscriber's.
    pub(in crate::gtp) fn contain(&self, ip: &[u8]) -> bool {
        self.prefixes.iter().any(|(p, _)| p.len() == ip.len()) && self.overlap(ip, usize::MAX)
    }
}

/// What a register was loaded by, if not by the base of a payload and more: a meta expression.
const META: u32 = 1;

/// Whose packets a rule is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Whose {
    /// It does not say, or in a way that is not understood here.
    #[default]
    Unknown,
    /// Those of other addresses, or from other links.
    Others,
    /// It names a link, or an address that may be a subscriber's.
    Ours,
}

/// What matters in a rule.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) translates: bool,
    /// It translates where packets come from.
    pub(super) hides: bool,
    pub(super) whose: Whose,
    /// It names a link, or as much as the prefix of subscribers.
    pub(super) covers: bool,
    pub(super) uses_set: bool,
    /// It jumps or goes to another chain.
    pub(super) leads_on: bool,
}

impl Said {
    pub(super) fn of(expressions: &[u8], who: &Subscribers<'_>) -> Result<Self> {
        let mut said = Self::default();
        // What the register compared next holds, and how many of its first bits.
        let mut loaded: Option<(u32, u32)> = None;
        let mut bits = usize::MAX;
        for (name, data) in parse(expressions)? {
            let data = Attrs::new(data);
            let number = |kind| -> netlink::Result<Option<u32>> {
                let value = data.find(kind)?.and_then(|v| v.try_into().ok());
                Ok(value.map(u32::from_be_bytes))
            };
            match name {
                "meta" => {
                    loaded = number(2)?.map(|key| (META, key));
                    bits = usize::MAX;
                }
                "payload" => {
                    bits = usize::MAX;
                    let (base, offset) = (number(2)?, number(3)?);
                    loaded = base
                        .zip(offset)
                        .map(|(base, offset)| (base + META + 1, offset));
                }
                "cmp" => {
                    let value = data.find(3)?.map(Attrs::new);
                    let value = value.map(|v| v.find(1)).transpose()?.flatten();
                    let equal = number(2)? == Some(0);
                    if let (Some(what), Some(value), true) = (loaded, value, equal) {
                        said.covers |= covers(what, value, bits, who);
                        said.whose = match is_ours(what, value, bits, who) {
                            Some(true) => Whose::Ours,
                            Some(false) if said.whose == Whose::Unknown => Whose::Others,
                            _ => said.whose,
                        };
                    }
                }
                "bitwise" => {
                    let mask = data.find(4)?.map(Attrs::new);
                    let mask = mask.map(|m| m.find(1)).transpose()?.flatten();
                    bits = mask.map_or(0, leading_ones);
                }
                "immediate" => said.leads_on |= leads_on(&data)?,
                "lookup" => said.uses_set = true,
                "masq" => (said.translates, said.hides) = (true, true),
                "nat" => {
                    said.translates = true;
                    // NFT_NAT_SNAT
                    said.hides |= number(1)? == Some(0);
                }
                "target" => {
                    let name = data.find(1)?.map(get_str).transpose()?;
                    said.translates |=
                        matches!(name, Some("MASQUERADE" | "SNAT" | "DNAT" | "NETMAP"));
                    said.hides |= matches!(name, Some("MASQUERADE" | "SNAT"));
                }
                _ => {}
            }
        }
        Ok(said)
    }
}

/// How many bits of a mask are set before the first that is not.
fn leading_ones(mask: &[u8]) -> usize {
    let whole = mask.iter().take_while(|b| **b == 0xff).count();
    let rest = mask.get(whole).map_or(0, |b| b.leading_ones());
    whole * 8 + usize::try_from(rest).unwrap_or_default()
}

/// Whether an immediate value is the verdict to jump or go to another chain.
fn leads_on(data: &Attrs<'_>) -> netlink::Result<bool> {
    const DATA: u16 = 2;
    const VERDICT: u16 = 2;
    const CODE: u16 = 1;
    const JUMP: i32 = -3;
    const GOTO: i32 = -4;
    let mut inner = data.find(DATA)?;
    for kind in [VERDICT, CODE] {
        inner = inner
            .map(|d| Attrs::new(d).find(kind))
            .transpose()?
            .flatten();
    }
    let code = inner
        .and_then(|c| c.try_into().ok())
        .map(i32::from_be_bytes);
    Ok(matches!(code, Some(JUMP | GOTO)))
}

/// Whether a comparison is with a link or an address of the subscribers; `None`
/// when it is of something else, or says nothing of where packets come from.
fn is_ours(what: (u32, u32), value: &[u8], bits: usize, who: &Subscribers<'_>) -> Option<bool> {
    /// Base of a payload expression: the network header.
    const NETWORK: u32 = 1 + 1 + 1;
    let link = |named: bool, is_input: bool| (named || is_input).then_some(named);
    match what {
        // NFT_META_IIF, OIF
        (1, key @ (4 | 5)) => {
            let named = |l: &GtpLink| value == l.ifindex.to_ne_bytes();
            link(who.links.iter().any(named), key == 4)
        }
        // NFT_META_IIFNAME, OIFNAME
        (1, key @ (6 | 7)) => {
            let named = |l: &GtpLink| get_str(value).is_ok_and(|v| v == l.name);
            link(who.links.iter().any(named), key == 6)
        }
        // NFT_META_MARK: whoever has marked them.
        (1, 3) => Some(false),
        // Source and destination of an IPv4 header, or of an IPv6 header.
        (NETWORK, 12 | 16 | 8 | 24) => Some(who.overlap(value, bits)),
        _ => None,
    }
}

/// Whether a comparison is with a link, or with all addresses of a prefix of subscribers.
fn covers(what: (u32, u32), value: &[u8], bits: usize, who: &Subscribers<'_>) -> bool {
    let bits = bits.min(value.len() * 8);
    let whole = |(_, len): &(Vec<u8>, u8)| bits <= usize::from(*len);
    is_ours(what, value, bits, who) == Some(true)
        && (what.0 == META || who.overlapping(value, bits).any(whole))
}

/// Names and data of a rule's expressions.
pub(super) fn parse(expressions: &[u8]) -> netlink::Result<Vec<(&str, &[u8])>> {
    let mut found = Vec::new();
    for element in Attrs::new(expressions) {
        let attrs = Attrs::new(element?.1);
        if let Some(name) = attrs.find(1)? {
            found.push((get_str(name)?, attrs.find(2)?.unwrap_or_default()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_are_told_by_prefix() {
        let who = Subscribers {
            links: &[],
            prefixes: &[(vec![10, 60, 0, 0], 14)],
        };
        assert!(who.overlap(&[10, 63], usize::MAX));
        assert!(who.overlap(&[10], usize::MAX));
        assert!(!who.overlap(&[10, 64, 0, 0], usize::MAX));
        // 10.0.0.0/10 has them, 10.64.0.0/10 has not.
        assert!(who.overlap(&[10, 0, 0, 0], 10));
        assert!(!who.overlap(&[10, 64, 0, 0], 10));
        assert!(who.contain(&[10, 61, 2, 3]));
        assert!(!who.contain(&[10, 64, 2, 3]));
        assert!(!who.contain(&[10; 16]));
    }

    #[test]
    fn a_part_of_a_prefix_does_not_cover_it() {
        let who = Subscribers {
            links: &[],
            prefixes: &[(vec![10, 0, 0, 0], 8)],
        };
        // The source of an IPv4 packet.
        let source = (3, 12);
        assert!(covers(source, &[10], usize::MAX, &who));
        assert!(covers(source, &[8, 0, 0, 0], 6, &who));
        assert!(!covers(source, &[10, 88], usize::MAX, &who));
        assert!(!covers(source, &[11], usize::MAX, &who));
    }
}
