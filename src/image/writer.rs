// SPDX-License-Identifier: GPL-2.0-only
//! Writing an image, record by record.

use std::io::Write;

use prost::Message;

use super::{Error, Result, MAGIC, MAX_RECORD};
use crate::proto::{record::Body, End, Header, Record};

/// Writes an image to anything; buffers nothing but one record.
///
/// Without [`Writer::finish`] the image is incomplete and will be refused.
pub struct Writer<W> {
    out: W,
    crc: crc32fast::Hasher,
    records: u64,
    buf: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins an image.
    ///
    /// # Errors
    /// Writing failed.
    pub fn new(out: W, header: Header) -> Result<Self> {
        let mut w = Self {
            out,
            crc: crc32fast::Hasher::new(),
            records: 0,
            buf: Vec::new(),
        };
        w.crc.update(MAGIC);
        w.out.write_all(MAGIC)?;
        w.write(Body::Header(header))?;
        Ok(w)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// Writing failed, or the record is too long.
    pub fn write(&mut self, body: Body) -> Result<()> {
        let record = Record { body: Some(body) };
        let len = record.encoded_len();
        if len > MAX_RECORD {
            return Err(Error::TooLong(len));
        }
        let prefix = u32::try_from(len).map_err(|_| Error::TooLong(len))?;
        self.buf.clear();
        self.buf.extend_from_slice(&prefix.to_le_bytes());
        record
            .encode(&mut self.buf)
            .map_err(|_| Error::TooLong(len))?;
        self.crc.update(&self.buf);
        self.out.write_all(&self.buf)?;
        self.records += 1;
        Ok(())
    }

    /// Ends the image and gives back what it was written to, flushed.
    ///
    /// # Errors
    /// Writing failed.
    pub fn finish(mut self) -> Result<W> {
        let end = End {
            records: self.records,
            crc32: self.crc.clone().finalize(),
        };
        self.write(Body::End(end))?;
        self.out.flush()?;
        Ok(self.out)
    }
}
