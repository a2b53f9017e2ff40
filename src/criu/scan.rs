// SPDX-License-Identifier: GPL-2.0-only
//! Which sockets a process tree holds, under which numbers, and which epoll
//! sets watch them. Refuses by name what cannot be carried. Changes nothing.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::error::{Context, Error, Result};
use super::proc::{self, EpollTarget};
use super::{sockets, sys};

/// One socket, with our own copies of it.
pub(crate) struct Socket {
    /// Our copy.
    pub file: OwnedFd,
    /// What stands in for it; ours too.
    pub placeholder: OwnedFd,
}

/// A descriptor of a task that names one of the sockets.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// Its number.
    pub fd: RawFd,
    /// Its close-on-exec flag.
    pub cloexec: bool,
    /// Index of the socket.
    pub socket: usize,
}

/// A process of the tree.
pub(crate) struct Task {
    /// Its id, as CRIU sees it.
    pub pid: i32,
    /// A handle that survives reuse of the id.
    pub pidfd: OwnedFd,
    /// Its descriptors that name our sockets.
    pub slots: Vec<Slot>,
}

/// A watch of one of our sockets in an epoll set.
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    /// What it is in the kernel.
    pub target: EpollTarget,
    /// Index of the socket.
    pub socket: usize,
}

/// An epoll set, however many tasks share it.
pub(crate) struct EpollSet {
    /// Our copy.
    pub file: OwnedFd,
    /// Its watches of our sockets.
    pub watches: Vec<Watch>,
}

/// Everything the exchange is about.
#[derive(Default)]
pub(crate) struct Plan {
    /// All living tasks of the tree, parents first.
    pub tasks: Vec<Task>,
    /// The sockets to carry.
    pub sockets: Vec<Socket>,
    /// The epoll sets that watch them.
    pub sets: Vec<EpollSet>,
}

/// What the scan remembers between tasks.
#[derive(Default)]
struct Scan {
    plan: Plan,
    index: HashMap<(u64, u64), usize>,
    /// Epoll descriptors with sockets among their targets, before duplicates go.
    epolls: Vec<(OwnedFd, Vec<EpollTarget>)>,
    /// Reasons to refuse, should there be anything of ours in the tree.
    objections: Vec<Error>,
}

/// Looks through `root` and its descendants for sockets of `protocol`. All of
/// them must stand still.
pub(crate) fn scan(root: i32, protocol: i32) -> Result<Plan> {
    let mut scan = Scan::default();
    for pid in proc::tree(root).doing(|| format!("cannot walk the processes below {root}"))? {
        let status = proc::read_status(pid).doing(|| format!("cannot read the status of {pid}"))?;
        if !matches!(status.state, 'Z' | 'X') {
            scan.task(pid, protocol)?;
        }
    }
    if scan.plan.sockets.is_empty() {
        return Ok(scan.plan);
    }
    if let Some(objection) = scan.objections.into_iter().next() {
        return Err(objection);
    }
    // Only now are all sockets known: a set may watch one its task has closed.
    let mut sets: Vec<EpollSet> = Vec::new();
    for (file, targets) in scan.epolls {
        let watches: Vec<Watch> = targets
            .into_iter()
            .filter_map(|target| {
                let socket = *scan.index.get(&(target.dev, target.ino))?;
                Some(Watch { target, socket })
            })
            .collect();
        if !watches.is_empty() && !known(&sets, file.as_fd())? {
            sets.push(EpollSet { file, watches });
        }
    }
    scan.plan.sets = sets;
    Ok(scan.plan)
}

