// SPDX-License-Identifier: GPL-2.0-only
//! An image into this network namespace: all of it, or nothing.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};

use super::columns;
use super::dump::Summary;
use super::link::{self, Sockets};
use super::network::{self, Made};
use super::table::Filler;
use super::{flow, nat, sysctl, Error, Result};
use crate::image::{Reader, KIND_GTP};
use crate::netlink::{self, Genl};
use crate::proto::record::Body;
use crate::proto::{GtpLink, NatRule, Rtnetlink, Sysctl};

/// More links than one host has.
const MAX_LINKS: usize = 4096;
/// More settings than links have.
const MAX_SETTINGS: usize = 256 * MAX_LINKS;

/// What an image holds, found out in a first walk.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Its links, in order.
    pub links: Vec<GtpLink>,
    /// Tunnels of each link, by interface index.
    pub tunnels: HashMap<u32, u64>,
}

impl Survey {
    /// Tunnels of all links.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.tunnels.values().sum()
    }

    /// The addresses the links receive on; an unspecified one stands for all.
    pub fn receives(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.links.iter().flat_map(|link| {
            let kernel = match &link.local {
                _ if !link.kernel_sockets => None,
                Some(local) => netlink::ip(local),
                None => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            };
            let sockets = link.sockets.iter();
            sockets.filter_map(|s| netlink::ip(&s.addr)).chain(kernel)
        })
    }
}

/// Walks an image and checks what can be checked without a kernel.
///
/// # Errors
/// It is damaged, or holds something that makes no sense.
pub fn survey<R: Read>(image: &mut Reader<R>) -> Result<Survey> {
    image.expect(KIND_GTP)?;
    let mut found = Survey::default();
    while let Some(body) = image.next_record()? {
        match body {
            Body::GtpLink(link) => {
                if found.links.len() >= MAX_LINKS {
                    return Err(Error::BadImage("it has too many links"));
                }
                if link.name.is_empty() || link.name.len() >= libc::IFNAMSIZ || link.ifindex == 0 {
                    return Err(Error::BadImage("a link has no proper name or index"));
                }
                if found.tunnels.insert(link.ifindex, 0).is_some() {
                    return Err(Error::BadImage("two links have the same index"));
                }
                found.links.push(link);
            }
            Body::GtpTunnels(t) => {
                let count = u64::try_from(columns::count(&t)?).unwrap_or_default();
                let sum = found
                    .tunnels
                    .get_mut(&t.ifindex)
                    .ok_or(Error::BadImage("a tunnel has no link"))?;
                *sum = sum.saturating_add(count);
            }
            Body::Sysctl(_) | Body::Rtnetlink(_) | Body::NatRule(_) | Body::Flows(_) => {}
            _ => return Err(Error::BadImage("it has a record that belongs elsewhere")),
        }
    }
    Ok(found)
}

/// Checks that the driver's netlink family has the number that a process
/// remembers: the kernel gives such numbers in the order of loading.
///
/// # Errors
/// It has another one here, and how to mend that.
pub fn check_family(genl: &Genl, link: &GtpLink) -> Result<()> {
    let here = u32::from(genl.id());
    let Some(there) = link.netlink_family.filter(|there| *there != here) else {
        return Ok(());
    };
    let cure = match there.checked_sub(here) {
        Some(times) => format!(
            "each `modprobe -r gtp && modprobe gtp` gives it the next number, {times} of them make it {there}"
        ),
        None => "reboot this host and load the modules in the order of the other one".to_owned(),
    };
    Err(Error::InTheWay(format!(
        "link {}: its program may remember that the netlink family gtp has number {there}, but here it has {here}; {cure}",
        link.name
    )))
}

/// The sockets a link is to receive on, held for the length of its creation.
#[derive(Debug, Default)]
pub struct OwnedSockets {
    /// GTPv0.
    pub v0: Option<OwnedFd>,
    /// GTPv1-U.
    pub v1: Option<OwnedFd>,
}

