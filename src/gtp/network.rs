// SPDX-License-Identifier: GPL-2.0-only
//! Addresses, routes and policy rules of a link: kept as the kernel reports
//! them, so that nothing is lost which this build does not know.

use std::collections::HashSet;

use neli::consts::rtnl::Rtm;

use super::{Error, Result};
use crate::netlink::attr::{get_str, get_u32};
use crate::netlink::settled::settled;
use crate::netlink::{self, Attrs, Message, Protocol, Socket, Writer};
use crate::proto::{GtpLink, Rtnetlink};

/// Lengths of `struct ifaddrmsg`, `struct rtmsg` and `struct fib_rule_hdr`.
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const RULE_HEADER: usize = 12;

/// `IFA_FLAGS`.
const IFA_FLAGS: u16 = 8;
/// Flags of an address that one may ask for: NODAD, HOMEADDRESS,
/// MANAGETEMPADDR, NOPREFIXROUTE, MCAUTOJOIN. The others say how it came to be.
const ASKABLE: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;

const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_NH_ID: u16 = 30;
/// `RTPROT_KERNEL`: comes and goes with an address.
const BY_KERNEL: u8 = 2;
/// `RTM_F_CLONED`: a cache entry.
const CLONED: u32 = 0x200;
/// `RTNH_F_ONLINK`, the only next hop flag one may ask for.
const ONLINK: u32 = 4;

const FRA_IIFNAME: u16 = 3;
const FRA_TABLE: u16 = 15;
const FRA_OIFNAME: u16 = 17;
/// Tables that all namespaces have: rules into them tell nothing.
const COMMON_TABLES: [u32; 4] = [0, 253, 254, 255];

/// Addresses and routes of a link, in the order to restore them, then the
/// policy rules that name the link or a table of its own that it has routes in.
///
/// # Errors
/// A route that cannot be carried, or those of the netlink socket.
pub fn read(link: &GtpLink) -> Result<Vec<Rtnetlink>> {
    settled(|| {
        let mut socket = Socket::open(Protocol::Route)?;
        let mut found = addresses(&mut socket, link)?;
        let (routes, tables) = routes(&mut socket, link)?;
        found.extend(routes);
        found.extend(rules(&mut socket, link, &tables)?);
        Ok(found)
    })
}

fn entry(kind: Rtm, payload: &[u8]) -> Rtnetlink {
    Rtnetlink {
        kind: u16::from(kind).into(),
        message: payload.to_vec(),
    }
}

fn addresses(socket: &mut Socket, link: &GtpLink) -> Result<Vec<Rtnetlink>> {
    let mut found = Vec::new();
    let msg = Message::new(u16::from(Rtm::Getaddr), 0, &[0; ADDRESS_HEADER]);
    socket.dump(msg, |payload| {
        if payload.get(4..8).and_then(|b| get_u32(b).ok()) == Some(link.ifindex) {
            found.push(entry(Rtm::Newaddr, payload));
        }
        Ok::<(), netlink::Error>(())
    })?;
    Ok(found)
}

/// Routes through a link, and the numbers of the tables they are in.
fn routes(socket: &mut Socket, link: &GtpLink) -> Result<(Vec<Rtnetlink>, HashSet<u32>)> {
    let (mut found, mut tables) = (Vec::new(), HashSet::new());
    let msg = Message::new(u16::from(Rtm::Getroute), 0, &[0; ROUTE_HEADER]);
    socket.dump(msg, |payload| {
        let Some(route) = Route::read(payload)? else {
            return Err(netlink::Error::Malformed("no route header").into());
        };
        if !route.links.contains(&link.ifindex) || route.cloned || route.by_kernel {
            return Ok(());
        }
        if route.by_object {
            return Err(Error::Unsupported(format!(
                "link {}: a route uses a next hop object, which cannot be carried; replace it by a plain route",
                link.name
            )));
        }
        tables.insert(route.table);
        found.push(entry(Rtm::Newroute, payload));
        Ok(())
    })?;
    Ok((found, tables))
}

