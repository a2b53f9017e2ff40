// SPDX-License-Identifier: GPL-2.0-only
//! Links of kind "gtp" (`rtnetlink`, and `gtp_newlink()` in `drivers/net/gtp.c`).

use std::os::fd::{AsRawFd, BorrowedFd};

use neli::consts::rtnl::{Ifla, IflaInfo, Rtm};

use super::{Error, Result};
use crate::netlink::attr::{get_str, get_u32, get_u8};
use crate::netlink::settled::settled;
use crate::netlink::{self, Attrs, Message, Protocol, Socket, Writer};
use crate::proto::GtpLink;

/// What the driver is called in `IFLA_INFO_KIND`.
const KIND: &str = "gtp";
/// Length of `struct ifinfomsg`.
const HEADER: usize = 16;

/// Attributes of the driver (`IFLA_GTP_*`).
mod data {
    pub(super) const FD0: u16 = 1;
    pub(super) const FD1: u16 = 2;
    pub(super) const PDP_HASHSIZE: u16 = 3;
    pub(super) const ROLE: u16 = 4;
    pub(super) const CREATE_SOCKETS: u16 = 5;
    pub(super) const RESTART_COUNT: u16 = 6;
    pub(super) const LOCAL: u16 = 7;
    pub(super) const LOCAL6: u16 = 8;
}

/// Buckets the driver makes without being told.
const DEFAULT_HASH: u32 = 1024;
/// `kmalloc` gives no more than 4 MiB, eight bytes for each bucket.
const MAX_HASH: u32 = 1 << 19;
/// Flags of a link that a program or a person sets; the others follow from its state.
#[allow(clippy::cast_sign_loss, reason = "flags are bits")]
const SETTABLE: u32 = (libc::IFF_UP
    | libc::IFF_DEBUG
    | libc::IFF_NOTRAILERS
    | libc::IFF_NOARP
    | libc::IFF_DYNAMIC
    | libc::IFF_MULTICAST
    | libc::IFF_PORTSEL
    | libc::IFF_AUTOMEDIA
    | libc::IFF_ALLMULTI
    | libc::IFF_PROMISC) as u32;
const UP: u32 = 1;

fn header(ifindex: u32, flags: u32, change: u32) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    for (place, value) in [(4, ifindex), (8, flags), (12, change)] {
        if let Some(to) = h.get_mut(place..place + 4) {
            to.copy_from_slice(&value.to_ne_bytes());
        }
    }
    h
}

/// Every GTP link of this network namespace, without sockets.
///
/// # Errors
/// Those of the netlink socket.
pub fn list() -> Result<Vec<GtpLink>> {
    let mut filter = Writer::new();
    filter.nest(u16::from(Ifla::Linkinfo), |info| {
        info.put_str(u16::from(IflaInfo::Kind), KIND)
    })?;
    settled(|| {
        let mut socket = Socket::open(Protocol::Route)?;
        let mut found = Vec::new();
        let msg = Message::new(u16::from(Rtm::Getlink), 0, &header(0, 0, 0)).with(&filter);
        socket.dump(msg, |payload| {
            found.extend(read(payload)?);
            Ok::<(), netlink::Error>(())
        })?;
        Ok(found)
    })
}

/// What an `RTM_NEWLINK` tells, if it is of our kind.
pub(crate) fn read(payload: &[u8]) -> netlink::Result<Option<GtpLink>> {
    let word = |place: usize| payload.get(place..place + 4).and_then(|b| get_u32(b).ok());
    let (Some(ifindex), Some(flags), Some(attrs)) = (word(4), word(8), payload.get(HEADER..))
    else {
        return Err(netlink::Error::Malformed("no link header"));
    };
    let attrs = Attrs::new(attrs);
    let Some(info) = attrs.find(u16::from(Ifla::Linkinfo))? else {
        return Ok(None);
    };
    let info = Attrs::new(info);
    match info.find(u16::from(IflaInfo::Kind))? {
        Some(kind) if get_str(kind)? == KIND => {}
        _ => return Ok(None),
    }
    let mut link = GtpLink {
        ifindex,
        flags: flags & SETTABLE,
        ..GtpLink::default()
    };
    for attr in attrs {
        let (kind, value) = attr?;
        match Ifla::from(kind) {
            Ifla::Ifname => link.name = get_str(value)?.to_owned(),
            Ifla::Mtu => link.mtu = get_u32(value)?,
            Ifla::Txqlen => link.tx_queue_len = get_u32(value)?,
            Ifla::Group => link.group = get_u32(value)?,
            Ifla::Ifalias => link.alias = Some(get_str(value)?.to_owned()),
            _ => {}
        }
    }
    if let Some(of_driver) = info.find(u16::from(IflaInfo::Data))? {
        for attr in Attrs::new(of_driver) {
            let (kind, value) = attr?;
            match kind {
                data::PDP_HASHSIZE => link.hash_size = get_u32(value)?,
                data::ROLE => link.role = get_u32(value)?,
                data::RESTART_COUNT => link.restart_count = get_u8(value)?.into(),
                _ => {}
            }
        }
    }
    Ok(Some(link))
}

