// SPDX-License-Identifier: GPL-2.0-only
//! Attributes: a type, a length and a value, padded to four bytes.

use super::{Error, Result};

/// Length of an attribute header.
const HEADER: usize = 4;
/// The type without the bits for nesting and byte order.
const TYPE_MASK: u16 = 0x3fff;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;

/// Length with padding.
pub(super) const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// Reads `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Walks attributes, checking every length.
#[derive(Debug, Clone)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// The attributes in `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of this type.
    ///
    /// # Errors
    /// A malformed attribute stands before it.
    pub fn find(&self, kind: u16) -> Result<Option<&'a [u8]>> {
        for attr in self.clone() {
            let (k, value) = attr?;
            if k == kind {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(u16::from_ne_bytes(array(self.0, 0)?));
        let kind = u16::from_ne_bytes(array(self.0, 2)?);
        let value = self.0.get(HEADER..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Result<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let attr = self.step();
        if attr.is_none() {
            self.0 = &[];
        }
        Some(attr.ok_or(Error::Malformed("attribute beyond the end of its message")))
    }
}

/// The value of an attribute that holds a `u16`.
///
/// # Errors
/// It has another length.
pub fn get_u16(value: &[u8]) -> Result<u16> {
    value
        .try_into()
        .map(u16::from_ne_bytes)
        .map_err(|_| Error::Malformed("attribute is not a u16"))
}

/// The value of an attribute that holds a `u32`.
///
/// # Errors
/// It has another length.
pub fn get_u32(value: &[u8]) -> Result<u32> {
    value
        .try_into()
        .map(u32::from_ne_bytes)
        .map_err(|_| Error::Malformed("attribute is not a u32"))
}

/// The value of an attribute that holds a `u8`.
///
/// # Errors
/// It has another length.
pub fn get_u8(value: &[u8]) -> Result<u8> {
    match value {
        [byte] => Ok(*byte),
        _ => Err(Error::Malformed("attribute is not a u8")),
    }
}

/// The value of an attribute that holds a `u64`.
///
/// # Errors
/// It has another length.
pub fn get_u64(value: &[u8]) -> Result<u64> {
    value
        .try_into()
        .map(u64::from_ne_bytes)
        .map_err(|_| Error::Malformed("attribute is not a u64"))
}

/// The value of an attribute that holds a number in four or eight bytes.
///
/// # Errors
/// It has another length.
pub fn get_uint(value: &[u8]) -> Result<u64> {
    match value.len() {
        4 => get_u32(value).map(u64::from),
        _ => get_u64(value).map_err(|_| Error::Malformed("attribute is not a uint")),
    }
}

/// The value of an attribute that holds a text with or without its closing zero.
///
/// # Errors
/// It is no UTF-8.
pub fn get_str(value: &[u8]) -> Result<&str> {
    std::str::from_utf8(value)
        .map(|s| s.trim_end_matches('\0'))
        .map_err(|_| Error::Malformed("attribute is no text"))
}

/// Writes attributes behind one another.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What headers of messages are written to.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Attributes written before, as they were.
    pub fn append(&mut self, attributes: &[u8]) {
        self.0.extend_from_slice(attributes);
        self.0.resize(align(self.0.len()), 0);
    }

    /// A value as it is.
    ///
    /// # Errors
    /// It is longer than an attribute can be.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> Result<()> {
        let len = u16::try_from(HEADER + value.len()).map_err(|_| Error::TooLong("attribute"))?;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(align(self.0.len()), 0);
        Ok(())
    }

    /// A `u16` in host byte order.
    ///
    /// # Errors
    /// Never for a value of this size.
    pub fn put_u16(&mut self, kind: u16, value: u16) -> Result<()> {
        self.put(kind, &value.to_ne_bytes())
    }

    /// A `u32` in host byte order.
    ///
    /// # Errors
    /// Never for a value of this size.
    pub fn put_u32(&mut self, kind: u16, value: u32) -> Result<()> {
        self.put(kind, &value.to_ne_bytes())
    }

    /// A number in host byte order, in four bytes where they will do, else in
    /// eight.
    ///
    /// # Errors
    /// Never for a value of this size.
    pub fn put_uint(&mut self, kind: u16, value: u64) -> Result<()> {
        match u32::try_from(value) {
            Ok(short) => self.put_u32(kind, short),
            Err(_) => self.put(kind, &value.to_ne_bytes()),
        }
    }

    /// A text with its closing zero.
    ///
    /// # Errors
    /// It is longer than an attribute can be.
    pub fn put_str(&mut self, kind: u16, value: &str) -> Result<()> {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// What `fill` writes, as one nested attribute.
    ///
    /// # Errors
    /// Those of `fill`, or the whole is longer than an attribute can be.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut inner = Self::new();
        fill(&mut inner)?;
        self.put_nest(kind, &inner)
    }

    /// Attributes as they were received, as one nested attribute.
    ///
    /// # Errors
    /// The whole is longer than an attribute can be.
    pub fn put_nest_bytes(&mut self, kind: u16, inner: &[u8]) -> Result<()> {
        self.put(kind | NESTED, inner)
    }

    /// What was written elsewhere, as one nested attribute.
    ///
    /// # Errors
    /// The whole is longer than an attribute can be.
    pub fn put_nest(&mut self, kind: u16, inner: &Self) -> Result<()> {
        self.put(kind | NESTED, &inner.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let seen = Attrs::new(&bytes).count();
            prop_assert!(seen <= bytes.len());
            let _ = Attrs::new(&bytes).find(1);
        }

        #[test]
        fn what_is_written_is_read(attrs in proptest::collection::vec(
            (0u16..TYPE_MASK, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut w = Writer::new();
            for (kind, value) in &attrs {
                w.put(*kind, value).unwrap();
            }
            let read: Vec<(u16, Vec<u8>)> =
                Attrs::new(w.bytes()).map(|a| a.map(|(k, v)| (k, v.to_vec())).unwrap()).collect();
            prop_assert_eq!(read, attrs);
        }
    }

    #[test]
    fn a_value_longer_than_its_length_field_is_refused() {
        let mut w = Writer::new();
        assert!(w.put(1, &vec![0; 65531]).is_ok());
        assert!(matches!(w.put(1, &vec![0; 65532]), Err(Error::TooLong(_))));
    }

    #[test]
    fn a_uint_is_as_short_as_it_can_be() {
        for (value, len) in [(0, 4), (0xffff_ffff, 4), (1 << 32, 8), (u64::MAX, 8)] {
            let mut w = Writer::new();
            w.put_uint(1, value).unwrap();
            let (_, bytes) = Attrs::new(w.bytes()).next().unwrap().unwrap();
            assert_eq!(bytes.len(), len);
            assert_eq!(get_uint(bytes).unwrap(), value);
        }
        assert!(get_uint(&[0; 3]).is_err());
    }

    #[test]
    fn a_length_shorter_than_the_header_is_refused() {
        assert!(Attrs::new(&[3, 0, 1, 0]).next().unwrap().is_err());
        assert!(Attrs::new(&[0, 0, 0, 0]).next().unwrap().is_err());
        assert!(Attrs::new(&[4, 0]).next().unwrap().is_err());
    }
}
