// SPDX-License-Identifier: GPL-2.0-only
//! GTP links of a process tree: into images while it stands still, and anew on
//! the restored sockets just before it runs.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufReader, BufWriter};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::error::{Context, Error, Result};
use super::{names, netimages, netns, proc, sockets, sys};
use crate::gtp::dump::{self, Found};
use crate::gtp::restore::{self, OwnedSockets, Survey};
use crate::gtp::{self, link, owner};
use crate::holders::Holder;
use crate::image;
use crate::lock::{Place, Port};
use crate::proto::{GtpLink, GtpSocket};

/// A UDP socket some GTP link receives on, and who has it.
pub(crate) struct Encapsulation {
    /// Our copy.
    pub file: OwnedFd,
    /// The process, as CRIU sees it.
    pub pid: i32,
    /// As the process knows itself and the descriptor.
    holder: Holder,
    inode: u32,
}

/// A link that is in an image.
#[derive(Debug, Clone)]
pub(crate) struct Dumped {
    pub ifindex: u32,
    pub name: String,
}

/// What a dump has found and written.
pub(crate) struct GtpDump {
    /// The sockets, one or two for each link.
    pub sockets: Vec<Encapsulation>,
    /// What was found in each network namespace.
    pub namespaces: Vec<Namespace>,
}

/// What a dump has found in one network namespace.
pub(crate) struct Namespace {
    /// A socket in it, by its place.
    pub socket: usize,
    pub links: Vec<Dumped>,
    /// Addresses that subscribers are translated to.
    pub outer: HashSet<IpAddr>,
}

/// Finds the GTP links of the tree below `root`, which stands still, and
/// writes their images. `None` when there are none.
///
/// # Errors
/// Nothing of the host was changed.
pub(crate) fn dump(root: i32, dir: BorrowedFd<'_>) -> Result<Option<GtpDump>> {
    // Those of an earlier dump into the same directory would be restored too.
    for (name, _) in images(&directory(dir))? {
        sys::remove_at(dir, &name);
    }
    let (sockets, remembers) = sockets(root)?;
    if sockets.is_empty() {
        return Ok(None);
    }
    let mut namespaces = Vec::new();
    for (number, (first, members)) in by_netns(&sockets)?.into_iter().enumerate() {
        let name = names::gtp_image(number);
        let (links, outer) =
            netns::within_socket(first.1, || one(dir, &name, &sockets, &members, remembers))?;
        namespaces.push(Namespace {
            socket: first.0,
            links,
            outer,
        });
    }
    Ok(Some(GtpDump {
        sockets,
        namespaces,
    }))
}

type Group<'a> = ((usize, BorrowedFd<'a>), Vec<usize>);

/// Indexes of sockets, put together by their network namespace.
fn by_netns(sockets: &[Encapsulation]) -> Result<Vec<Group<'_>>> {
    let mut groups: Vec<((u64, u64), Group<'_>)> = Vec::new();
    for (index, socket) in sockets.iter().enumerate() {
        let id = sockets::netns(socket.file.as_fd())
            .and_then(|ns| sys::file_id(ns.as_fd()))
            .doing(|| "cannot ask a socket for its network namespace")?;
        match groups.iter_mut().find(|(known, _)| *known == id) {
            Some((_, (_, members))) => members.push(index),
            None => groups.push((id, ((index, socket.file.as_fd()), vec![index]))),
        }
    }
    Ok(groups.into_iter().map(|(_, group)| group).collect())
}

