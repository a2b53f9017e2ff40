// SPDX-License-Identifier: GPL-2.0-only
//! Lists that change while they are read.

use super::Error;

/// Lists that change while they are read are read so often.
const ATTEMPTS: u32 = 8;

/// An error that may say so.
pub(crate) trait Unsettled {
    /// Whether it is [`Error::Interrupted`].
    fn is_interrupted(&self) -> bool;
}

impl Unsettled for Error {
    fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted)
    }
}

/// Reads a list anew when it has changed meanwhile, as when an address comes up.
///
/// # Errors
/// Those of `list`; that of the last attempt, when it does not settle.
pub(crate) fn settled<T, E: Unsettled>(mut list: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 1..ATTEMPTS {
        match list() {
            Err(e) if e.is_interrupted() => {}
            other => return other,
        }
    }
    list()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list that changes during so many readings, and how often it was read.
    fn read(changes: u32) -> (Result<u32, Error>, u32) {
        let mut readings = 0;
        let list = settled(|| {
            readings += 1;
            match readings {
                n if n <= changes => Err(Error::Interrupted),
                n => Ok(n),
            }
        });
        (list, readings)
    }

    #[test]
    fn a_list_is_read_until_it_stands_still() {
        assert!(matches!(read(0), (Ok(1), 1)));
        assert!(matches!(read(7), (Ok(8), 8)));
        assert!(matches!(read(8), (Err(Error::Interrupted), 8)));
    }

    #[test]
    fn other_errors_are_told_at_once() {
        let mut readings = 0;
        let list = settled(|| -> Result<(), Error> {
            readings += 1;
            Err(Error::Malformed("no list"))
        });
        assert!(matches!(list, Err(Error::Malformed(_))));
        assert_eq!(readings, 1);
    }
}
