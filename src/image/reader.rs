// SPDX-License-Identifier: GPL-2.0-only
//! Reading an image, which may hold anything.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use prost::Message;

use super::{Error, Result, FORMAT_VERSION, KIND_GTP, KIND_SCTP_SOCKET, MAGIC, MAX_RECORD};
use crate::proto::{record::Body, Header, Record};

/// Reads an image record by record.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    crc: crc32fast::Hasher,
    records: u64,
    header: Header,
    buf: Vec<u8>,
    again: Vec<u8>,
    ended: bool,
}

/// What [`verify`] found.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What wrote the image.
    pub header: Header,
    /// Records, with the first and the last one.
    pub records: u64,
}

impl<R: Read> Reader<R> {
    /// Begins to read; the header is checked.
    ///
    /// # Errors
    /// This is no image, or not one this build reads.
    pub fn new(input: R) -> Result<Self> {
        let mut r = Self {
            input,
            crc: crc32fast::Hasher::new(),
            records: 0,
            header: Header::default(),
            buf: Vec::new(),
            again: Vec::new(),
            ended: false,
        };
        let mut magic = [0; MAGIC.len()];
        r.input.read_exact(&mut magic).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::Foreign,
            _ => e.into(),
        })?;
        if magic != *MAGIC {
            return Err(Error::Foreign);
        }
        r.crc.update(&magic);
        let Some(Body::Header(header)) = r.record()? else {
            return Err(Error::Damaged("no header"));
        };
        if header.format_version != FORMAT_VERSION {
            return Err(Error::Version(header.format_version));
        }
        if ![KIND_SCTP_SOCKET, KIND_GTP].contains(&header.kind.as_str()) {
            return Err(Error::Kind(header.kind));
        }
        r.header = header;
        Ok(r)
    }

    /// What wrote the image.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Checks what the image holds.
    ///
    /// # Errors
    /// Something else than `kind`.
    pub fn expect(&self, kind: &str) -> Result<()> {
        if self.header.kind == kind {
            Ok(())
        } else {
            Err(Error::Kind(self.header.kind.clone()))
        }
    }

    /// The next record; `None` after a correct end.
    ///
    /// # Errors
    /// The image is cut short, damaged, or holds what this build does not know.
    pub fn next_record(&mut self) -> Result<Option<Body>> {
        if self.ended {
            return Ok(None);
        }
        let crc = self.crc.clone().finalize();
        let records = self.records;
        match self.record()? {
            Some(Body::Header(_)) => Err(Error::Damaged("second header")),
            Some(Body::End(end)) => {
                if end.records != records {
                    return Err(Error::Damaged("records are missing"));
                }
                if end.crc32 != crc {
                    return Err(Error::Damaged("checksum"));
                }
                if self.input.read(&mut [0])? != 0 {
                    return Err(Error::Damaged("bytes after the end"));
                }
                self.ended = true;
                Ok(None)
            }
            body => Ok(body),
        }
    }

    fn exact(&mut self, len: usize) -> Result<()> {
        // Grows with what arrives, not with what is promised.
        self.buf.clear();
        let want = u64::try_from(len).unwrap_or(u64::MAX);
        let got = self.input.by_ref().take(want).read_to_end(&mut self.buf)?;
        if got != len {
            return Err(Error::Truncated);
        }
        self.crc.update(&self.buf);
        Ok(())
    }

    fn record(&mut self) -> Result<Option<Body>> {
        self.exact(4)?;
        let prefix = self.buf.as_slice().try_into().map(u32::from_le_bytes);
        let len = prefix.ok().and_then(|n| usize::try_from(n).ok());
        let len = len
            .filter(|n| *n <= MAX_RECORD)
            .ok_or(Error::Damaged("record length"))?;
        self.exact(len)?;
        let record =
            Record::decode(self.buf.as_slice()).map_err(|_| Error::Damaged("record contents"))?;
        // prost skips what it does not know: that shows when it writes again.
        self.again.clear();
        record
            .encode(&mut self.again)
            .map_err(|_| Error::Damaged("record contents"))?;
        if record.body.is_none() || self.again != self.buf {
            return Err(Error::Unknown(self.records));
        }
        self.records += 1;
        Ok(record.body)
    }
}

/// Walks a whole image.
///
/// # Errors
/// Whatever is wrong with it.
pub fn verify(path: impl AsRef<Path>) -> Result<Verified> {
    walk(File::open(path)?)
}

fn walk(file: impl Read) -> Result<Verified> {
    let mut reader = Reader::new(BufReader::new(file))?;
    while reader.next_record()?.is_some() {}
    Ok(Verified {
        header: reader.header,
        records: reader.records,
    })
}

/// Opens an image after walking the whole of it once.
///
/// # Errors
/// Whatever is wrong with it.
pub fn open(mut file: File) -> Result<Reader<BufReader<File>>> {
    walk(&file)?;
    file.seek(SeekFrom::Start(0))?;
    Reader::new(BufReader::new(file))
}