/// Writes the image of the links of one network namespace, in which the
/// calling thread is. `remembers` tells whether a process may know the number
/// of the driver's netlink family.
fn one(
    dir: BorrowedFd<'_>,
    name: &str,
    sockets: &[Encapsulation],
    members: &[usize],
    remembers: bool,
) -> Result<(Vec<Dumped>, HashSet<IpAddr>)> {
    let failed = |source| gtp_error("GTP links cannot be dumped", source);
    let members = || members.iter().filter_map(|i| sockets.get(*i));
    let mut held: HashMap<u32, Vec<Holder>> = HashMap::new();
    for m in members() {
        held.entry(m.inode).or_default().push(m.holder.clone());
    }
    let mut genl = gtp::connect().map_err(failed)?;
    let found = dump::find(&mut genl, &held).map_err(failed)?;
    let ours: Vec<Found> = found
        .into_iter()
        .filter(|f| f.inodes.iter().any(|i| held.contains_key(i)))
        .collect();
    let known: HashSet<u32> = ours.iter().flat_map(|f| f.inodes.iter().copied()).collect();
    for m in members() {
        if !known.contains(&m.inode) {
            return Err(Error::Refused {
                pid: m.pid,
                what: format!(
                    "descriptor {} receives GTP for a link in another network namespace, which telecr cannot carry yet; \
                     create link and sockets in one namespace",
                    m.holder.fd
                ),
            });
        }
    }
    if let Some(f) = ours
        .iter()
        .find(|f| f.inodes.iter().any(|i| !held.contains_key(i)))
    {
        return Err(Error::Other(format!(
            "link {} also receives on a socket of a process that is not dumped; dump both together",
            f.link.name
        )));
    }
    let family = remembers.then(|| genl.id().into());
    let links: Vec<GtpLink> = ours
        .into_iter()
        .map(|f| GtpLink {
            netlink_family: family,
            ..f.link
        })
        .collect();
    let temporary = format!("{name}.tmp");
    let open = || sys::create_at(dir, &temporary).map(BufWriter::new);
    let written = dump::dump(&mut genl, &links, open, |_| ()).map_err(failed);
    let done = written.and_then(|(out, summary)| {
        drop(out);
        sys::rename_at(dir, &temporary, name).doing(|| format!("cannot create {name}"))?;
        Ok(summary)
    });
    if done.is_err() {
        sys::remove_at(dir, &temporary);
    }
    let summary = done?;
    log::info!(
        "{name}: {} GTP links with {} tunnels and {} connections",
        summary.links,
        summary.tunnels,
        summary.flows
    );
    let dumped = |l: GtpLink| Dumped {
        ifindex: l.ifindex,
        name: l.name,
    };
    Ok((links.into_iter().map(dumped).collect(), summary.outer))
}

/// The encapsulation sockets of a tree, each once, and whether any process has
/// a socket of generic netlink.
fn sockets(root: i32) -> Result<(Vec<Encapsulation>, bool)> {
    let mut found: Vec<Encapsulation> = Vec::new();
    let mut seen = HashSet::new();
    let mut remembers = false;
    for pid in proc::tree(root).doing(|| format!("cannot walk the processes below {root}"))? {
        for (fd, file) in socket_files(pid)? {
            let what = || format!("cannot ask socket {fd} of {pid}");
            remembers |= sockets::is_generic_netlink(file.as_fd()).doing(what)?;
            if !is_udp(&file).doing(what)? || !sockets::receives_gtp(file.as_fd()).doing(what)? {
                continue;
            }
            let id = sys::file_id(file.as_fd()).doing(what)?;
            if !seen.insert(id) {
                continue;
            }
            found.push(Encapsulation {
                file,
                pid,
                holder: Holder {
                    pid: proc::innermost_pid(pid)
                        .doing(|| format!("cannot read the status of {pid}"))?,
                    command: String::new(),
                    fd,
                },
                inode: u32::try_from(id.1).unwrap_or_default(),
            });
        }
    }
    Ok((found, remembers))
}

/// Copies of the sockets of a process, by descriptor.
fn socket_files(pid: i32) -> Result<Vec<(i32, OwnedFd)>> {
    let status = proc::read_status(pid).doing(|| format!("cannot read the status of {pid}"))?;
    if matches!(status.state, 'Z' | 'X') {
        return Ok(Vec::new());
    }
    let pidfd = sys::pidfd_open(pid).doing(|| format!("cannot open process {pid}"))?;
    proc::descriptors(pid)
        .doing(|| format!("cannot list the descriptors of {pid}"))?
        .into_iter()
        .filter(|(_, link)| link.starts_with("socket:["))
        .map(|(fd, _)| {
            let file = sys::pidfd_getfd(pidfd.as_fd(), fd)
                .doing(|| format!("cannot take descriptor {fd} of {pid}"))?;
            Ok((fd, file))
        })
        .collect()
}

