// SPDX-License-Identifier: GPL-2.0-only
//! Log lines go where CRIU's own go; the guard's, once CRIU is gone, to the
//! kernel log, which every host keeps.

use std::ffi::{c_char, c_uint, c_void, CString};
use std::fs::OpenOptions;
use std::io::Write;
use std::mem::transmute;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::names;

/// CRIU's `print_on_level`: a level, a format, its arguments.
type PrintOnLevel = unsafe extern "C" fn(c_uint, *const c_char, ...);

static LEFT_CRIU: AtomicBool = AtomicBool::new(false);
static PRINT: OnceLock<Option<PrintOnLevel>> = OnceLock::new();

struct Logger;
static LOGGER: Logger = Logger;

/// Looks up a symbol of the running program (CRIU exports all of its own).
pub fn symbol(name: &std::ffi::CStr) -> Option<std::ptr::NonNull<c_void>> {
    // SAFETY: a terminated name; the default handle needs no opening.
    std::ptr::NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// Sends the `log` crate's lines to CRIU's log, or to standard error when the
/// program is not CRIU. A second call does nothing.
pub fn install() {
    let print = PRINT.get_or_init(|| {
        // SAFETY: CRIU has declared this function with this signature since 1.0.
        symbol(c"print_on_level")
            .map(|f| unsafe { transmute::<*mut c_void, PrintOnLevel>(f.as_ptr()) })
    });
    if log::set_logger(&LOGGER).is_ok() {
        // CRIU filters by its own -v.
        log::set_max_level(if print.is_some() {
            LevelFilter::Debug
        } else {
            LevelFilter::Info
        });
    }
}

/// Says what went wrong on standard error too, which container runtimes pass on to
/// podman, while the log stays in a file. Not in a restored task, whose
/// standard error is its own.
pub fn tell_caller(error: &dyn std::fmt::Display) {
    if log_is_stderr() {
        return;
    }
    let line = format!("{}: {error}\n", names::PLUGIN);
    let _ = match stderr_of_runc() {
        Some(mut theirs) => theirs.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

/// runc gives CRIU no standard error; its own is the way to podman.
fn stderr_of_runc() -> Option<std::fs::File> {
    let caller = nix::unistd::getppid();
    let name = std::fs::read_to_string(format!("/proc/{caller}/comm")).ok()?;
    if name.trim_end() != "runc" {
        return None;
    }
    // The very descriptor: with one of our own the place in a file would be another.
    super::fd_of(caller.as_raw(), 2).ok().map(Into::into)
}

/// Whether CRIU's log is standard error.
fn log_is_stderr() -> bool {
    let Some(function) = symbol(c"log_get_fd") else {
        return true;
    };
    // SAFETY: CRIU has declared this function with this signature since 1.0.
    let log = unsafe { transmute::<*mut c_void, extern "C" fn() -> i32>(function.as_ptr())() };
    let id = |fd: i32| {
        let stat = std::fs::metadata(format!("/proc/self/fd/{fd}")).ok()?;
        Some((stat.dev(), stat.ino()))
    };
    log == 2 || id(log) == id(2)
}

/// From now on this process is not CRIU: its log is none of ours.
pub(crate) fn leave_criu() {
    LEFT_CRIU.store(true, SeqCst);
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Debug
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if LEFT_CRIU.load(SeqCst) {
            if record.level() <= Level::Warn {
                kernel_log(record);
            }
            return;
        }
        let (level, word) = match record.level() {
            Level::Error => (1, "Error "),
            Level::Warn => (2, "Warn  "),
            Level::Info => (3, ""),
            Level::Debug | Level::Trace => (4, ""),
        };
        let line = format!("{word}{}: {}\n", names::PLUGIN, record.args()).replace('\0', "?");
        let Ok(line) = CString::new(line) else { return };
        match PRINT.get().copied().flatten() {
            // SAFETY: the format takes one string, and `line` is one that lives across the call.
            Some(print) => unsafe { print(level, c"%s".as_ptr(), line.as_ptr()) },
            None => eprint!("{}", line.to_string_lossy()),
        }
    }

    fn flush(&self) {}
}

/// One line for `dmesg` and the journal. There is nobody to tell of a failure.
fn kernel_log(record: &Record<'_>) {
    let priority = if record.level() == Level::Error { 3 } else { 4 };
    if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let line = format!("<{priority}>{}: {}\n", names::GUARD, record.args());
        let _ = kmsg.write_all(line.as_bytes());
    }
}
