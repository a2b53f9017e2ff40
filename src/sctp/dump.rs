// SPDX-License-Identifier: GPL-2.0-only
//! A frozen socket into an image.

use std::io::Write;
use std::os::fd::BorrowedFd;

use nix::fcntl::OFlag;

use super::repair::Repair;
use super::scope::Naming;
use super::uapi::SCTP_REPAIR_QUEUE_SENT;
use super::{addr, options, sockopt, Error, Result, Summary};
use crate::image;
use crate::proto::record::Body;
use crate::proto::{Chunk, Socket};

/// Writes all that one socket holds. It must be frozen and stays so; the
/// caller ends the image ([`image::Writer::finish`]).
///
/// # Errors
/// The kernel refuses to read the socket (it is not frozen), or writing failed.
pub fn dump(
    repair: &mut Repair,
    fd: BorrowedFd<'_>,
    out: &mut image::Writer<impl Write>,
) -> Result<Summary> {
    let mut summary = Summary::default();
    let mut out = Naming::new(fd, out);
    let endpoint = repair.endpoint(fd)?;
    let connected = matches!(endpoint.state, Some(ESTABLISHED | CLOSING));
    if sockopt::has_filter(fd)? {
        let port = endpoint.port.unwrap_or_default();
        return Err(Error::Filter { port });
    }
    let flags = sockopt::status_flags(fd)?;
    out.write(Body::Socket(Socket {
        domain: sockopt::get_number(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?,
        r#type: sockopt::get_number(fd, libc::SOL_SOCKET, libc::SO_TYPE)?,
        nonblock: flags.contains(OFlag::O_NONBLOCK),
        r#async: flags.contains(OFlag::O_ASYNC),
        options: options::read(fd, connected)?,
    }))?;

    if endpoint.port.is_some_and(|p| p != 0) {
        summary.local = endpoint
            .addrs
            .iter()
            .filter_map(|a| addr::parse(a))
            .collect();
    }
    summary.listening = endpoint.state == Some(LISTEN);
    out.write(Body::Endpoint(endpoint))?;

    repair.associations(fd, |asoc| {
        summary.associations += 1;
        out.write(Body::Association(asoc))
    })?;
    if summary.associations == 0 {
        return Ok(summary);
    }
    repair.streams(fd, |streams| {
        // A direction with nothing to tell needs no record.
        if streams.entries.is_empty() {
            return Ok(());
        }
        out.write(Body::Streams(streams))
    })?;

    // The kernel keeps sent chunks on several lists; they must go back in the
    // order of their TSNs. Everything else is in order already. An association
    // is done with its sent chunks when anything else shows.
    let mut sent: Vec<Chunk> = Vec::new();
    repair.chunks(fd, |chunk| {
        summary.count(&chunk);
        let is_sent = chunk.queue == Some(SCTP_REPAIR_QUEUE_SENT);
        let same = sent.first().is_none_or(|c| c.assoc_id == chunk.assoc_id);
        if !(is_sent && same) {
            write_sent(&mut sent, &mut out)?;
        }
        if is_sent {
            sent.push(chunk);
            return Ok(());
        }
        out.write(Body::Chunk(chunk))
    })?;
    write_sent(&mut sent, &mut out)?;
    Ok(summary)
}

/// `TCP_LISTEN`, which is `SCTP_SS_LISTENING` too.
pub(super) const LISTEN: u32 = 10;

/// `TCP_ESTABLISHED`, which is `SCTP_SS_ESTABLISHED` too.
pub(super) const ESTABLISHED: u32 = 1;

/// `TCP_CLOSE_WAIT`, which is `SCTP_SS_CLOSING` too: one side or both have shut down.
pub(super) const CLOSING: u32 = 8;

fn write_sent(sent: &mut Vec<Chunk>, out: &mut Naming<'_, impl Write>) -> Result<()> {
    sort_by_tsn(sent);
    for chunk in sent.drain(..) {
        out.write(Body::Chunk(chunk))?;
    }
    Ok(())
}

/// Sorts by TSN in serial number arithmetic (RFC 1982): the distance from any
/// of them, with those behind it put first: all lie within half the number space.
fn sort_by_tsn(sent: &mut [Chunk]) {
    let Some(base) = sent.first().map(wire_tsn) else {
        return;
    };
    sent.sort_by_key(|c| wire_tsn(c).wrapping_sub(base).wrapping_add(1 << 31));
}

/// The TSN in an outgoing DATA or I-DATA chunk, behind its header of 4 bytes.
fn wire_tsn(chunk: &Chunk) -> u32 {
    let data = chunk.data.as_deref().unwrap_or_default();
    crate::netlink::attr::array(data, 4).map_or(0, u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tsns_are_sorted_across_the_wrap() {
        let chunk = |tsn: u32| {
            let mut data = vec![0, 3, 0, 17];
            data.extend(tsn.to_be_bytes());
            Chunk {
                data: Some(data),
                ..Chunk::default()
            }
        };
        let mut sent: Vec<Chunk> = [1, u32::MAX, 0, u32::MAX - 5, 7, u32::MAX - 1]
            .map(chunk)
            .into();
        sort_by_tsn(&mut sent);
        let order: Vec<u32> = sent.iter().map(wire_tsn).collect();
        assert_eq!(order, [u32::MAX - 5, u32::MAX - 1, u32::MAX, 0, 1, 7]);
    }
}