fn is_udp(file: &OwnedFd) -> std::io::Result<bool> {
    Ok(sockets::protocol(file.as_fd())? == Some(libc::IPPROTO_UDP))
}

fn gtp_error(what: impl Into<String>, source: gtp::Error) -> Error {
    Error::Gtp {
        what: what.into(),
        source,
    }
}

fn directory(dir: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// Names and paths of the GTP images in a directory.
fn images(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).doing(|| "cannot list the image directory")? {
        let entry = entry.doing(|| "cannot list the image directory")?;
        if let Some(name) = entry
            .file_name()
            .to_str()
            .filter(|n| names::is_gtp_image(n))
        {
            found.push((name.to_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn reader(path: &Path) -> Result<image::Reader<BufReader<fs::File>>> {
    let name = || path.file_name().map(|n| n.to_string_lossy().into_owned());
    let file = fs::File::open(path).doing(|| format!("cannot open {}", path.display()))?;
    image::Reader::new(BufReader::new(file)).map_err(|source| Error::Image {
        what: name().unwrap_or_default(),
        source,
    })
}

/// Links to be restored.
#[derive(Default)]
pub struct Restore {
    images: Vec<(String, PathBuf, Survey)>,
    /// What was made, and the process in whose network namespace it is.
    made: Vec<(OwnedFd, u32)>,
    /// Where packets for it still have to be let in, and the same.
    closed: Vec<(i32, Vec<IpAddr>)>,
}

impl Restore {
    /// At init: walks every image and checks that there is a driver; takes the
    /// links out of CRIU's own images.
    ///
    /// # Errors
    /// The first image that cannot be restored, and why.
    pub fn verify(dir: BorrowedFd<'_>) -> Result<Self> {
        let mut found = Self::default();
        for (name, path) in images(&directory(dir))? {
            let survey = restore::survey(&mut reader(&path)?)
                .map_err(|source| gtp_error(name.clone(), source))?;
            found.images.push((name, path, survey));
        }
        if !found.images.is_empty() {
            let failed = |source| gtp_error("GTP links cannot be restored", source);
            let genl = gtp::connect().map_err(failed)?;
            for link in found.images.iter().flat_map(|(_, _, s)| &s.links) {
                restore::check_family(&genl, link).map_err(failed)?;
            }
            for (_, _, survey) in &found.images {
                netimages::take_out(dir, &survey.links)?;
            }
        }
        Ok(found)
    }

    /// Images still to be restored.
    #[must_use]
    pub fn count(&self) -> usize {
        self.images.len()
    }

    /// Where the sockets of all links were bound.
    pub(crate) fn addresses(&self) -> HashSet<SocketAddr> {
        let links = self.images.iter().flat_map(|(_, _, s)| &s.links);
        links.flat_map(|l| &l.sockets).filter_map(bound).collect()
    }

    /// Where they will be reached, but for those bound to any address.
    pub(crate) fn places(&self) -> HashSet<Place> {
        let bound = self.addresses().into_iter();
        bound
            .map(|a| (a.ip().to_canonical(), Port::udp(a.port())))
            .collect()
    }

    /// When all tasks of the tree below `root` stand ready to run: makes the
    /// links on their sockets.
    ///
    /// # Errors
    /// Nothing of the failed image is left.
    pub fn make(&mut self, root: i32) -> Result<()> {
        if self.images.is_empty() {
            return Ok(());
        }
        let mut tasks = HashMap::new();
        for pid in proc::tree(root).doing(|| format!("cannot walk the processes below {root}"))? {
            let known = proc::innermost_pid(pid);
            tasks.insert(
                known.doing(|| format!("cannot read the status of {pid}"))?,
                pid,
            );
        }
        for (name, path, survey) in std::mem::take(&mut self.images) {
            let sockets = || survey.links.iter().flat_map(|l| &l.sockets);
            let task = sockets().find_map(|s| tasks.get(&s.pid).copied());
            let pid = task.unwrap_or(root);
            let summary = netns::of_task(pid, || {
                make_room(&survey)?;
                restore::restore(
                    &mut reader(&path)?,
                    &survey,
                    |link| sockets_of(link, &tasks),
                    |_| (),
                )
                .map_err(|source| gtp_error(name.clone(), source))
            })?;
            log::info!(
                "{name}: {} GTP links with {} tunnels and {} connections restored",
                summary.links,
                summary.tunnels,
                summary.flows
            );
            let outside = survey.receives().chain(summary.outer.iter().copied());
            self.closed.push((pid, outside.collect()));
            for link in &survey.links {
                let task = sys::pidfd_open(pid).doing(|| format!("cannot open process {pid}"))?;
                self.made.push((task, link.ifindex));
            }
        }
        Ok(())
    }

    /// Lets packets to the links that were made, now that nothing can fail any more.
    pub fn open(&mut self) {
        for (pid, addresses) in self.closed.drain(..) {
            if let Err(e) = super::door::unlock_addresses(pid, addresses) {
                log::error!("{e}");
            }
        }
    }

    /// Removes the links that were made: the restore has failed after all.
    pub fn undo(&mut self) {
        for (task, ifindex) in self.made.drain(..) {
            let gone = netns::of_pidfd(task.as_fd(), || {
                link::delete(ifindex).map_err(|e| gtp_error("cannot remove a GTP link", e))
            });
            // With the last task its network namespace may have gone, and the link in it.
            if let Err(e) = gone {
                log::warn!("{e}");
            }
        }
    }
}

/// Removes links an earlier attempt has left behind: nothing receives for them.
fn make_room(survey: &Survey) -> Result<()> {
    let failed = |e| gtp_error("cannot look for GTP links of an earlier attempt", e);
    let mut genl = gtp::connect().map_err(failed)?;
    for old in link::list().map_err(failed)? {
        let same = |l: &GtpLink| l.name == old.name && l.ifindex == old.ifindex;
        if !survey.links.iter().any(same) {
            continue;
        }
        let mut deaf = true;
        for version in [0, 1] {
            deaf &= owner::receiver(&mut genl, &old, version)
                .map_err(failed)?
                .is_none();
        }
        if deaf {
            log::warn!("link {} of an earlier attempt makes room", old.name);
            link::delete(old.ifindex).map_err(failed)?;
        }
    }
    Ok(())
}

/// The restored sockets of a link.
fn sockets_of(link: &GtpLink, tasks: &HashMap<i32, i32>) -> gtp::Result<OwnedSockets> {
    let mut found = OwnedSockets::default();
    for wanted in &link.sockets {
        let pid = tasks.get(&wanted.pid).ok_or_else(|| {
            gtp::Error::Unsupported(format!(
                "link {}: its socket was that of process {}, which is not in the images",
                link.name, wanted.pid
            ))
        })?;
        let socket = udp_socket(*pid, wanted)?;
        if wanted.version == 0 {
            found.v0 = Some(socket);
        } else {
            found.v1 = Some(socket);
        }
    }
    Ok(found)
}

/// Where a socket of an image was bound.
fn bound(socket: &GtpSocket) -> Option<SocketAddr> {
    let port = u16::try_from(socket.port).ok()?;
    Some(SocketAddr::new(crate::netlink::ip(&socket.addr)?, port))
}

/// The UDP socket of a process that is bound where `wanted` was: under its
/// descriptor, or else under any other.
///
/// # Errors
/// The process has none there.
pub fn udp_socket(pid: i32, wanted: &GtpSocket) -> gtp::Result<OwnedFd> {
    let other = |e: Error| gtp::Error::Unsupported(e.to_string());
    let place = bound(wanted).ok_or(gtp::Error::BadImage("a socket has no address"))?;
    let mut fitting: Vec<(i32, OwnedFd)> = socket_files(pid)
        .map_err(other)?
        .into_iter()
        .filter(|(_, file)| {
            is_udp(file).unwrap_or(false) && sockets::bound_to(file.as_fd()) == Some(place)
        })
        .collect();
    let same = fitting.iter().position(|(fd, _)| *fd == wanted.fd);
    let chosen = same.unwrap_or(0);
    if fitting.is_empty() {
        return Err(gtp::Error::Unsupported(format!(
            "process {pid} has no UDP socket bound to {place}, on which the link received"
        )));
    }
    Ok(fitting.swap_remove(chosen).1)
}