/// What is looked at in a route.
struct Route {
    links: Vec<u32>,
    table: u32,
    by_kernel: bool,
    by_object: bool,
    cloned: bool,
}

impl Route {
    fn read(payload: &[u8]) -> netlink::Result<Option<Self>> {
        let (Some(header), Some(attrs)) =
            (payload.get(..ROUTE_HEADER), payload.get(ROUTE_HEADER..))
        else {
            return Ok(None);
        };
        let byte = |place: usize| header.get(place).copied().unwrap_or_default();
        let flags = header
            .get(8..12)
            .map(get_u32)
            .transpose()?
            .unwrap_or_default();
        let mut route = Self {
            links: Vec::new(),
            table: byte(4).into(),
            by_kernel: byte(5) == BY_KERNEL,
            by_object: false,
            cloned: flags & CLONED != 0,
        };
        for attr in Attrs::new(attrs) {
            let (kind, value) = attr?;
            match kind {
                RTA_OIF => route.links.push(get_u32(value)?),
                RTA_TABLE => route.table = get_u32(value)?,
                RTA_NH_ID => route.by_object = true,
                RTA_MULTIPATH => route.links.extend(hops(value)),
                _ => {}
            }
        }
        Ok(Some(route))
    }
}

/// Interface indexes in an array of `struct rtnexthop` and their attributes.
fn hops(mut bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while let (Some(len), Some(index)) = (bytes.get(0..2), bytes.get(4..8)) {
        let len = len.try_into().map_or(0, u16::from_ne_bytes).max(8);
        found.extend(get_u32(index).ok());
        let step = usize::from(len).next_multiple_of(4);
        bytes = bytes.get(step..).unwrap_or_default();
    }
    found
}

fn rules(socket: &mut Socket, link: &GtpLink, tables: &HashSet<u32>) -> Result<Vec<Rtnetlink>> {
    let mut found = Vec::new();
    let msg = Message::new(u16::from(Rtm::Getrule), 0, &[0; RULE_HEADER]);
    socket.dump(msg, |payload| {
        let mut ours = false;
        for attr in Attrs::new(payload.get(RULE_HEADER..).unwrap_or_default()) {
            let (kind, value) = attr?;
            match kind {
                FRA_IIFNAME | FRA_OIFNAME => ours |= get_str(value)? == link.name,
                FRA_TABLE => {
                    let table = get_u32(value)?;
                    ours |= tables.contains(&table) && !COMMON_TABLES.contains(&table);
                }
                _ => {}
            }
        }
        if ours {
            found.push(entry(Rtm::Newrule, payload));
        }
        Ok::<(), netlink::Error>(())
    })?;
    Ok(found)
}

/// Destinations of the routes among `entries`: the subscribers' addresses, as
/// address bytes and prefix length. Default routes are none.
#[must_use]
pub fn destinations(entries: &[Rtnetlink]) -> Vec<(Vec<u8>, u8)> {
    const RTA_DST: u16 = 1;
    let of = |e: &Rtnetlink| {
        let attrs = Attrs::new(e.message.get(ROUTE_HEADER..)?);
        let len = *e.message.get(1)?;
        let dst = attrs.find(RTA_DST).ok().flatten()?;
        (len > 0).then(|| (dst.to_vec(), len))
    };
    let is_route = |e: &&Rtnetlink| e.kind == u32::from(u16::from(Rtm::Newroute));
    entries.iter().filter(is_route).filter_map(of).collect()
}