/// Restores links, on sockets that `sockets` hands out for each of them.
/// `progress` hears how many tunnels are there.
///
/// # Errors
/// What had been made is removed again, and settings are as they were.
pub fn restore<R: Read>(
    image: &mut Reader<R>,
    survey: &Survey,
    mut sockets: impl FnMut(&GtpLink) -> Result<OwnedSockets>,
    mut progress: impl FnMut(u64),
) -> Result<Summary> {
    image.expect(KIND_GTP)?;
    let mut work = Work::default();
    let (mut tunnels, mut flows) = (0, 0);
    while let Some(body) = image.next_record()? {
        match body {
            Body::Sysctl(setting) => work.set(setting)?,
            Body::GtpLink(link) => {
                let sockets = if link.kernel_sockets {
                    OwnedSockets::default()
                } else {
                    sockets(&link)?
                };
                let room = survey.tunnels.get(&link.ifindex).copied();
                work.create(link, &sockets, room.unwrap_or_default())?;
            }
            Body::GtpTunnels(t) => {
                let filler = work
                    .fillers
                    .get_mut(&t.ifindex)
                    .ok_or(Error::BadImage("a tunnel has no link"))?;
                for pdp in columns::tunnels(&t)? {
                    filler.add(pdp?)?;
                    tunnels += 1;
                }
                progress(tunnels);
            }
            Body::NatRule(rule) => work.translate(rule)?,
            Body::Flows(some) => {
                flows += flow::add(&some, &mut work.outer)?;
            }
            Body::Rtnetlink(entry) => work.connect(entry)?,
            _ => return Err(Error::BadImage("it has a record that belongs elsewhere")),
        }
    }
    work.bring_up()?;
    work.forward()?;
    let links = u64::try_from(work.links.len()).unwrap_or_default();
    work.done = true;
    Ok(Summary {
        links,
        tunnels,
        flows,
        outer: std::mem::take(&mut work.outer),
    })
}

/// What has been made so far; undone when it is dropped before it is done.
#[derive(Default)]
struct Work {
    done: bool,
    up: bool,
    links: Vec<GtpLink>,
    fillers: HashMap<u32, Filler>,
    /// Settings of links, and forwarding, as the image has them.
    wanted: Vec<(Option<usize>, Sysctl)>,
    /// Those of the whole namespace, as they were.
    settings: Vec<Sysctl>,
    rules: Vec<Rtnetlink>,
    translations: Vec<NatRule>,
    /// Read for the first rule.
    present: Option<nat::Present>,
    outer: HashSet<IpAddr>,
}

impl Work {
    /// A setting of the last link; forwarding waits.
    fn set(&mut self, setting: Sysctl) -> Result<()> {
        let link = self.links.len().checked_sub(1);
        if let Some(link) = self.links.last() {
            sysctl::set(link, &setting)?;
        }
        if self.wanted.len() >= MAX_SETTINGS {
            return Err(Error::BadImage("it has too many settings"));
        }
        self.wanted.push((link, setting));
        Ok(())
    }

    /// Everything is there: packets may be forwarded. Before, the host would
    /// have told their senders that the subscribers cannot be reached.
    fn forward(&mut self) -> Result<()> {
        let nameless = GtpLink::default();
        for (link, setting) in &self.wanted {
            let link = link.and_then(|l| self.links.get(l));
            // Forwarding sets those of all links, so these come once more.
            let before = sysctl::set(link.unwrap_or(&nameless), setting)?;
            if link.is_none() {
                self.settings.extend(before);
            }
        }
        Ok(())
    }

    fn create(&mut self, link: GtpLink, sockets: &OwnedSockets, tunnels: u64) -> Result<()> {
        let refs = Sockets {
            v0: sockets.v0.as_ref().map(AsFd::as_fd),
            v1: sockets.v1.as_ref().map(AsFd::as_fd),
        };
        if self.links.len() >= MAX_LINKS {
            return Err(Error::BadImage("it has too many links"));
        }
        let buckets = link::create(&link, refs, tunnels)?;
        log::debug!(
            "link {}: {buckets} buckets for {tunnels} tunnels",
            link.name
        );
        let (ifindex, name) = (link.ifindex, link.name.clone());
        self.links.push(link);
        self.fillers.insert(ifindex, Filler::new(&name)?);
        Ok(())
    }

    fn translate(&mut self, rule: NatRule) -> Result<()> {
        let present = match &mut self.present {
            Some(present) => present,
            none => none.insert(nat::Present::read()?),
        };
        if nat::add(&rule, present)? {
            self.translations.push(rule);
        }
        Ok(())
    }

    /// The tables are complete: the links may speak.
    fn bring_up(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.up, true) {
            return Ok(());
        }
        for filler in self.fillers.values_mut() {
            filler.flush()?;
        }
        for link in &self.links {
            link::set_flags(link)?;
            network::remove_addresses(link)?;
        }
        Ok(())
    }

    fn connect(&mut self, entry: Rtnetlink) -> Result<()> {
        self.bring_up()?;
        if network::add(&entry)? == Made::New {
            if network::is_rule(&entry) {
                self.rules.push(entry);
            }
        } else if !network::is_rule(&entry) {
            log::debug!("{} is there already", network::describe(&entry));
        }
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.fillers.clear();
        for rule in self.rules.drain(..) {
            undone("policy rule", network::remove_rule(&rule));
        }
        for rule in self.translations.drain(..) {
            undone(&nat::describe(&rule), nat::remove(&rule));
        }
        for link in self.links.drain(..).rev() {
            undone(&link.name, link::delete(link.ifindex));
        }
        for setting in self.settings.drain(..).rev() {
            undone(&setting.name, sysctl::write(&setting));
        }
    }
}

fn undone(what: &str, result: Result<()>) {
    if let Err(e) = result {
        log::error!("{what} is left behind: {e}");
    }
}
