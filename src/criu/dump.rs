// SPDX-License-Identifier: GPL-2.0-only
//! One dump, from the first stopped task to the last socket put back.

use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::io::BufWriter;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::error::{Context, Error, Result};
use super::guard::{self, Guard, Ice, OpenIce, Orders};
use super::journal::{Journal, Phase};
use super::scan::{self, Plan};
use super::{handover, keeper, names, snapshot, sys};
use crate::image;
use crate::sctp::repair::Repair;

/// At `CHECKPOINT_DEVICES`, when nothing has been refused, and no socket written: the
/// images of sockets of an earlier dump into the same directory would be taken for
/// this one's.
///
/// # Errors
/// The directory cannot be read.
pub fn forget_earlier(dir: BorrowedFd<'_>) -> Result<()> {
    let what = || "cannot list the image directory";
    let entries = fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd())).doing(what)?;
    for entry in entries {
        let name = entry.doing(what)?.file_name();
        let earlier = |n: &&str| names::image_id(n).is_some();
        if let Some(name) = name.to_str().filter(earlier) {
            sys::remove_at(dir, name);
        }
    }
    Ok(())
}

/// At `CHECKPOINT_DEVICES`, before the SCTP sockets are frozen: writes the
/// images of the GTP links of the tree below `root`. Answers their interface
/// indexes.
///
/// # Errors
/// The links are as they were.
pub fn gtp(root: i32, dir: BorrowedFd<'_>, stays_stopped: bool) -> Result<Vec<u32>> {
    let Some(dump) = super::gtp::dump(root, dir)? else {
        return Ok(Vec::new());
    };
    keeper::start(&dump, stays_stopped)?;
    let links = dump.namespaces.iter().flat_map(|n| &n.links);
    Ok(links.map(|l| l.ifindex).collect())
}

/// Sockets are exchanged and frozen; CRIU is dumping.
///
/// Dropping it without [`finish`](Self::finish) leaves putting back to the guard.
pub struct Dump {
    plan: Plan,
    journal: Journal,
    guard: Guard,
    /// Index of the socket behind each placeholder's inode.
    by_inode: HashMap<(u64, u64), usize>,
}

/// Freezing and thawing through the kernel companion.
struct Companion(Repair);

impl Companion {
    fn open() -> Result<Box<dyn Ice>> {
        let repair = Repair::open().map_err(|e| repair_error("repair mode cannot be used", e))?;
        Ok(Box::new(Companion(repair)))
    }
}

impl Ice for Companion {
    fn freeze(&mut self, socket: BorrowedFd<'_>) -> Result<()> {
        self.0
            .freeze(socket)
            .map_err(|e| repair_error("it cannot be frozen", e))
    }

    fn thaw(&mut self, socket: BorrowedFd<'_>, wake: bool) -> Result<()> {
        // CRIU may have died before this one was frozen.
        if self.0.is_frozen(socket).is_ok_and(|frozen| !frozen) {
            return Ok(());
        }
        let thawed = if wake {
            self.0.wake(socket)
        } else {
            self.0.release(socket)
        };
        thawed.map_err(|e| repair_error("it cannot be thawed", e))
    }
}

fn repair_error(what: &str, source: crate::sctp::Error) -> Error {
    Error::Repair {
        what: what.into(),
        source,
    }
}

impl Dump {
    /// At `CHECKPOINT_DEVICES`: the tree below `root` stands still, traced by
    /// the calling thread. Starts the guard, freezes all SCTP sockets, and
    /// exchanges them. `None` when there are none, unless the tree `has_links`
    /// of GTP: their owners too must outlive a CRIU that is killed.
    ///
    /// # Errors
    /// Everything is as it was before, unless undoing failed too: then the guard
    /// undoes it once CRIU has gone.
    pub fn checkpoint(root: i32, stays_stopped: bool, has_links: bool) -> Result<Option<Self>> {
        let sctp = libc::IPPROTO_SCTP;
        Self::checkpoint_kind(root, stays_stopped, has_links, sctp, Companion::open)
    }

    pub(crate) fn checkpoint_kind(
        root: i32,
        stays_stopped: bool,
        has_links: bool,
        protocol: i32,
        open: OpenIce,
    ) -> Result<Option<Self>> {
        let plan = scan::scan(root, protocol)?;
        if plan.sockets.is_empty() && !has_links {
            return Ok(None);
        }
        let mut ice = if plan.sockets.is_empty() {
            None
        } else {
            Some(open()?)
        };
        let journal = Journal::new().doing(|| "cannot map the journal")?;
        // Before the first freeze: a frozen socket must never be left without a guard.
        let snapshot = snapshot::take(&plan)?;
        let orders = Orders {
            plan: &plan,
            snapshot: &snapshot,
            journal: &journal,
            ice: open,
            stays_stopped,
        };
        let guard = Guard::start(&orders)?;
        let guard = match &mut ice {
            Some(ice) => exchange(&plan, guard, &journal, ice.as_mut())?,
            None => guard,
        };
        let mut by_inode = HashMap::new();
        for (index, socket) in plan.sockets.iter().enumerate() {
            by_inode.insert(
                sys::file_id(socket.placeholder.as_fd()).doing(|| "cannot stat")?,
                index,
            );
        }
        log::info!(
            "{} SCTP sockets exchanged in {} tasks",
            plan.sockets.len(),
            plan.tasks.len()
        );
        Ok(Some(Dump {
            plan,
            journal,
            guard,
            by_inode,
        }))
    }

