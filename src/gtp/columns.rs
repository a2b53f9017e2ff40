// SPDX-License-Identifier: GPL-2.0-only
//! PDP contexts in a record of the image: columns, because a million of them
//! one by one would be slow to write and to check.

use std::net::IpAddr;

use super::pdp::{Pdp, Tunnel};
use super::{Error, Result};
use crate::proto::GtpTunnels;

/// Tunnels in a record: far below the limit of a record, enough to forget its
/// overhead.
const FULL: usize = 4096;

/// Tunnels of one kind on their way into an image.
#[derive(Debug)]
pub(super) struct Columns(GtpTunnels);

/// What all tunnels of a record have in common: link, version, families.
type Kind = (u32, u32, u32, u32);

fn kind(pdp: &Pdp) -> Kind {
    (
        pdp.link,
        pdp.tunnel.version(),
        family(pdp.ms),
        family(pdp.peer),
    )
}

fn family(ip: IpAddr) -> u32 {
    let family = if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    family.unsigned_abs()
}

/// Records that fill up, one of each kind that has occurred.
#[derive(Debug, Default)]
pub(super) struct Filling(Vec<(Kind, Columns)>);

impl Filling {
    /// Adds a tunnel; answers a record when one is full.
    pub(super) fn add(&mut self, pdp: &Pdp) -> Option<GtpTunnels> {
        let kind = kind(pdp);
        let place = match self.0.iter().position(|(k, _)| *k == kind) {
            Some(place) => place,
            None => {
                self.0.push((kind, Columns(empty(kind))));
                self.0.len() - 1
            }
        };
        let (_, columns) = self.0.get_mut(place)?;
        (columns.add(pdp) == FULL).then(|| std::mem::replace(&mut columns.0, empty(kind)))
    }

    /// What has not filled a record.
    pub(super) fn rest(self) -> impl Iterator<Item = GtpTunnels> {
        self.0
            .into_iter()
            .map(|(_, c)| c.0)
            .filter(|t| !t.ms.is_empty())
    }
}

fn empty((ifindex, version, ms_family, peer_family): Kind) -> GtpTunnels {
    GtpTunnels {
        ifindex,
        version,
        ms_family,
        peer_family,
        ..GtpTunnels::default()
    }
}

impl Columns {
    /// Adds a tunnel of this kind; answers how many there are.
    fn add(&mut self, pdp: &Pdp) -> usize {
        let Self(t) = self;
        for (ip, column) in [(pdp.ms, &mut t.ms), (pdp.peer, &mut t.peer)] {
            match ip {
                IpAddr::V4(ip) => column.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => column.extend_from_slice(&ip.octets()),
            }
        }
        match pdp.tunnel {
            Tunnel::V0 { tid, flow } => {
                t.tid.push(tid);
                t.flow.push(flow.into());
                t.tid.len()
            }
            Tunnel::V1 { i_tei, o_tei } => {
                t.i_tei.push(i_tei);
                t.o_tei.push(o_tei);
                t.i_tei.len()
            }
        }
    }
}

/// How many tunnels a record holds.
///
/// # Errors
/// Its columns differ in length, or it is of a kind that does not exist.
pub(super) fn count(t: &GtpTunnels) -> Result<usize> {
    let bad = || Error::BadImage("a record of tunnels has columns of different length");
    let count = match t.version {
        0 if t.i_tei.is_empty() && t.o_tei.is_empty() && t.tid.len() == t.flow.len() => t.tid.len(),
        1 if t.tid.is_empty() && t.flow.is_empty() && t.i_tei.len() == t.o_tei.len() => {
            t.i_tei.len()
        }
        0 | 1 => return Err(bad()),
        _ => {
            return Err(Error::BadImage(
                "GTP version of a tunnel is neither 0 nor 1",
            ))
        }
    };
    for (family, column) in [(t.ms_family, &t.ms), (t.peer_family, &t.peer)] {
        if count.checked_mul(width(family)?) != Some(column.len()) {
            return Err(bad());
        }
    }
    Ok(count)
}

