// SPDX-License-Identifier: GPL-2.0-only
//! Restore: verify all images before anything happens, build each socket in its
//! task, wake them all when the tasks stand ready to run.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufReader, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::door::Door;
use super::error::{Context, Error, Result};
use super::gtp::Restore as Gtp;
use super::{departed, names, netns, proc, reminder, sockets, sys};
use crate::image;
use crate::netlink::local_addresses;
use crate::sctp::nudge::Nudger;
use crate::sctp::repair::Repair;
use crate::sctp::{self, wake};

/// At init: walks every image in the directory and checks that this kernel can
/// take them. Answers how many there are.
///
/// # Errors
/// The first damaged or foreign image, or what the host lacks.
pub fn verify(dir: BorrowedFd<'_>) -> Result<usize> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let mut count = 0;
    for entry in fs::read_dir(&path).doing(|| "cannot list the image directory")? {
        let name = entry
            .doing(|| "cannot list the image directory")?
            .file_name();
        let Some(name) = name.to_str().filter(|n| names::image_id(n).is_some()) else {
            continue;
        };
        image::verify(path.join(name)).map_err(|source| Error::Image {
            what: name.into(),
            source,
        })?;
        count += 1;
    }
    if count > 0 {
        open_repair()?;
    }
    Ok(count)
}

/// At init, when all images are known to be good: what an earlier dump on this
/// host still holds makes room.
pub fn make_room(dir: BorrowedFd<'_>, gtp: &Gtp, door: &Door) {
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    departed::evict(&path, gtp.addresses(), door.places());
}

/// At `RESTORE_EXT_FILE`, in the task and its network namespace: the socket of
/// image `id`, still frozen. `None` when the id is none of ours.
///
/// # Errors
/// Nothing was sent and nothing is left.
pub fn open(dir: BorrowedFd<'_>, id: i32) -> Result<Option<OwnedFd>> {
    let name = names::image(id);
    let file = match sys::open_at(dir, &name) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).doing(|| format!("cannot open {name}")),
    };
    let mut repair = open_repair()?;
    // All images were walked at init: should this one have changed since, the
    // reader notices, and nothing is left.
    let reader = image::Reader::new(BufReader::new(file));
    let mut reader = reader.map_err(|source| Error::Image {
        what: name.clone(),
        source,
    })?;
    let failed = |source| Error::Repair {
        what: name.clone(),
        source,
    };
    let here = here().map_err(|e| failed(e.into()))?;
    let (socket, summary) =
        crate::sctp::restore::restore(&mut repair, &mut reader, &here).map_err(failed)?;
    log::info!("{name}: restored, {summary:?}");
    Ok(Some(socket))
}

/// The addresses of the network namespace the task restores its files in: read
/// once for all of its sockets.
fn here() -> crate::netlink::Result<Arc<HashSet<IpAddr>>> {
    static OF_TASK: Mutex<Option<(i32, Arc<HashSet<IpAddr>>)>> = Mutex::new(None);
    let mut known = OF_TASK.lock().unwrap_or_else(PoisonError::into_inner);
    let me = sys::my_pid();
    match &*known {
        Some((pid, addresses)) if *pid == me => Ok(Arc::clone(addresses)),
        _ => {
            let addresses = Arc::new(local_addresses()?);
            *known = Some((me, Arc::clone(&addresses)));
            Ok(addresses)
        }
    }
}

/// CRIU does not look at what `RESUME_DEVICES_LATE` answers (up to 4.2): ends all tasks
/// below `root`, which have not run yet, so that the restore fails as it should.
/// Their SCTP sockets are still frozen, so the peers hear nothing, and the images
/// are good for another try.
pub fn give_up(root: i32) {
    log::error!(
        "the restore cannot be completed and ends here: the images are good for another try"
    );
    for pid in proc::tree(root).unwrap_or_else(|_| vec![root]) {
        if let Err(e) = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        ) {
            log::warn!("cannot end process {pid}: {e}");
        }
    }
}

/// At `RESUME_DEVICES_LATE`: wakes the frozen sockets of the tasks, each once.
#[derive(Default)]
pub struct Waker {
    seen: HashSet<(u64, u64)>,
    nudgers: HashMap<(u64, u64), Nudger>,
    is_awake: bool,
    root: Option<i32>,
}

