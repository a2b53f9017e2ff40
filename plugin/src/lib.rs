// SPDX-License-Identifier: GPL-2.0-only
//! The shared object CRIU loads: hooks only, each a few lines that call the
//! library. Nothing unwinds into CRIU, and every answer that is not an error or
//! a file is `-ENOTSUP`: any other would keep the plugins after us from being
//! asked.

mod criu;
mod descriptor;

use std::os::fd::{IntoRawFd, OwnedFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_char, c_int, ENOTSUP};
use telecr::criu::door::{self, Door};
use telecr::criu::dump::{self, Dump};
use telecr::criu::gtp;
use telecr::criu::restore::{self, Waker};
use telecr::criu::{logger, Error};

/// What goes on in this CRIU process.
enum State {
    /// No hook has had work yet.
    Idle,
    /// A restore has no images of ours.
    Nothing(Door),
    /// The tree was looked at: sockets are exchanged if it has some, and GTP
    /// links with these interface indexes are in images.
    Dumping(Option<Dump>, Vec<u32>),
    /// GTP links are to be made, and sockets to be woken.
    Restoring(gtp::Restore, Waker, Door),
    /// The restore was given up.
    GivenUp,
}

static STATE: Mutex<State> = Mutex::new(State::Idle);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a hook in CRIU itself: what goes wrong is for whoever has called CRIU, too.
fn hook(name: &str, work: impl FnOnce() -> Result<c_int, Error>) -> c_int {
    logged(name, || {
        let answer = work();
        if let Err(e) = &answer {
            logger::tell_caller(e);
        }
        answer
    })
}

/// Runs a hook: logs what went wrong, and stops a panic.
fn logged(name: &str, work: impl FnOnce() -> Result<c_int, Error>) -> c_int {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => {
            log::error!("{e}");
            -1
        }
        Err(_) => {
            log::error!("panic in {name}: this is a bug in telecr, please report it with this log");
            -1
        }
    }
}

/// CRIU's three ways to load plugins.
const STAGE_DUMP: c_int = 0;
const STAGE_RESTORE: c_int = 2;

unsafe extern "C" fn init(stage: c_int) -> c_int {
    hook("init", || {
        logger::install();
        std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
        if stage == STAGE_RESTORE {
            criu::forget_inventory();
            *state() = State::Nothing(Door::default());
            door::keep_locked();
            if let Some(dir) = criu::image_dir() {
                let sockets = restore::verify(dir)?;
                let links = gtp::Restore::verify(dir)?;
                log::info!(
                    "{sockets} SCTP sockets and {} images of GTP links to restore",
                    links.count()
                );
                if sockets + links.count() > 0 {
                    let door = Door::locked(dir, &links);
                    restore::make_room(dir, &links, &door);
                    *state() = State::Restoring(links, Waker::default(), door);
                }
            }
        }
        Ok(0)
    })
}

unsafe extern "C" fn exit(stage: c_int, ret: c_int) {
    hook("exit", || {
        let ended = std::mem::replace(&mut *state(), State::Idle);
        match (stage, ended) {
            // `ret` does not tell whether the tasks will live: always put back.
            (STAGE_DUMP, State::Dumping(Some(dump), _)) => dump.finish()?,
            (STAGE_RESTORE, State::Restoring(mut links, ..)) if ret != 0 => links.undo(),
            _ => {}
        }
        Ok(0)
    });
}

/// All tasks stand still. The first call is for the root of the tree.
unsafe extern "C" fn checkpoint_devices(pid: c_int) -> c_int {
    hook("CHECKPOINT_DEVICES", || {
        let mut state = state();
        if matches!(*state, State::Idle) {
            let stays_stopped = criu::leaves_tasks_stopped();
            let dir = criu::image_dir();
            let links = match dir {
                Some(dir) => dump::gtp(pid, dir, stays_stopped)?,
                None => Vec::new(),
            };
            let sockets = Dump::checkpoint(pid, stays_stopped, !links.is_empty())?;
            if !links.is_empty() || sockets.is_some() {
                criu::add_inventory();
            }
            *state = State::Dumping(sockets, links);
            if let Some(dir) = dir {
                dump::forget_earlier(dir)?;
            }
        }
        match &*state {
            State::Dumping(Some(dump), _) if !dump.covers(pid) => Err(Error::Refused {
                pid,
                what: "it appeared after the sockets were exchanged; dump again".into(),
            }),
            _ => Ok(-ENOTSUP),
        }
    })
}

