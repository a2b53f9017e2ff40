// SPDX-License-Identifier: GPL-2.0-only
//! Messages that are almost right.

use super::spec::{Kind, Sets};
use crate::rng::Rng;

/// `NLA_F_NESTED`, beside the number.
pub const NESTED: u16 = 0x8000;

/// One attribute: number, value, whether it is marked as a nest, and a length told instead of its own.
#[derive(Debug, Clone)]
pub struct Attr {
    pub number: u16,
    pub value: Vec<u8>,
    nested: bool,
    lie: Option<u16>,
}

impl Attr {
    pub fn new(number: u16, value: Vec<u8>) -> Self {
        Self {
            number: number & !NESTED,
            value,
            nested: number & NESTED != 0,
            lie: None,
        }
    }
}

/// Attributes as bytes.
pub fn encode(attrs: &[Attr]) -> Vec<u8> {
    let mut out = Vec::new();
    for a in attrs {
        let len = u16::try_from(a.value.len() + 4).unwrap_or(u16::MAX);
        out.extend(a.lie.unwrap_or(len).to_ne_bytes());
        out.extend((a.number | if a.nested { NESTED } else { 0 }).to_ne_bytes());
        out.extend(&a.value[..a.value.len().min(65_500)]);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// Bytes as attributes, as far as they are some.
pub fn decode(mut bytes: &[u8]) -> Vec<Attr> {
    let mut all = Vec::new();
    while let [a, b, c, d, ..] = *bytes {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = bytes.get(4..len.max(4)) else {
            break;
        };
        all.push(Attr::new(u16::from_ne_bytes([c, d]), value.to_vec()));
        bytes = bytes
            .get(len.max(4).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    all
}

/// Changes one thing about a message of an attribute set; attribute 1 of the outermost, the socket, mostly stays.
pub fn mutate(rng: &mut Rng, sets: &Sets, set: &str, attrs: &mut Vec<Attr>, outermost: bool) {
    let kinds = &sets[set];
    let first = usize::from(outermost && !rng.percent(3));
    let any = |rng: &mut Rng, attrs: &Vec<Attr>| {
        (attrs.len() > first).then(|| first + rng.below(attrs.len() - first))
    };
    match rng.below(14) {
        0 => {
            if let Some(n) = any(rng, attrs) {
                attrs.remove(n);
            }
        }
        1 => {
            if let Some(n) = any(rng, attrs) {
                let again = attrs[n].clone();
                attrs.push(again);
            }
        }
        2 => {
            if let (Some(a), Some(b)) = (any(rng, attrs), any(rng, attrs)) {
                attrs.swap(a, b);
            }
        }
        3 | 4 => {
            let number = u16::try_from(1 + first + rng.below(kinds.len() + 1)).unwrap();
            let value = generate(rng, sets, set, number, 2);
            match attrs.iter_mut().find(|a| a.number == number) {
                Some(a) if rng.percent(70) => a.value = value,
                _ => {
                    let nest = matches!(kinds.get(usize::from(number) - 1), Some(Kind::Nest(_)));
                    let mark = if nest && rng.percent(95) { NESTED } else { 0 };
                    attrs.push(Attr::new(number | mark, value));
                }
            }
        }
        5 => {
            if let Some(n) = any(rng, attrs) {
                attrs[n].lie = Some(rng.pick(&[0, 1, 3, 4, 5, 8, 0x7fff, u16::MAX]));
            }
        }
        6 => {
            if let Some(n) = any(rng, attrs) {
                let value = &mut attrs[n].value;
                let len = rng.pick(&[0, 1, value.len() / 2, value.len() + 1, value.len() * 2, 300]);
                value.resize(len, 0xa5);
            }
        }
        7 if rng.percent(5) => {
            if let Some(n) = any(rng, attrs) {
                attrs[n].value.resize(60_000, 1);
            }
        }
        _ => {
            if let Some(n) = any(rng, attrs) {
                let number = usize::from(attrs[n].number);
                match number.checked_sub(1).and_then(|n| kinds.get(n)) {
                    Some(Kind::Nest(inner)) => {
                        let mut below = decode(&attrs[n].value);
                        mutate(rng, sets, inner, &mut below, false);
                        attrs[n].value = encode(&below);
                    }
                    _ => change(rng, &mut attrs[n].value),
                }
            }
        }
    }
}

/// Another value, not far away.
fn change(rng: &mut Rng, value: &mut [u8]) {
    if value.is_empty() {
        return;
    }
    match *value {
        [a, b, c, d] if rng.percent(70) => {
            let n = u32::from_ne_bytes([a, b, c, d]);
            let n = match rng.below(5) {
                0 => number(rng),
                1 => n.wrapping_add(rng.within(1..=3)),
                2 => n.wrapping_sub(rng.within(1..=3)),
                3 => n ^ (1 << rng.below(32)),
                _ => n.wrapping_add(0x8000_0000),
            };
            value.copy_from_slice(&n.to_ne_bytes());
        }
        [a, b] if rng.percent(70) => {
            let n = u16::from_ne_bytes([a, b]);
            let n = rng.pick(&[
                0,
                1,
                n.wrapping_add(1),
                n.wrapping_sub(1),
                n ^ 0x100,
                0x7fff,
                u16::MAX,
            ]);
            value.copy_from_slice(&n.to_ne_bytes());
        }
        _ => {
            for _ in 0..rng.within(1..=4u64) {
                let n = if rng.percent(60) {
                    rng.below(value.len().min(24))
                } else {
                    rng.below(value.len())
                };
                value[n] = match rng.below(3) {
                    0 => rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                    1 => value[n] ^ (1 << rng.below(8)),
                    _ => rng.within(0..=255),
                };
            }
        }
    }
}

fn number(rng: &mut Rng) -> u32 {
    let some = [
        0,
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        16,
        64,
        255,
        256,
        1000,
        0x7fff,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX,
    ];
    if rng.percent(80) {
        rng.pick(&some)
    } else {
        rng.within(0..=u64::from(u32::MAX))
    }
}

/// A value for an attribute, of the length its kind has.
fn generate(rng: &mut Rng, sets: &Sets, set: &str, number: u16, depth: u8) -> Vec<u8> {
    let kind = sets[set].get(usize::from(number).saturating_sub(1));
    match kind {
        Some(Kind::U16) => rng
            .pick(&[0u16, 1, 2, 80, 5000, 0x7fff, u16::MAX])
            .to_ne_bytes()
            .to_vec(),
        Some(Kind::Uint) if rng.percent(30) => {
            (u64::from(self::number(rng)) << 32).to_ne_bytes().to_vec()
        }
        Some(Kind::U32 | Kind::Uint) => self::number(rng).to_ne_bytes().to_vec(),
        Some(Kind::Nest(inner)) if depth > 0 => {
            let count = rng.below(6);
            let all: Vec<Attr> = (0..count)
                .map(|_| {
                    let number = u16::try_from(1 + rng.below(sets[inner].len())).unwrap();
                    Attr::new(number, generate(rng, sets, inner, number, depth - 1))
                })
                .collect();
            encode(&all)
        }
        _ => {
            let len = rng.pick(&[0usize, 1, 4, 8, 16, 20, 28, 32, 64, 100, 128, 1500]);
            let family: u16 = rng.pick(&[2, 10, 0, 0xffff]);
            let mut value: Vec<u8> = family.to_ne_bytes().to_vec();
            value.resize_with(len, || rng.within(0..=255));
            value
        }
    }
}
