// SPDX-License-Identifier: GPL-2.0-only
//! The options of an SCTP socket, how they are read and how and when they are
//! put back.
//!
//! An option is kept as the kernel returned it. On restore the new socket is
//! asked first and the option is set only where the answer differs: many have
//! a value that can be read and not set while it is the default.

mod table;

use std::io;
use std::os::fd::BorrowedFd;

use super::{sockopt, Error, Result};
use crate::proto;
pub use table::Stage;
use table::{Entry, How, TABLE};

/// Reads every option this kernel knows for this socket; `connected` when it
/// is one-to-one and has its association.
///
/// # Errors
/// An option the kernel knows cannot be read.
pub fn read(fd: BorrowedFd<'_>, connected: bool) -> Result<Vec<proto::Option>> {
    let mut all = Vec::new();
    for entry in TABLE.iter().filter(|e| !(connected && e.how == How::Alone)) {
        match get(fd, entry) {
            Ok(value) => {
                all.push(proto::Option {
                    level: entry.level,
                    name: entry.name,
                    value,
                });
            }
            Err(e) if absent(&e) => {}
            Err(e) => return Err(Error::sys(format!("getsockopt {}", entry.text))(e)),
        }
    }
    Ok(all)
}

/// Sets those options of one stage that a new socket has otherwise.
///
/// # Errors
/// An option this build does not know, or that the kernel refuses to set.
pub fn write(fd: BorrowedFd<'_>, options: &[proto::Option], stage: Stage) -> Result<()> {
    let known = |o: &proto::Option| TABLE.iter().any(|e| e.level == o.level && e.name == o.name);
    if !options.iter().all(known) {
        return Err(Error::BadImage("socket option this telecr does not know"));
    }
    for entry in TABLE.iter().filter(|e| e.stage == stage) {
        for option in options
            .iter()
            .filter(|o| o.level == entry.level && o.name == entry.name)
        {
            set(fd, entry, &option.value)
                .map_err(Error::sys(format!("setsockopt {}", entry.text)))?;
        }
    }
    Ok(())
}

/// The kernel, or this kind of socket, has no such option.
fn absent(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP))
}

fn get(fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<Vec<u8>> {
    let mut value = vec![0; entry.len];
    sockopt::get(fd, entry.level, entry.name, &mut value)?;
    Ok(value)
}

fn set(fd: BorrowedFd<'_>, entry: &Entry, value: &[u8]) -> io::Result<()> {
    match get(fd, entry) {
        Ok(current) if current == value => return Ok(()),
        Err(e) if absent(&e) && value.iter().all(|b| *b == 0) => return Ok(()),
        // Some can be set on kernels on which they cannot be read.
        Err(e) if !absent(&e) => return Err(e),
        _ => {}
    }
    let put = |name, value: &[u8]| sockopt::set(fd, entry.level, name, value);
    match entry.how {
        How::AsRead | How::Alone => put(entry.name, value),
        // The kernel doubles what it is given, and returns that.
        How::Buffer { force } => {
            let n = <[u8; 4]>::try_from(value).map(u32::from_ne_bytes);
            let n = n.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            put(force, &(n / 2).to_ne_bytes())
        }
        // Bits of the PR-SCTP policy show here and are set by SCTP_DEFAULT_PRINFO.
        How::SendParam => {
            let mut value = value.to_vec();
            if let Some(flags) = value.get_mut(4..6) {
                let read = flags.try_into().map_or(0, u16::from_ne_bytes);
                flags.copy_from_slice(&(read & table::SETTABLE_SEND_FLAGS).to_ne_bytes());
            }
            put(entry.name, &value)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn no_option_stands_twice_in_the_table() {
        for (n, a) in TABLE.iter().enumerate() {
            assert!(
                !TABLE[n + 1..]
                    .iter()
                    .any(|b| (a.level, a.name) == (b.level, b.name)),
                "{}",
                a.text
            );
        }
    }

    #[test]
    fn an_unknown_option_is_refused() {
        let s = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let o = proto::Option {
            level: 9999,
            name: 1,
            value: vec![],
        };
        assert!(write(s.as_fd(), &[o], Stage::Unbound).is_err());
    }

    // Options below SCTP can be tried on any socket.
    #[test]
    fn options_go_from_one_socket_to_another() {
        let a = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let b = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let linger: Vec<u8> = [1i32, 30].iter().flat_map(|n| n.to_ne_bytes()).collect();
        sockopt::set(a.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger).unwrap();
        sockopt::set(
            a.as_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            &60_000i32.to_ne_bytes(),
        )
        .unwrap();
        sockopt::set(
            a.as_fd(),
            libc::IPPROTO_IP,
            libc::IP_TOS,
            &0x68i32.to_ne_bytes(),
        )
        .unwrap();
        let read_a: Vec<_> = read(a.as_fd(), false).unwrap();
        write(b.as_fd(), &read_a, Stage::Unbound).unwrap();
        assert_eq!(read(b.as_fd(), false).unwrap(), read_a);
    }
}