unsafe extern "C" fn dump_ext_file(fd: c_int, id: c_int) -> c_int {
    hook("DUMP_EXT_FILE", || {
        let state = state();
        let State::Dumping(Some(dump), _) = &*state else {
            return Ok(-ENOTSUP);
        };
        let Some(dir) = criu::image_dir() else {
            return Ok(-ENOTSUP);
        };
        Ok(if dump.file(dir, criu::borrow(fd), id)? {
            0
        } else {
            -ENOTSUP
        })
    })
}

/// CRIU dumps a network namespace and does not know a link in it. Runs in a
/// child of CRIU's.
unsafe extern "C" fn dump_ext_link(index: c_int, _: c_int, _: *const c_char) -> c_int {
    hook("DUMP_EXT_LINK", || {
        let ours = |links: &[u32]| u32::try_from(index).is_ok_and(|i| links.contains(&i));
        Ok(match &*state() {
            State::Dumping(_, links) if ours(links) => 0,
            _ => -ENOTSUP,
        })
    })
}

/// Runs in the restored task. `retry` is garbage up to CRIU 4.2, and not
/// initialised by later ones.
unsafe extern "C" fn restore_ext_file(id: c_int, retry: *mut bool) -> c_int {
    if criu::restore_may_retry() && !retry.is_null() {
        // SAFETY: a CRIU with this many hooks passes a valid pointer here.
        unsafe { retry.write(false) };
    }
    logged("RESTORE_EXT_FILE", || {
        let Some(dir) = criu::image_dir() else {
            return Ok(-ENOTSUP);
        };
        Ok(restore::open(dir, id)?.map_or(-ENOTSUP, OwnedFd::into_raw_fd))
    })
}

/// The task stands ready to run, as all others do; CRIU's own network lock is
/// gone. The first call is for the root of the tree.
unsafe extern "C" fn resume_devices_late(pid: c_int) -> c_int {
    hook("RESUME_DEVICES_LATE", || {
        let mut state = state();
        let (links, waker, door) = match &mut *state {
            State::Restoring(links, waker, door) => (links, waker, door),
            State::Nothing(door) => {
                // A container without anything of ours may have been locked too.
                return Ok(runs_on([door.let_in(pid, false)]));
            }
            _ => return Ok(-ENOTSUP),
        };
        let root = waker.root(pid);
        let has_links = links.count() > 0;
        // Before anything gets in, and any peer hears of the tasks: this may still fail.
        let ready = links.make(pid).and_then(|()| waker.sleepers(pid));
        let sleepers = match ready {
            Ok(sleepers) => sleepers,
            Err(e) if waker.is_awake() => return Ok(runs_on([Err(e)])),
            Err(e) => {
                links.undo();
                restore::give_up(root);
                *state = State::GivenUp;
                return Err(e);
            }
        };
        // Sockets that are not awake yet drop what arrives. They are woken whatever becomes of the lock: the program runs
        // on, and the lock ends by itself.
        links.open();
        let opened = door.let_in(pid, has_links);
        let woken = waker.wake(sleepers, door).map(|woken| {
            log::info!("{woken} SCTP sockets of {pid} are awake");
        });
        Ok(runs_on([opened, woken]))
    })
}

/// Tells what went wrong in a task that is to run all the same: a CRIU that does not
/// pass over an error here (later than 4.2) would end it, and its peers would hear of that.
fn runs_on<const N: usize>(results: [Result<(), Error>; N]) -> c_int {
    for e in results.into_iter().filter_map(Result::err) {
        log::error!("{e}");
        logger::tell_caller(&e);
    }
    -ENOTSUP
}