/// Whether an address or route, as the kernel reports it in a message of this
/// kind, is on or through one of `links`.
///
/// # Errors
/// It is malformed.
pub(crate) fn names_one_of(
    kind: u16,
    payload: &[u8],
    links: &HashSet<u32>,
) -> netlink::Result<bool> {
    if kind == u16::from(Rtm::Newaddr) {
        let index = payload.get(4..8).map(get_u32).transpose()?;
        return Ok(index.is_some_and(|i| links.contains(&i)));
    }
    if kind == u16::from(Rtm::Newroute) {
        let route = Route::read(payload)?;
        return Ok(route.is_some_and(|r| r.links.iter().any(|l| links.contains(l))));
    }
    Ok(false)
}

/// An entry in a form that is the same wherever it stands: without what changes
/// by itself, such as the age of an address.
#[must_use]
pub fn normal(entry: &Rtnetlink) -> String {
    const IFA_CACHEINFO: u16 = 6;
    const RTA_CACHEINFO: u16 = 12;
    let mut said = describe(entry);
    let (header, volatile) = match kind(entry) {
        Ok(Rtm::Newaddr) => (ADDRESS_HEADER, IFA_CACHEINFO),
        Ok(Rtm::Newroute) => (ROUTE_HEADER, RTA_CACHEINFO),
        _ => (RULE_HEADER, u16::MAX),
    };
    let Ok(message) = adapted(entry) else {
        return said;
    };
    let mut attrs: Vec<(u16, &[u8])> = Attrs::new(message.get(header..).unwrap_or_default())
        .flatten()
        .filter(|(kind, _)| *kind != volatile)
        .collect();
    attrs.sort_unstable();
    let digits = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    said.push_str(&format!(
        " ({}",
        digits(message.get(..header).unwrap_or_default())
    ));
    for (kind, value) in attrs {
        said.push_str(&format!(" {kind}:{}", digits(value)));
    }
    said.push(')');
    said
}

/// Whether an entry is a policy rule.
#[must_use]
pub fn is_rule(entry: &Rtnetlink) -> bool {
    kind(entry) == Ok(Rtm::Newrule)
}

/// Removes all addresses of a link: a new one gives itself some.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_addresses(link: &GtpLink) -> Result<()> {
    let all = settled(|| addresses(&mut Socket::open(Protocol::Route)?, link))?;
    let mut socket = Socket::open(Protocol::Route)?;
    for entry in all {
        let msg = Message::new(u16::from(Rtm::Deladdr), 0, &entry.message);
        match socket.request(msg, |_| Ok(())) {
            Err(e) if e.errno() == Some(libc::EADDRNOTAVAIL) => {}
            other => other?,
        }
    }
    Ok(())
}

/// What becomes of an entry on restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was made.
    New,
    /// It was there already.
    Known,
}

/// Adds an address, route or rule.
///
/// # Errors
/// The kernel's refusal, or the entry is none of these.
pub fn add(entry: &Rtnetlink) -> Result<Made> {
    let (kind, message) = (kind(entry)?, adapted(entry)?);
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    match Socket::open(Protocol::Route)?
        .request(Message::new(u16::from(kind), flags, &message), |_| Ok(()))
    {
        Ok(()) => Ok(Made::New),
        Err(e) if e.errno() == Some(libc::EEXIST) => Ok(Made::Known),
        Err(source) => Err(Error::Refused {
            what: format!("cannot add {}", describe(entry)),
            source,
        }),
    }
}

/// Removes a rule again: addresses and routes go with their link.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_rule(entry: &Rtnetlink) -> Result<()> {
    if kind(entry)? != Rtm::Newrule {
        return Ok(());
    }
    let msg = Message::new(u16::from(Rtm::Delrule), 0, &adapted(entry)?);
    Ok(Socket::open(Protocol::Route)?.request(msg, |_| Ok(()))?)
}

fn kind(entry: &Rtnetlink) -> std::result::Result<Rtm, NoKind> {
    [Rtm::Newaddr, Rtm::Newroute, Rtm::Newrule]
        .into_iter()
        .find(|k| u32::from(u16::from(*k)) == entry.kind)
        .ok_or(NoKind)
}

