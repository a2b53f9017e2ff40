// SPDX-License-Identifier: GPL-2.0-only
//! What the rig and its agent in the guest say to each other over the virtio-serial port.
//!
//! A frame is two little-endian u32 lengths, then that much JSON, then that many raw bytes.

use std::io::{self, Read, Write};

use serde::{de::DeserializeOwned, Deserialize, Serialize};

/// Name of the virtio-serial port.
pub const PORT: &str = "telecr.agent";
/// Folder of the initrd whose files the agent copies into the root.
pub const PAYLOAD: &str = "payload";
/// Folder of the initrd with the modules that the root disk needs, loaded in order of their names.
pub const MODULES: &str = "modules";

const LIMIT: u32 = 1 << 30;

/// From the rig to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Run a program to its end; the frame's bytes are its standard input.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// Kill it after this long.
        limit_ms: u64,
    },
    /// Start a program in a session of its own, with its output in a file.
    Spawn {
        /// Program and arguments.
        argv: Vec<String>,
        /// Where standard output and error go.
        output: String,
    },
    /// Has this child ended?
    Status {
        /// Its process id.
        pid: i32,
    },
    /// Send a signal to any process.
    Signal {
        /// The process id.
        pid: i32,
        /// The signal's number.
        signal: i32,
    },
    /// Write a file; the frame's bytes are its content.
    Put {
        /// Its path.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// Read a file.
    Get {
        /// Its path.
        path: String,
    },
}

/// From the agent to the rig.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The first frame: the guest is up.
    Ready {
        /// Its kernel release.
        kernel: String,
    },
    /// A `Run` ended; the bytes are its output, then its error output.
    Ended {
        /// Exit code, or 128 and the signal.
        code: i32,
        /// How many of the bytes are standard output.
        stdout: usize,
        /// How long it took.
        elapsed_ms: u64,
        /// It was killed because its limit passed.
        late: bool,
    },
    /// A `Spawn` began.
    Started {
        /// The process id.
        pid: i32,
    },
    /// Answer to `Status`.
    Status {
        /// Exit code, once it ended.
        code: Option<i32>,
    },
    /// Done; for `Get`, the bytes are the file.
    Done,
    /// It could not be done.
    Failed {
        /// Why.
        error: String,
    },
}

/// Writes one frame.
pub fn write<T: Serialize>(out: &mut impl Write, head: &T, bytes: &[u8]) -> io::Result<()> {
    let json = serde_json::to_vec(head).map_err(io::Error::other)?;
    let len = |n: usize| {
        u32::try_from(n)
            .map(u32::to_le_bytes)
            .map_err(io::Error::other)
    };
    let mut frame = Vec::with_capacity(8 + json.len() + bytes.len());
    frame.extend_from_slice(&len(json.len())?);
    frame.extend_from_slice(&len(bytes.len())?);
    frame.extend_from_slice(&json);
    frame.extend_from_slice(bytes);
    out.write_all(&frame)?;
    out.flush()
}

/// Reads one frame.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<(T, Vec<u8>)> {
    let mut word = [0u8; 4];
    from.read_exact(&mut word)?;
    let json_len = u32::from_le_bytes(word);
    from.read_exact(&mut word)?;
    let bytes_len = u32::from_le_bytes(word);
    if json_len > LIMIT || bytes_len > LIMIT {
        return Err(io::Error::other(
            "a frame beyond all measure: the two ends are out of step",
        ));
    }
    let mut json = vec![0; json_len as usize];
    from.read_exact(&mut json)?;
    let mut bytes = vec![0; bytes_len as usize];
    from.read_exact(&mut bytes)?;
    Ok((
        serde_json::from_slice(&json).map_err(io::Error::other)?,
        bytes,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive() {
        let mut wire = Vec::new();
        write(&mut wire, &Request::Get { path: "/x".into() }, b"bytes").expect("written");
        let (head, bytes): (Request, _) = read(&mut wire.as_slice()).expect("read");
        assert!(matches!(head, Request::Get { path } if path == "/x"));
        assert_eq!(bytes, b"bytes");
        assert!(read::<Request>(&mut [0xffu8; 64].as_slice()).is_err());
    }
}
