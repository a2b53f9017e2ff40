// SPDX-License-Identifier: GPL-2.0-only
//! What can be wrong with an image.

use std::io;

/// An error of the image layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error("image: {0}")]
    Io(#[from] io::Error),
    /// The file does not begin as an image does.
    #[error("not a telecr image")]
    Foreign,
    /// The file ends before its last record.
    #[error("image is cut short, copy it again")]
    Truncated,
    /// The bytes are not those that were written.
    #[error("image is damaged ({0}), copy it again")]
    Damaged(&'static str),
    /// The file was written by a telecr with another format.
    #[error("image has format version {0}, this telecr reads {ours}; use the telecr that wrote it", ours = super::FORMAT_VERSION)]
    Version(u32),
    /// The file holds something else than expected.
    #[error("image holds {0:?}, which is not what is wanted here or needs a newer telecr; telecr show tells what is in it")]
    Kind(String),
    /// A record holds fields or a kind of record this build does not know.
    #[error("image record {0} holds something this telecr does not know; use a newer telecr")]
    Unknown(u64),
    /// Too much to write in one record.
    #[error("a record of {0} bytes does not fit an image")]
    TooLong(usize),
}

/// Result of the image layer.
pub type Result<T> = std::result::Result<T, Error>;
