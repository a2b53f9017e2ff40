// SPDX-License-Identifier: GPL-2.0-only
//! Bytes as people want to see them in JSON: hex digits, or an address.

use std::fmt::Write;

use serde::ser::SerializeSeq;
use serde::Serializer;

/// A field of bytes, however often it may occur.
pub(crate) trait Field {
    /// Whether it is written as a list.
    const LIST: bool;
    /// The values present.
    fn values(&self) -> impl Iterator<Item = &[u8]>;
}

impl Field for Vec<u8> {
    const LIST: bool = false;
    fn values(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.as_slice())
    }
}

impl Field for Option<Vec<u8>> {
    const LIST: bool = false;
    fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.as_deref().into_iter()
    }
}

impl Field for Vec<Vec<u8>> {
    const LIST: bool = true;
    fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.iter().map(Vec::as_slice)
    }
}

fn write<F: Field, S: Serializer>(
    field: &F,
    out: S,
    show: impl Fn(&[u8]) -> String,
) -> Result<S::Ok, S::Error> {
    if F::LIST {
        let mut seq = out.serialize_seq(None)?;
        for v in field.values() {
            seq.serialize_element(&show(v))?;
        }
        return seq.end();
    }
    match field.values().next() {
        Some(v) => out.serialize_str(&show(v)),
        None => out.serialize_none(),
    }
}

/// That there is one, and how long; what it is stays in the image.
pub(crate) fn secret<F: Field, S: Serializer>(field: &F, out: S) -> Result<S::Ok, S::Error> {
    write(field, out, |bytes| {
        format!("secret of {} bytes", bytes.len())
    })
}

/// Two digits a byte.
pub(crate) fn hex<F: Field, S: Serializer>(field: &F, out: S) -> Result<S::Ok, S::Error> {
    write(field, out, digits)
}

/// A `sockaddr_in` or `sockaddr_in6`; anything else as hex digits.
pub(crate) fn addr<F: Field, S: Serializer>(field: &F, out: S) -> Result<S::Ok, S::Error> {
    write(field, out, |b| match crate::sctp::addr::parse(b) {
        Some(a) => a.ip().to_string(),
        None => digits(b),
    })
}

/// An address of 4 or 16 bytes; anything else as hex digits.
pub(crate) fn ip<F: Field, S: Serializer>(field: &F, out: S) -> Result<S::Ok, S::Error> {
    write(field, out, |b| match crate::netlink::ip(b) {
        Some(ip) => ip.to_string(),
        None => digits(b),
    })
}

fn digits(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut s, b| {
            // Writing to a String cannot fail.
            let _ = write!(s, "{b:02x}");
            s
        })
}