/// The number of an entry is none that this build knows.
#[derive(Debug, PartialEq, Eq)]
struct NoKind;

impl From<NoKind> for Error {
    fn from(_: NoKind) -> Self {
        Self::BadImage("an rtnetlink entry is of an unknown kind")
    }
}

/// A report as a request: without what only the kernel may say.
fn adapted(entry: &Rtnetlink) -> Result<Vec<u8>> {
    let bad = || Error::BadImage("an rtnetlink entry has no header");
    let mut message = entry.message.clone();
    match kind(entry)? {
        Rtm::Newaddr => {
            let (header, attrs) = message.split_at_checked(ADDRESS_HEADER).ok_or_else(bad)?;
            let mut w = Writer::new();
            let mut header = header.to_vec();
            let old = header.get_mut(2).ok_or_else(bad)?;
            let mut flags = u32::from(std::mem::take(old));
            for attr in Attrs::new(attrs) {
                let (kind, value) = attr?;
                if kind == IFA_FLAGS {
                    flags = get_u32(value)?;
                } else {
                    w.put(kind, value)?;
                }
            }
            w.put_u32(IFA_FLAGS, flags & ASKABLE)?;
            message = [&header, w.bytes()].concat();
        }
        Rtm::Newroute => {
            let flags = message.get_mut(8..12).ok_or_else(bad)?;
            let kept = get_u32(flags)? & ONLINK;
            flags.copy_from_slice(&kept.to_ne_bytes());
        }
        _ => {
            let flags = message.get_mut(8..12).ok_or_else(bad)?;
            flags.fill(0);
        }
    }
    Ok(message)
}

/// An entry in words, such as "route 10.60.0.0/16".
#[must_use]
pub fn describe(entry: &Rtnetlink) -> String {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const RTA_DST: u16 = 1;
    const FRA_PRIORITY: u16 = 6;
    let ip = |header: usize, kinds: &[u16]| {
        let attrs = Attrs::new(entry.message.get(header..).unwrap_or_default());
        kinds
            .iter()
            .find_map(|k| attrs.find(*k).ok().flatten())
            .and_then(netlink::ip)
            .map(|a| a.to_string())
    };
    let byte = |place: usize| entry.message.get(place).copied().unwrap_or_default();
    match kind(entry) {
        Ok(Rtm::Newaddr) => {
            let ip = ip(ADDRESS_HEADER, &[IFA_LOCAL, IFA_ADDRESS]).unwrap_or_default();
            format!("address {ip}/{}", byte(1))
        }
        Ok(Rtm::Newroute) => match ip(ROUTE_HEADER, &[RTA_DST]) {
            Some(ip) => format!("route {ip}/{}", byte(1)),
            None => "default route".to_owned(),
        },
        Ok(_) => {
            let attrs = Attrs::new(entry.message.get(RULE_HEADER..).unwrap_or_default());
            let priority = attrs.find(FRA_PRIORITY).ok().flatten();
            let priority = priority.and_then(|p| get_u32(p).ok()).unwrap_or_default();
            format!("policy rule {priority}")
        }
        Err(_) => "unknown entry".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_entry_is_survived(
            kind in prop_oneof![Just(20u32), Just(24), Just(32), any::<u32>()],
            message in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let _ = Route::read(&message);
            let _ = hops(&message);
            let e = Rtnetlink { kind, message };
            let _ = adapted(&e);
            let _ = destinations(std::slice::from_ref(&e));
            prop_assert!(!describe(&e).is_empty());
        }
    }

    #[test]
    fn the_loopback_address_is_described() {
        let lo = GtpLink {
            ifindex: 1,
            name: "lo".into(),
            ..GtpLink::default()
        };
        let all: Vec<String> = read(&lo).unwrap().iter().map(describe).collect();
        assert!(all.contains(&"address 127.0.0.1/8".to_owned()), "{all:?}");
    }
}