fn width(family: u32) -> Result<usize> {
    match i32::try_from(family) {
        Ok(libc::AF_INET) => Ok(4),
        Ok(libc::AF_INET6) => Ok(16),
        _ => Err(Error::BadImage("address family of a tunnel is unknown")),
    }
}

/// The tunnels of a record.
///
/// # Errors
/// Those of [`count`], or a value that is out of range.
pub(crate) fn tunnels(t: &GtpTunnels) -> Result<impl Iterator<Item = Result<Pdp>> + '_> {
    let count = count(t)?;
    let (ms, peer) = (width(t.ms_family)?, width(t.peer_family)?);
    let bad = || Error::BadImage("a tunnel is out of range");
    let at = move |place: usize| {
        let tunnel = if t.version == 0 {
            Tunnel::V0 {
                tid: *t.tid.get(place)?,
                flow: u16::try_from(*t.flow.get(place)?).ok()?,
            }
        } else {
            Tunnel::V1 {
                i_tei: *t.i_tei.get(place)?,
                o_tei: *t.o_tei.get(place)?,
            }
        };
        Some(Pdp {
            link: t.ifindex,
            tunnel,
            ms: crate::netlink::ip(t.ms.get(place * ms..(place + 1) * ms)?)?,
            peer: crate::netlink::ip(t.peer.get(place * peer..(place + 1) * peer)?)?,
        })
    };
    Ok((0..count).map(move |place| at(place).ok_or_else(bad)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pdp::tests::any_pdp;
    use super::*;

    proptest! {
        #[test]
        fn columns_give_back_what_they_got(pdps in proptest::collection::vec(any_pdp(3), 0..50)) {
            let mut filling = Filling::default();
            for pdp in &pdps {
                prop_assert!(filling.add(pdp).is_none());
            }
            let mut read: Vec<Pdp> = Vec::new();
            for record in filling.rest() {
                for pdp in tunnels(&record).unwrap() {
                    read.push(pdp.unwrap());
                }
            }
            let mut pdps = pdps;
            pdps.sort_unstable();
            read.sort_unstable();
            prop_assert_eq!(read, pdps);
        }

        #[test]
        fn records_that_lie_are_refused(
            i_tei in proptest::collection::vec(any::<u32>(), 0..5),
            o_tei in proptest::collection::vec(any::<u32>(), 0..5),
            ms in proptest::collection::vec(any::<u8>(), 0..20),
            peer in proptest::collection::vec(any::<u8>(), 0..20),
            version in 0u32..3, ms_family in prop_oneof![Just(2u32), Just(10), any::<u32>()],
        ) {
            let lengths = (i_tei.len(), o_tei.len(), ms.len(), peer.len());
            let t = GtpTunnels { version, i_tei, o_tei, ms, peer, ms_family, peer_family: 2, ..GtpTunnels::default() };
            if let Ok(n) = count(&t) {
                let width = if ms_family == 2 { 4 } else { 16 };
                let told = (lengths.0, lengths.1, lengths.2, lengths.3);
                prop_assert!(told == (n, n, n * width, n * 4));
                prop_assert_eq!(tunnels(&t).unwrap().filter(|p| p.is_ok()).count(), n);
            }
        }
    }

    #[test]
    fn a_full_record_is_handed_out() {
        let mut filling = Filling::default();
        let pdp = |n: u32| Pdp {
            link: 1,
            tunnel: Tunnel::V1 { i_tei: n, o_tei: n },
            ms: IpAddr::from(n.to_be_bytes()),
            peer: IpAddr::from([10, 0, 0, 1]),
        };
        let mut handed = 0;
        for n in 0..10_000u32 {
            handed += filling.add(&pdp(n)).map_or(0, |t| count(&t).unwrap());
        }
        assert_eq!(handed, 8192);
        assert_eq!(
            filling.rest().map(|t| count(&t).unwrap()).sum::<usize>(),
            10_000 - 8192
        );
    }
}
