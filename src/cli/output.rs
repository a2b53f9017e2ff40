// SPDX-License-Identifier: GPL-2.0-only
//! Standard output, whose reader may have enough at any time, as `head` does: no reason to fail.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

/// Standard output; flush it at the end.
pub(super) fn open() -> BufWriter<Patient<StdoutLock<'static>>> {
    BufWriter::new(Patient(io::stdout().lock()))
}

/// Takes what nobody reads any more for written.
pub(super) struct Patient<W>(W);

impl<W: Write> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_closed(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_closed(self.0.flush(), ())
    }
}

fn unless_closed<T>(result: io::Result<T>, instead: T) -> io::Result<T> {
    match result {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(instead),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_leaves_is_no_failure() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        drop(reader);
        let mut out = BufWriter::new(Patient(std::fs::File::from(writer)));
        let written = out.write_all(&[0; 100_000]).and_then(|()| out.flush());
        assert!(written.is_ok(), "{written:?}");
    }

    #[test]
    fn a_full_disk_is_one() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let mut out = Patient(full.expect("Linux has /dev/full"));
        assert!(out.write_all(b"x").is_err());
    }
}