/// Name of the link that has this index, of whatever kind. `None` when there is none.
///
/// # Errors
/// Those of the netlink socket.
pub fn name_of(ifindex: u32) -> Result<Option<String>> {
    attribute(
        ifindex,
        Ifla::Ifname,
        |value| Ok(get_str(value)?.to_owned()),
    )
}

/// Index of the VRF or bridge that a link belongs to.
///
/// # Errors
/// Those of the netlink socket.
pub fn master_of(ifindex: u32) -> Result<Option<u32>> {
    attribute(ifindex, Ifla::Master, get_u32)
}

fn attribute<T>(
    ifindex: u32,
    kind: Ifla,
    read: impl Fn(&[u8]) -> netlink::Result<T>,
) -> Result<Option<T>> {
    let mut socket = Socket::open(Protocol::Route)?;
    let msg = Message::new(u16::from(Rtm::Getlink), 0, &header(ifindex, 0, 0));
    let kind = u16::from(kind);
    let mut found = None;
    let answer = socket.request(msg, |payload| {
        let attrs = Attrs::new(payload.get(HEADER..).unwrap_or_default());
        found = attrs.find(kind)?.map(&read).transpose()?;
        Ok(())
    });
    match answer {
        Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
        other => Ok(other.map(|()| found)?),
    }
}

/// The sockets a new link receives on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sockets<'a> {
    /// GTPv0.
    pub v0: Option<BorrowedFd<'a>>,
    /// GTPv1-U.
    pub v1: Option<BorrowedFd<'a>>,
}

/// Creates a link, down, and answers the buckets its hash tables got. It has
/// room for `tunnels` without long chains.
///
/// # Errors
/// Name or index are taken, or the sockets will not do.
pub fn create(link: &GtpLink, sockets: Sockets<'_>, tunnels: u64) -> Result<u32> {
    // A chain of four on the average costs less than a cache miss for an empty bucket.
    let wanted = u32::try_from(tunnels.div_ceil(4)).unwrap_or(MAX_HASH);
    let wanted = wanted.checked_next_power_of_two().unwrap_or(MAX_HASH);
    let own = if link.hash_size == 0 {
        DEFAULT_HASH
    } else {
        link.hash_size
    };
    let mut buckets = own.max(wanted.min(MAX_HASH));
    loop {
        match new_link(link, sockets, buckets) {
            // The allocator has no such piece in one: chains get longer.
            Err(e) if e.errno() == Some(libc::ENOMEM) && buckets > DEFAULT_HASH => buckets /= 2,
            Err(e) => return Err(explain(link, e)?),
            Ok(()) => break,
        }
    }
    let settled =
        settle(link).map_err(Error::doing(|| format!("cannot set up link {}", link.name)));
    if settled.is_err() {
        delete(link.ifindex)?;
    }
    settled.map(|()| buckets)
}

/// What a new link does not take: the driver overwrites the MTU (with IPv6 sockets),
/// and an alias is only for links that are there.
fn settle(link: &GtpLink) -> netlink::Result<()> {
    let mut w = Writer::new();
    w.put_u32(u16::from(Ifla::Mtu), link.mtu)?;
    if let Some(alias) = &link.alias {
        w.put(u16::from(Ifla::Ifalias), alias.as_bytes())?;
    }
    let msg = Message::new(u16::from(Rtm::Newlink), 0, &header(link.ifindex, 0, 0)).with(&w);
    Socket::open(Protocol::Route)?.request(msg, |_| Ok(()))
}