/// Whether a set is there already, through another descriptor.
fn known(sets: &[EpollSet], file: BorrowedFd<'_>) -> Result<bool> {
    let me = sys::my_pid();
    for set in sets {
        let same = sys::same_file((me, set.file.as_raw_fd()), (me, file.as_raw_fd()));
        if same.doing(|| "cannot compare epoll sets (is kcmp in the kernel?)")? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Scan {
    fn task(&mut self, pid: i32, protocol: i32) -> Result<()> {
        let pidfd = sys::pidfd_open(pid).doing(|| format!("cannot open process {pid}"))?;
        let mut slots = Vec::new();
        let listed =
            proc::descriptors(pid).doing(|| format!("cannot list the descriptors of {pid}"))?;
        for (fd, link) in listed {
            if link.starts_with("socket:[") {
                let file = get(&pidfd, pid, fd)?;
                let found = sockets::protocol(file.as_fd())
                    .doing(|| format!("cannot ask socket {fd} of {pid} for its protocol"))?;
                if found == Some(protocol) {
                    let cloexec = self.cloexec(pid, fd)?;
                    let socket = self.socket(file)?;
                    slots.push(Slot {
                        fd,
                        cloexec,
                        socket,
                    });
                } else {
                    self.object_to_flight(pid, fd, &file, protocol)?;
                }
            } else if link == "anon_inode:[eventpoll]" {
                self.epoll(&pidfd, pid, fd)?;
            } else if link == "anon_inode:[io_uring]" {
                self.objections.push(Error::Refused {
                    pid,
                    what: format!(
                        "descriptor {fd} is an io_uring, which may hold SCTP sockets and which CRIU cannot dump; \
                         run the program without io_uring"
                    ),
                });
            }
        }
        self.plan.tasks.push(Task { pid, pidfd, slots });
        Ok(())
    }

    fn cloexec(&self, pid: i32, fd: RawFd) -> Result<bool> {
        let info =
            proc::read_fdinfo(pid, fd).doing(|| format!("cannot read fdinfo {fd} of {pid}"))?;
        proc::close_on_exec(&info)
            .ok_or_else(|| Error::Other(format!("fdinfo {fd} of {pid} has an unknown form")))
    }

    /// The index of a socket, which may be known from another descriptor.
    fn socket(&mut self, file: OwnedFd) -> Result<usize> {
        let id = sys::file_id(file.as_fd()).doing(|| "cannot stat a socket")?;
        if let Some(&index) = self.index.get(&id) {
            return Ok(index);
        }
        let placeholder = sys::userfaultfd()
            .doing(|| "cannot make a placeholder (the kernel needs CONFIG_USERFAULTFD)")?;
        sys::copy_owner(file.as_fd(), placeholder.as_fd())
            .doing(|| "cannot copy a socket's owner")?;
        let index = self.plan.sockets.len();
        self.plan.sockets.push(Socket { file, placeholder });
        self.index.insert(id, index);
        Ok(index)
    }

    fn epoll(&mut self, pidfd: &OwnedFd, pid: i32, fd: RawFd) -> Result<()> {
        let info =
            proc::read_fdinfo(pid, fd).doing(|| format!("cannot read fdinfo {fd} of {pid}"))?;
        let mut targets = Vec::new();
        for line in info.lines().filter(|l| l.starts_with("tfd:")) {
            let target = proc::epoll_target(line);
            targets.push(target.ok_or_else(|| {
                Error::Other(format!("fdinfo {fd} of {pid} has an unknown form: {line}"))
            })?);
        }
        if !targets.is_empty() {
            self.epolls.push((get(pidfd, pid, fd)?, targets));
        }
        Ok(())
    }

    /// A socket on its way through a unix socket cannot be exchanged.
    fn object_to_flight(
        &mut self,
        pid: i32,
        fd: RawFd,
        file: &OwnedFd,
        protocol: i32,
    ) -> Result<()> {
        let info =
            proc::read_fdinfo(pid, fd).doing(|| format!("cannot read fdinfo {fd} of {pid}"))?;
        if proc::files_in_flight(&info) == 0 {
            return Ok(());
        }
        for carried in sys::peek_fds(file.as_fd()) {
            if sockets::protocol(carried.as_fd()).ok().flatten() == Some(protocol) {
                return Err(Error::Refused {
                    pid,
                    what: format!(
                        "an SCTP socket is in flight over unix socket {fd}, where it cannot be exchanged; \
                         dump again once it has been received"
                    ),
                });
            }
        }
        Ok(())
    }
}

fn get(pidfd: &OwnedFd, pid: i32, fd: RawFd) -> Result<OwnedFd> {
    sys::pidfd_getfd(pidfd.as_fd(), fd).doing(|| {
        format!("cannot take descriptor {fd} of {pid} (telecr needs Linux 5.6 and CAP_SYS_PTRACE)")
    })
}
