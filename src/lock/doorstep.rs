// SPDX-License-Identifier: GPL-2.0-only
//! The lock at the doorstep: for addresses that are not here yet, and whose
//! network namespace is not either.
//!
//! Where the runtime gives a container its addresses in the middle of a restore,
//! nobody can lock its namespace before. But all that comes to it passes a device
//! of the host, before a bridge, a macvlan device or routing takes it further:
//! there what goes to a port of these addresses is dropped. SCTP in UDP (RFC 6951)
//! is not looked into, and passes. The table `netdev telecr-PID` has the socket it was made over as its owner, and goes when this
//! is closed: whoever has made it may die at any moment.

use std::net::IpAddr;

use super::encode::{self, Family};
use super::expr::*;
use super::{Port, Result};
use crate::netlink::nft::{be32, LIST_ELEM, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM, NEWTABLE};
use crate::netlink::{self, nft, Message, Protocol, Socket, Writer};

/// `NFPROTO_NETDEV`
const NETDEV: u8 = 5;
/// `NFT_TABLE_F_OWNER`, of Linux 5.12 and later.
const OWNER: u32 = 2;
/// Before all others.
const PRIORITY: i32 = -500;
/// Less than a chain can have (`NFT_NETDEVICE_MAX`).
const DEVICES: usize = 200;
/// The set of ports.
const PORTS: &str = "ports";

/// Dropping it lets packets in.
pub struct Doorstep {
    _owner: Socket,
}

impl Doorstep {
    /// Drops what comes from outside to any of these ports of any of these
    /// addresses, over any device there is now.
    ///
    /// # Errors
    /// No nftables for devices in this kernel, or no `CAP_NET_ADMIN`.
    pub fn lock(addrs: &[IpAddr], ports: &[Port]) -> Result<Self> {
        let devices = nix::net::if_::if_nameindex().map_err(|e| netlink::Error::Io {
            what: "list of devices",
            source: e.into(),
        })?;
        let names: Vec<String> = devices
            .iter()
            .filter_map(|d| d.name().to_str().ok())
            .filter(|name| *name != "lo")
            .map(str::to_owned)
            .collect();
        let mut owner = Socket::open(Protocol::Netfilter)?;
        let (begin, end) = nft::frame();
        owner.transaction(&begin, &table(addrs, ports, &names)?, &end)?;
        Ok(Self { _owner: owner })
    }
}

fn table(addrs: &[IpAddr], ports: &[Port], devices: &[String]) -> netlink::Result<Vec<Message>> {
    let mut table = named()?;
    be32(&mut table, 2, OWNER)?;
    let mut all = vec![create(NEWTABLE, &table)];
    for (family, id) in Family::BOTH.into_iter().zip(1..) {
        all.push(create(NEWSET, &encode::set_of(named()?, family, 0, id)?));
        for some in family.among(addrs).chunks(1000) {
            let keys = encode::keys(some);
            all.push(create(
                NEWSETELEM,
                &encode::elements_of(named()?, family.set(), &keys, None)?,
            ));
        }
    }
    all.push(create(
        NEWSET,
        &encode::set_of_ports(named()?, PORTS, 0, 3)?,
    ));
    for some in ports.chunks(1000) {
        let keys = encode::port_keys(some);
        all.push(create(
            NEWSETELEM,
            &encode::elements_of(named()?, PORTS, &keys, None)?,
        ));
    }
    for (n, some) in devices.chunks(DEVICES).enumerate() {
        let name = format!("ingress{n}");
        all.push(chain(&name, some)?);
        for family in Family::BOTH {
            all.push(rule(&name, family)?);
        }
    }
    Ok(all)
}

fn named() -> netlink::Result<Writer> {
    let mut w = Writer::new();
    w.put_str(1, &format!("{}-{}", super::TABLE, std::process::id()))?;
    Ok(w)
}

fn create(kind: u16, attrs: &Writer) -> Message {
    nft::message(kind, libc::NLM_F_CREATE, NETDEV, attrs)
}

fn chain(name: &str, devices: &[String]) -> netlink::Result<Message> {
    let mut w = named()?;
    w.put_str(3, name)?;
    w.nest(4, |hook| {
        be32(hook, 1, 0)?; // NF_NETDEV_INGRESS
        hook.put(2, &PRIORITY.to_be_bytes())?;
        hook.nest(4, |list| {
            devices.iter().try_for_each(|d| list.put_str(LIST_ELEM, d))
        })
    })?;
    be32(&mut w, 5, ACCEPT)?;
    w.put_str(7, "filter")?;
    Ok(create(NEWCHAIN, &w))
}

fn rule(chain: &str, family: Family) -> netlink::Result<Message> {
    let mut w = named()?;
    w.put_str(2, chain)?;
    w.nest(4, |e| {
        load_meta(e, PROTOCOL)?;
        compare(e, EQUAL, &family.ethertype().to_be_bytes())?;
        load_payload(e, NETWORK_HEADER, family.offset(), family.len())?;
        lookup(e, family.set())?;
        load_meta(e, L4PROTO)?;
        among_ports(e, DESTINATION, PORTS)?;
        verdict(e, DROP)
    })?;
    let append = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    Ok(nft::message(NEWRULE, append, NETDEV, &w))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nft::GETSETELEM;

    /// How many keys a set of the table has; `None` where there is no table.
    fn keys(set: &str) -> Option<usize> {
        let mut found = 0;
        let mut w = named().unwrap();
        w.put_str(2, set).unwrap();
        let list = nft::message(GETSETELEM, 0, NETDEV, &w);
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let done = socket.dump(list, |payload| {
            found += encode::listed(payload)?.len();
            Ok::<(), netlink::Error>(())
        });
        match done {
            Ok(()) => Some(found),
            Err(e) if e.errno() == Some(libc::ENOENT) => None,
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn the_table_goes_with_its_owner() {
        super::super::ruleset::tests::in_namespace(|| {
            // A device for the chain. Without one there is no chain, and all the same no error.
            let tap = std::process::Command::new("ip")
                .args(["tuntap", "add", "tap0", "mode", "tap"])
                .status();
            println!("a device: {tap:?}");
            let addrs = ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1"];
            let addrs = addrs.map(|a| a.parse().unwrap());
            let ports = [Port::sctp(36412), Port::sctp(3868), Port::udp(2152)];
            let doorstep = Doorstep::lock(&addrs, &ports).unwrap();
            assert_eq!(keys("local4"), Some(2));
            assert_eq!(keys("local6"), Some(1));
            assert_eq!(keys(PORTS), Some(3));
            // One of another process is beside it, another of this one is not.
            assert!(Doorstep::lock(&addrs, &ports).is_err());
            drop(doorstep);
            assert_eq!(keys(PORTS), None);
        });
    }
}