    /// Whether a task was there when the sockets were exchanged.
    pub fn covers(&self, pid: i32) -> bool {
        self.plan.tasks.iter().any(|t| t.pid == pid)
    }

    /// At `DUMP_EXT_FILE`: writes the image of the socket behind a placeholder.
    /// `false` for a file that is none of ours.
    ///
    /// # Errors
    /// The dump of the socket or the write failed; the file is not there then.
    pub fn file(&self, dir: BorrowedFd<'_>, file: BorrowedFd<'_>, id: i32) -> Result<bool> {
        let Some(socket) = self.find(file)? else {
            return Ok(false);
        };
        let name = names::image(id);
        let temporary = format!("{name}.tmp");
        let out = sys::create_at(dir, &temporary).doing(|| format!("cannot create {temporary}"))?;
        let written = write_image(socket.file.as_fd(), out).and_then(|()| {
            sys::rename_at(dir, &temporary, &name).doing(|| format!("cannot create {name}"))
        });
        if written.is_err() {
            sys::remove_at(dir, &temporary);
        }
        written.map(|()| true)
    }

    /// The socket a placeholder stands for. Each has an inode of its own since
    /// Linux 5.12; before that only comparing tells.
    fn find(&self, file: BorrowedFd<'_>) -> Result<Option<&scan::Socket>> {
        let me = sys::my_pid();
        let same = |socket: &scan::Socket| {
            sys::same_file((me, file.as_raw_fd()), (me, socket.placeholder.as_raw_fd()))
                .doing(|| "cannot compare files (is kcmp in the kernel?)")
        };
        let id = sys::file_id(file).doing(|| "cannot stat a file")?;
        let Some(&first) = self.by_inode.get(&id) else {
            return Ok(None);
        };
        if let Some(socket) = self.plan.sockets.get(first) {
            if same(socket)? {
                return Ok(Some(socket));
            }
        }
        for socket in &self.plan.sockets {
            if same(socket)? {
                return Ok(Some(socket));
            }
        }
        Ok(None)
    }

    /// At exit: puts the sockets back, frozen, into the tasks, which still
    /// stand. Whether they will live the guard finds out.
    ///
    /// # Errors
    /// Not all are back; the guard puts back the rest when CRIU has gone.
    pub fn finish(mut self) -> Result<()> {
        sys::without_sigchld(|| {
            handover::to_sockets(&self.plan, self.plan.tasks.iter(), &self.journal)
        })?;
        self.journal.set_phase(Phase::Returned);
        self.guard.nudge()
    }
}

/// Freezes all sockets and puts placeholders where they were.
fn exchange(plan: &Plan, guard: Guard, journal: &Journal, ice: &mut dyn Ice) -> Result<Guard> {
    if let Err(e) = freeze_all(plan, ice) {
        guard::dismiss(guard, journal);
        return Err(e);
    }
    if let Err(e) = sys::without_sigchld(|| handover::to_placeholders(plan, journal)) {
        match sys::without_sigchld(|| handover::to_sockets(plan, plan.tasks.iter(), journal)) {
            Ok(()) => {
                thaw_all(plan, plan.sockets.len(), ice);
                guard::dismiss(guard, journal);
            }
            Err(undo) => log::error!("{undo}; the guard will try again when CRIU has gone"),
        }
        return Err(e);
    }
    Ok(guard)
}

/// Freezes every socket, or none.
fn freeze_all(plan: &Plan, ice: &mut dyn Ice) -> Result<()> {
    for (index, socket) in plan.sockets.iter().enumerate() {
        if let Err(e) = ice.freeze(socket.file.as_fd()) {
            thaw_all(plan, index, ice);
            return Err(match holder(plan, index) {
                Some((pid, fd)) => Error::Refused {
                    pid,
                    what: format!("socket {fd}: {e}"),
                },
                None => e,
            });
        }
    }
    Ok(())
}

fn holder(plan: &Plan, socket: usize) -> Option<(i32, i32)> {
    plan.tasks.iter().find_map(|t| {
        let slot = t.slots.iter().find(|s| s.socket == socket)?;
        Some((t.pid, slot.fd))
    })
}

/// Thaws the first `count` sockets as if they had never been frozen.
fn thaw_all(plan: &Plan, count: usize, ice: &mut dyn Ice) {
    for socket in plan.sockets.iter().take(count) {
        if let Err(e) = ice.thaw(socket.file.as_fd(), false) {
            log::error!("a socket stays frozen: {e}");
        }
    }
}

fn write_image(socket: BorrowedFd<'_>, out: File) -> Result<()> {
    let mut repair = Repair::open().map_err(|e| repair_error("repair mode cannot be used", e))?;
    let write = |source| Error::Image {
        what: "cannot write the image of a socket".into(),
        source,
    };
    let mut writer = image::Writer::new(BufWriter::new(out), image::sctp_header(repair.version()))
        .map_err(write)?;
    crate::sctp::dump::dump(&mut repair, socket, &mut writer)
        .map_err(|e| repair_error("cannot dump a socket", e))?;
    writer.finish().map_err(write).map(drop)
}
