// SPDX-License-Identifier: GPL-2.0-only
//! What can go wrong between telecr and CRIU.

use std::io;

/// An error of the CRIU part, cause first and cure last.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what}: {source}")]
    Sys {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A process holds something that cannot be carried; nothing was changed.
    #[error("process {pid}: {what}")]
    Refused {
        /// The process, as CRIU sees it.
        pid: i32,
        /// What it holds, and the cure.
        what: String,
    },
    /// A stopped thread did not behave as ptrace promises.
    #[error("thread {tid}: {what}")]
    Thread {
        /// The thread.
        tid: i32,
        /// What was seen.
        what: String,
    },
    /// Repair mode refused or failed.
    #[error("{what}: {source}")]
    Repair {
        /// Which socket.
        what: String,
        /// The kernel companion's answer.
        source: crate::sctp::Error,
    },
    /// A GTP link could not be dumped or restored.
    #[error("{what}: {source}")]
    Gtp {
        /// Which link or image.
        what: String,
        /// What is wrong.
        source: crate::gtp::Error,
    },
    /// An image could not be written or read.
    #[error("{what}: {source}")]
    Image {
        /// Which image.
        what: String,
        /// What is wrong with it.
        source: crate::image::Error,
    },
    /// The packet lock could not be changed.
    #[error("{0}")]
    Lock(#[from] crate::lock::Error),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// Result of the CRIU part.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds what was being done to an I/O error.
pub(crate) trait Context<T> {
    /// `what` is only built when there is an error.
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::Sys {
            what: what().into(),
            source,
        })
    }
}
