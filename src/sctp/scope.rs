// SPDX-License-Identifier: GPL-2.0-only
//! The interfaces link-local addresses belong to. An address names its
//! interface by a number that holds on one host alone, so the image names it
//! by its name, in a record before the first address that needs it.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use super::uapi::SCTP_REPAIR_CHUNK_FLAG_NOTIFICATION;
use super::{addr, sockopt, Error, Result};
use crate::image;
use crate::proto::record::Body;
use crate::proto::Interface;

/// Where `struct sockaddr_in6` holds the number.
const SCOPE: Range<usize> = 24..28;

/// The interface a link-local address belongs to.
fn scope(bytes: &[u8]) -> Option<u32> {
    match addr::parse(bytes)? {
        std::net::SocketAddr::V6(a) if a.ip().is_unicast_link_local() => {
            Some(a.scope_id()).filter(|s| *s != 0)
        }
        _ => None,
    }
}

/// Every link-local address of a record and the number of its interface, which
/// `each` may change.
fn each(body: &mut Body, mut each: impl FnMut(&mut u32) -> Result<()>) -> Result<()> {
    let mut visit = |bytes: &mut Vec<u8>| {
        let Some(mut number) = scope(bytes) else {
            return Ok(());
        };
        each(&mut number)?;
        if let Some(place) = bytes.get_mut(SCOPE) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        Ok(())
    };
    match body {
        Body::Endpoint(e) => e.addrs.iter_mut().try_for_each(&mut visit),
        Body::Association(a) => {
            let local = a.local_addrs.iter_mut().chain(&mut a.local_addrs_new);
            local
                .chain(&mut a.local_addrs_del)
                .chain(&mut a.del_pending)
                .chain(a.stats.iter_mut().flat_map(|s| &mut s.obs_rto_addr))
                .try_for_each(&mut visit)?;
            a.paths
                .iter_mut()
                .flat_map(|p| p.addr.iter_mut().chain(&mut p.saddr))
                .try_for_each(&mut visit)
        }
        // What stands in a notification is the application's to read.
        Body::Chunk(c) if c.flags.unwrap_or(0) & SCTP_REPAIR_CHUNK_FLAG_NOTIFICATION == 0 => {
            c.src.iter_mut().try_for_each(&mut visit)
        }
        _ => Ok(()),
    }
}

/// Writes records, and before each what interfaces its addresses belong to.
pub(super) struct Naming<'a, W: Write> {
    socket: BorrowedFd<'a>,
    out: &'a mut image::Writer<W>,
    named: HashSet<u32>,
}

impl<'a, W: Write> Naming<'a, W> {
    /// Names are those of the network namespace of `socket`.
    pub(super) fn new(socket: BorrowedFd<'a>, out: &'a mut image::Writer<W>) -> Self {
        Self {
            socket,
            out,
            named: HashSet::new(),
        }
    }

    /// Writes one record.
    pub(super) fn write(&mut self, mut body: Body) -> Result<()> {
        each(&mut body, |number| {
            if !self.named.insert(*number) {
                return Ok(());
            }
            let name = sockopt::interface_name(self.socket, *number)
                .map_err(Error::sys(format!("name of interface {number}")))?;
            Ok(self.out.write(Body::Interface(Interface {
                number: *number,
                name,
            }))?)
        })?;
        Ok(self.out.write(body)?)
    }
}

/// The numbers of the image and those of this host.
#[derive(Default)]
pub(super) struct Numbers(HashMap<u32, u32>);

impl Numbers {
    /// Takes a record that names an interface; `socket` is of the network
    /// namespace to look in.
    pub(super) fn learn(&mut self, socket: BorrowedFd<'_>, interface: &Interface) -> Result<()> {
        let here = match sockopt::interface_number(socket, &interface.name) {
            Ok(number) => number,
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => {
                return Err(Error::InterfaceMissing {
                    name: interface.name.clone(),
                });
            }
            Err(e) => return Err(Error::sys(format!("interface {}", interface.name))(e)),
        };
        self.0.insert(interface.number, here);
        Ok(())
    }

    /// Puts the numbers of this host into a record.
    pub(super) fn translate(&self, body: &mut Body) -> Result<()> {
        each(body, |number| {
            *number = *self.0.get(number).ok_or(Error::BadImage(
                "link-local address of an interface that has no name",
            ))?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::proto::{Association, Chunk, Path, Stats};

    fn at(text: &str) -> Vec<u8> {
        addr::bytes(text.parse::<SocketAddr>().unwrap())
    }

    #[test]
    fn every_link_local_address_is_translated_and_no_other() {
        let numbers = Numbers(HashMap::from([(3, 7), (4, 9)]));
        let mut body = Body::Association(Association {
            local_addrs: vec![at("[fe80::1%3]:1"), at("192.0.2.1:1")],
            local_addrs_new: vec![at("[fe80::2%4]:1")],
            del_pending: Some(at("[fe80::3%3]:1")),
            stats: Some(Stats {
                obs_rto_addr: Some(at("[fe80::5%4]:2")),
                ..Stats::default()
            }),
            paths: vec![Path {
                addr: Some(at("[fe80::4%4]:2")),
                saddr: Some(at("[2001:db8::1%5]:1")),
                ..Path::default()
            }],
            ..Association::default()
        });
        numbers.translate(&mut body).unwrap();
        let Body::Association(a) = body else { panic!() };
        assert_eq!(a.local_addrs, [at("[fe80::1%7]:1"), at("192.0.2.1:1")]);
        assert_eq!(a.local_addrs_new, [at("[fe80::2%9]:1")]);
        assert_eq!(a.del_pending, Some(at("[fe80::3%7]:1")));
        let seen_on = a.stats.unwrap().obs_rto_addr;
        assert_eq!(seen_on, Some(at("[fe80::5%9]:2")));
        assert_eq!(a.paths[0].addr, Some(at("[fe80::4%9]:2")));
        assert_eq!(a.paths[0].saddr, Some(at("[2001:db8::1%5]:1")));
    }

    #[test]
    fn an_interface_without_a_name_is_refused() {
        let mut body = Body::Chunk(Chunk {
            src: Some(at("[fe80::1%3]:1")),
            ..Chunk::default()
        });
        let e = Numbers::default().translate(&mut body).unwrap_err();
        assert!(e.to_string().contains("has no name"), "{e}");
    }
}
