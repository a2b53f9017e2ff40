// SPDX-License-Identifier: GPL-2.0-only
//! An image into a frozen socket.

use std::collections::HashSet;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;

use super::dump::LISTEN;
use super::options::{self, Stage};
use super::repair::Repair;
use super::scope::Numbers;
use super::{addr, sockopt, Error, Result, Summary};
use crate::image;
use crate::proto::record::Body;
use crate::proto::{Association, Endpoint, Socket};

/// `SCTP_SOCKOPT_BINDX_ADD`: one more address for a bound socket.
const BINDX_ADD: i32 = 100;

/// Makes the socket an image describes, in the current network namespace, whose
/// addresses are `here` ([`local_addresses`](crate::netlink::local_addresses)).
///
/// The socket is frozen: nothing has been sent, and nothing will be before
/// [`Repair::wake`]. On an error everything is closed, which in repair mode
/// says nothing to anybody, so that a second attempt finds the peers as the
/// first one did. Walk the image first ([`image::open`]), to know that it is
/// whole before anything is made.
///
/// # Errors
/// What is wrong with the image, what is missing on this host, or what the
/// kernel refuses.
pub fn restore(
    repair: &mut Repair,
    img: &mut image::Reader<impl Read>,
    here: &HashSet<IpAddr>,
) -> Result<(OwnedFd, Summary)> {
    let made = make(repair, img, here);
    if made.is_err() {
        // Chunks of this socket must not reach the next one.
        repair.discard();
    }
    made
}

fn make(
    repair: &mut Repair,
    img: &mut image::Reader<impl Read>,
    here: &HashSet<IpAddr>,
) -> Result<(OwnedFd, Summary)> {
    img.expect(image::KIND_SCTP_SOCKET)?;
    let Some(Body::Socket(socket)) = img.next_record()? else {
        return Err(Error::BadImage("it does not begin with a socket"));
    };
    let owned = create(&socket)?;
    let fd = owned.as_fd();
    let mut numbers = Numbers::default();
    let Some(Body::Endpoint(endpoint)) = record(img, fd, &mut numbers)? else {
        return Err(Error::BadImage("no endpoint behind the socket"));
    };
    for a in &endpoint.addrs {
        present(a, here)?;
    }

    repair.freeze(fd)?;
    options::write(fd, &socket.options, Stage::Unbound)?;
    let mut summary = Summary::default();
    bind(fd, &endpoint, &mut summary)?;
    options::write(fd, &socket.options, Stage::Bound)?;
    repair.set_endpoint(fd, &endpoint)?;
    if endpoint.state == Some(LISTEN) {
        let backlog = endpoint
            .backlog
            .and_then(|b| i32::try_from(b).ok())
            .unwrap_or(i32::MAX);
        sockopt::listen(fd, backlog).map_err(Error::sys("listen"))?;
        summary.listening = true;
    }

    while let Some(body) = record(img, fd, &mut numbers)? {
        match body {
            Body::Association(asoc) => {
                local(&asoc, here)?;
                repair.flush()?;
                repair.new_association(fd, &asoc)?;
                summary.associations += 1;
            }
            Body::Streams(streams) => repair.set_streams(fd, &streams)?,
            Body::Chunk(chunk) => {
                summary.count(&chunk);
                repair.add_chunk(fd, &chunk)?;
            }
            Body::Socket(_) | Body::Endpoint(_) => {
                return Err(Error::BadImage("second socket"));
            }
            _ => return Err(Error::BadImage("a record of another kind of image")),
        }
    }
    repair.flush()?;
    if socket.r#async {
        let flags = sockopt::status_flags(owned.as_fd())?;
        sockopt::set_status_flags(owned.as_fd(), flags | OFlag::O_ASYNC)?;
    }
    Ok((owned, summary))
}

/// The next record but those that name interfaces, with the numbers of this host.
fn record(
    img: &mut image::Reader<impl Read>,
    fd: BorrowedFd<'_>,
    numbers: &mut Numbers,
) -> Result<Option<Body>> {
    while let Some(mut body) = img.next_record()? {
        if let Body::Interface(interface) = &body {
            numbers.learn(fd, interface)?;
            continue;
        }
        numbers.translate(&mut body)?;
        return Ok(Some(body));
    }
    Ok(None)
}

fn create(socket: &Socket) -> Result<OwnedFd> {
    let domain = i32::try_from(socket.domain)
        .ok()
        .filter(|d| [libc::AF_INET, libc::AF_INET6].contains(d))
        .ok_or(Error::BadImage("unknown address family"))?;
    let kind = i32::try_from(socket.r#type)
        .ok()
        .filter(|t| [libc::SOCK_STREAM, libc::SOCK_SEQPACKET].contains(t))
        .ok_or(Error::BadImage("unknown socket type"))?;
    let flags = if socket.nonblock {
        libc::SOCK_NONBLOCK
    } else {
        0
    };
    sockopt::socket(domain, kind | flags).map_err(Error::sys("SCTP socket"))
}

fn bind(fd: BorrowedFd<'_>, endpoint: &Endpoint, summary: &mut Summary) -> Result<()> {
    if endpoint.port.unwrap_or_default() == 0 {
        return Ok(());
    }
    for (n, bytes) in endpoint.addrs.iter().enumerate() {
        let addr = addr::parse(bytes).ok_or(Error::BadImage("address of no known family"))?;
        let done = if n == 0 {
            sockopt::bind(fd, bytes)
        } else {
            sockopt::set(fd, libc::IPPROTO_SCTP, BINDX_ADD, bytes)
        };
        done.map_err(Error::sys(format!("bind {addr}")))?;
        summary.local.push(addr);
    }
    Ok(())
}

/// Every local address of an association is on this host.
fn local(asoc: &Association, here: &HashSet<IpAddr>) -> Result<()> {
    asoc.local_addrs.iter().try_for_each(|a| present(a, here))
}

fn present(bytes: &[u8], here: &HashSet<IpAddr>) -> Result<()> {
    let addr = addr::parse(bytes).ok_or(Error::BadImage("address of no known family"))?;
    let addr = addr.ip().to_canonical();
    if addr.is_unspecified() || here.contains(&addr) {
        Ok(())
    } else {
        Err(Error::AddressMissing { addr })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_address_is_named_with_its_cure() {
        let a = addr::bytes("192.0.2.10:36412".parse().unwrap());
        let e = present(&a, &HashSet::new()).unwrap_err().to_string();
        assert_eq!(
            e,
            "address 192.0.2.10 is not on this host; ip address add 192.0.2.10/32 dev DEV"
        );
        let any = addr::bytes("[::]:36412".parse().unwrap());
        assert!(present(&any, &HashSet::new()).is_ok());
    }

    #[test]
    fn unknown_sockets_are_not_made() {
        let s = Socket {
            domain: 2,
            r#type: 3,
            ..Socket::default()
        };
        assert!(create(&s).unwrap_err().to_string().contains("socket type"));
        let s = Socket {
            domain: 99,
            r#type: 1,
            ..Socket::default()
        };
        assert!(create(&s).unwrap_err().to_string().contains("family"));
    }
}