fn new_link(link: &GtpLink, sockets: Sockets<'_>, buckets: u32) -> netlink::Result<()> {
    let mut w = Writer::new();
    w.put_str(u16::from(Ifla::Ifname), &link.name)?;
    w.put_u32(u16::from(Ifla::Txqlen), link.tx_queue_len)?;
    w.put_u32(u16::from(Ifla::Group), link.group)?;
    w.nest(u16::from(Ifla::Linkinfo), |info| {
        info.put_str(u16::from(IflaInfo::Kind), KIND)?;
        info.nest(u16::from(IflaInfo::Data), |d| {
            d.put_u32(data::PDP_HASHSIZE, buckets)?;
            d.put_u32(data::ROLE, link.role)?;
            // Kernels that do not know it ignore it.
            let restarts = u8::try_from(link.restart_count).unwrap_or(u8::MAX);
            d.put(data::RESTART_COUNT, &[restarts])?;
            if link.kernel_sockets {
                d.put(data::CREATE_SOCKETS, &[1])?;
                return match link.local.as_deref() {
                    Some(ip) if ip.len() == 16 => d.put(data::LOCAL6, ip),
                    Some(ip) => d.put(data::LOCAL, ip),
                    None => Ok(()),
                };
            }
            for (kind, socket) in [(data::FD0, sockets.v0), (data::FD1, sockets.v1)] {
                if let Some(socket) = socket {
                    d.put_u32(kind, socket.as_raw_fd().unsigned_abs())?;
                }
            }
            Ok(())
        })
    })?;
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let msg = Message::new(u16::from(Rtm::Newlink), flags, &header(link.ifindex, 0, 0)).with(&w);
    Socket::open(Protocol::Route)?.request(msg, |_| Ok(()))
}

/// Makes words of the driver's answer to a new link.
fn explain(link: &GtpLink, e: netlink::Error) -> Result<Error> {
    let GtpLink { name, ifindex, .. } = link;
    Ok(match e.errno() {
        Some(libc::EOPNOTSUPP) => Error::NoModule,
        Some(libc::EEXIST | libc::EBUSY) => match name_of(*ifindex)? {
            Some(other) if other != *name => Error::InTheWay(format!(
                "link {name}: its interface index {ifindex} belongs to {other} here, and programs remember it; \
                 remove {other} or restore into a network namespace of its own"
            )),
            Some(_) => Error::InTheWay(format!(
                "link {name} is here already; ip link delete {name}"
            )),
            None if e.errno() == Some(libc::EBUSY) => Error::InTheWay(format!(
                "link {name}: a socket it needs belongs to another tunnel already"
            )),
            None => Error::InTheWay(format!(
                "link {name}: a link of this name is here already; ip link delete {name}, or ip link set {name} name OTHER"
            )),
        },
        Some(libc::EADDRINUSE) => Error::InTheWay(format!(
            "link {name}: UDP port 2152 or 3386 is bound already; ss -ulnp tells by whom"
        )),
        Some(libc::EADDRNOTAVAIL) => Error::InTheWay(format!(
            "link {name}: the local address of its sockets is not on this host; add it first"
        )),
        _ => Error::Refused {
            what: format!("cannot create link {name}"),
            source: e,
        },
    })
}

/// Sets the flags a link had: brings it up, if it was.
///
/// # Errors
/// The kernel's refusal.
pub fn set_flags(link: &GtpLink) -> Result<()> {
    let msg = Message::new(
        u16::from(Rtm::Newlink),
        0,
        &header(link.ifindex, link.flags & SETTABLE, SETTABLE),
    );
    Socket::open(Protocol::Route)?
        .request(msg, |_| Ok(()))
        .map_err(Error::doing(|| {
            let verb = if link.flags & UP == 0 {
                "set up"
            } else {
                "bring up"
            };
            format!("cannot {verb} link {}", link.name)
        }))
}

/// Deletes a link with its tunnels, addresses and routes.
///
/// # Errors
/// The kernel's refusal; one that is gone is none.
pub fn delete(ifindex: u32) -> Result<()> {
    let msg = Message::new(u16::from(Rtm::Dellink), 0, &header(ifindex, 0, 0));
    match Socket::open(Protocol::Route)?.request(msg, |_| Ok(())) {
        Err(e) if e.errno() == Some(libc::ENODEV) => Ok(()),
        other => other.map_err(Error::doing(|| format!("cannot delete link {ifindex}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn other_links_are_none_of_ours() {
        assert!(list().unwrap().iter().all(|l| l.name != "lo"));
        assert_eq!(name_of(1).unwrap().as_deref(), Some("lo"));
        assert_eq!(name_of(i32::MAX.unsigned_abs()).unwrap(), None);
    }

    #[test]
    fn a_link_is_read() {
        let mut w = Writer::new();
        w.put_str(3, "gtp7").unwrap();
        w.put_u32(4, 1452).unwrap();
        w.nest(18, |i| {
            i.put_str(1, "gtp")?;
            i.nest(2, |d| {
                d.put_u32(3, 4096)?;
                d.put_u32(4, 1)?;
                d.put(6, &[9])
            })
        })
        .unwrap();
        let mut payload = header(12, 0x10011, 0).to_vec();
        payload.extend(w.bytes());
        let link = read(&payload).unwrap().unwrap();
        assert_eq!((link.ifindex, link.flags, link.mtu), (12, 1, 1452));
        assert_eq!((link.name.as_str(), link.hash_size), ("gtp7", 4096));
        assert_eq!((link.role, link.restart_count), (1, 9));
    }
}
