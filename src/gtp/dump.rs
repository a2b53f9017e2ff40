// SPDX-License-Identifier: GPL-2.0-only
//! GTP links of this network namespace into an image, in the order to restore
//! them.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::net::IpAddr;

use super::columns::Filling;
use super::nat::Subscribers;
use super::owner::{self, UdpSocket};
use super::table::{self, Watch};
use super::{flow, link, nat, network, sysctl, Error, Result};
use crate::holders::Holder;
use crate::image;
use crate::netlink::Genl;
use crate::proto::record::Body;
use crate::proto::{GtpLink, GtpSocket, Rtnetlink};

/// How often a table that changes is read again.
const ATTEMPTS: u32 = 5;

/// What an image got, or gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Links.
    pub links: u64,
    /// PDP contexts.
    pub tunnels: u64,
    /// Tracked connections of subscribers.
    pub flows: u64,
    /// Addresses that subscribers are translated to.
    pub outer: HashSet<IpAddr>,
}

/// A link and the sockets it receives on.
#[derive(Debug, Clone)]
pub struct Found {
    /// The link as the image will have it.
    pub link: GtpLink,
    /// Inodes of its sockets.
    pub inodes: Vec<u32>,
}

/// The links of this network namespace with their sockets, which are held as
/// `held` tells.
///
/// # Errors
/// Those of [`owner`], or of the netlink socket.
pub fn find(genl: &mut Genl, held: &HashMap<u32, Vec<Holder>>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for mut link in link::list()? {
        let mut inodes = Vec::new();
        link.kernel_sockets = owner::is_kernels(genl, link.ifindex)?;
        for version in [0, 1] {
            let Some(socket) = owner::receiver(genl, &link, version)? else {
                continue;
            };
            if link.kernel_sockets {
                let ip = socket.local.ip();
                let any = ip.is_unspecified() && ip.is_ipv4();
                link.local = (!any).then(|| octets(ip));
            } else {
                inodes.push(socket.inode);
                link.sockets.push(holder(version, socket, held));
            }
        }
        found.push(Found { link, inodes });
    }
    Ok(found)
}

fn holder(version: u32, socket: UdpSocket, held: &HashMap<u32, Vec<Holder>>) -> GtpSocket {
    let first = held.get(&socket.inode).and_then(|all| all.first());
    GtpSocket {
        version,
        pid: first.map_or(0, |h| h.pid),
        fd: first.map_or(-1, |h| h.fd),
        addr: octets(socket.local.ip()),
        port: socket.local.port().into(),
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Writes an image of `links`. A table that changes meanwhile is read again,
/// into a new beginning of the image, which `open` makes. `progress` hears how
/// many tunnels have been read.
///
/// # Errors
/// Nothing of the host was changed; what `open` made is not complete.
pub fn dump<W: Write>(
    genl: &mut Genl,
    links: &[GtpLink],
    mut open: impl FnMut() -> io::Result<W>,
    mut progress: impl FnMut(u64),
) -> Result<(W, Summary)> {
    for link in links {
        if link::master_of(link.ifindex)?.is_some() {
            return Err(Error::Unsupported(format!(
                "link {0} belongs to a VRF or a bridge, which cannot be carried; ip link set {0} nomaster",
                link.name
            )));
        }
    }
    let mut watch = Watch::new(genl)?;
    for _ in 0..ATTEMPTS {
        watch.changed(genl)?;
        let out = open().map_err(Error::sys(|| "cannot write the image"))?;
        let written = write(genl, links, out, &mut progress)?;
        let here: HashSet<u32> = link::list()?.iter().map(|l| l.ifindex).collect();
        // Tunnels that go with their link are not announced.
        if let Some(gone) = links.iter().find(|l| !here.contains(&l.ifindex)) {
            return Err(Error::Unsupported(format!(
                "link {} was deleted while it was read",
                gone.name
            )));
        }
        if !watch.changed(genl)? {
            return Ok(written);
        }
        log::info!("the tunnel table has changed while it was read: once more");
    }
    Err(Error::Unsteady(ATTEMPTS))
}

fn write<W: Write>(
    genl: &mut Genl,
    links: &[GtpLink],
    out: W,
    progress: &mut impl FnMut(u64),
) -> Result<(W, Summary)> {
    let mut image = image::Writer::new(out, image::gtp_header())?;
    for setting in sysctl::forwarding() {
        image.write(Body::Sysctl(setting))?;
    }
    let mut network: Vec<Rtnetlink> = Vec::new();
    for link in links {
        image.write(Body::GtpLink(link.clone()))?;
        for setting in sysctl::of_link(link)? {
            image.write(Body::Sysctl(setting))?;
        }
        network.extend(network::read(link)?);
    }
    let wanted: HashSet<u32> = links.iter().map(|l| l.ifindex).collect();
    let mut filling = Filling::default();
    let mut tunnels = 0;
    table::read(genl, |pdp| {
        if wanted.contains(&pdp.link) {
            tunnels += 1;
            if let Some(full) = filling.add(&pdp) {
                image.write(Body::GtpTunnels(full))?;
                progress(tunnels);
            }
        }
        Ok(())
    })?;
    for rest in filling.rest() {
        image.write(Body::GtpTunnels(rest))?;
    }
    progress(tunnels);
    let prefixes = network::destinations(&network);
    let who = Subscribers {
        links,
        prefixes: &prefixes,
    };
    for rule in nat::read(&who)? {
        image.write(Body::NatRule(rule))?;
    }
    let mut outer = HashSet::new();
    let flows = flow::read(&who, &mut outer, |flows| {
        Ok(image.write(Body::Flows(flows))?)
    })?;
    for entry in network {
        image.write(Body::Rtnetlink(entry))?;
    }
    let summary = Summary {
        links: u64::try_from(links.len()).unwrap_or_default(),
        tunnels,
        flows,
        outer,
    };
    Ok((image.finish()?, summary))
}