/// The frozen sockets of one task, and the means to wake them.
pub struct Sleepers {
    pid: i32,
    sockets: Vec<OwnedFd>,
    /// None where there is nothing to wake.
    repair: Option<Repair>,
}

impl Waker {
    /// The first task it is asked about, which is the root of the tree.
    pub fn root(&mut self, pid: i32) -> i32 {
        *self.root.get_or_insert(pid)
    }

    /// Whether any socket may be awake: its peer then hears of it when its task is ended.
    #[must_use]
    pub fn is_awake(&self) -> bool {
        self.is_awake
    }

    /// The frozen sockets of a task not seen before, still frozen.
    ///
    /// # Errors
    /// They cannot be woken.
    pub fn sleepers(&mut self, pid: i32) -> Result<Sleepers> {
        let sockets = self.sockets(pid)?;
        let repair = match sockets.is_empty() {
            true => None,
            false => Some(open_repair()?),
        };
        Ok(Sleepers {
            pid,
            sockets,
            repair,
        })
    }

    /// Wakes the sockets of one task, which stands ready to run, and says how many.
    ///
    /// # Errors
    /// The first failure, after all have been tried.
    pub fn wake(&mut self, found: Sleepers, door: &mut Door) -> Result<usize> {
        let Sleepers {
            pid,
            sockets,
            repair: Some(mut repair),
        } = found
        else {
            return Ok(0);
        };
        self.is_awake = true;
        // Packets must reach the sockets before these speak.
        let unlocked = door.open(pid, &mut repair, &sockets);
        let mut woken = None;
        let nudged = self.nudger(pid).and_then(|nudger| {
            let (told, peers) = netns::of_task(pid, || {
                let (result, told) = wake::each(&mut repair, &sockets, Some(nudger));
                woken = Some(result);
                Ok((told, nudger.reminder()))
            })?;
            let reminded = match named(peers)? {
                Some(peers) => reminder::start(peers),
                None => Ok(()),
            };
            named(told).and(reminded)
        });
        // Without them the peers wait for their timers: slower, but no failure.
        if let Err(e) = nudged {
            log::warn!("peers of {pid} may send again late: {e}");
        }
        let woken = woken.unwrap_or_else(|| wake::each(&mut repair, &sockets, None).0);
        woken
            .map_err(|source| Error::Repair {
                what: format!("a socket of {pid}"),
                source,
            })
            .and(unlocked)
            .map(|()| sockets.len())
    }

    /// Who nudges from the network namespace of a task.
    fn nudger(&mut self, pid: i32) -> Result<&mut Nudger> {
        let netns = netns::of(pid).doing(|| format!("cannot look at process {pid}"))?;
        Ok(self.nudgers.entry(netns).or_default())
    }

    fn sockets(&mut self, pid: i32) -> Result<Vec<OwnedFd>> {
        let pidfd = sys::pidfd_open(pid).doing(|| format!("cannot open process {pid}"))?;
        let mut found = Vec::new();
        let listed =
            proc::descriptors(pid).doing(|| format!("cannot list the descriptors of {pid}"))?;
        for (fd, _) in listed
            .iter()
            .filter(|(_, link)| link.starts_with("socket:["))
        {
            let file = sys::pidfd_getfd(pidfd.as_fd(), *fd)
                .doing(|| format!("cannot take descriptor {fd} of {pid}"))?;
            let protocol =
                sockets::protocol(file.as_fd()).doing(|| format!("cannot ask socket {fd}"))?;
            if protocol == Some(libc::IPPROTO_SCTP) {
                let id =
                    sys::file_id(file.as_fd()).doing(|| format!("cannot stat descriptor {fd}"))?;
                if self.seen.insert(id) {
                    found.push(file);
                }
            }
        }
        Ok(found)
    }
}

fn open_repair() -> Result<Repair> {
    Repair::open().map_err(|source| Error::Repair {
        what: "repair mode cannot be used".into(),
        source,
    })
}

/// Names whom an error of the nudger is about.
pub(super) fn named<T>(of_peers: sctp::Result<T>) -> Result<T> {
    of_peers.map_err(|source| Error::Repair {
        what: "the peers".into(),
        source,
    })
}
