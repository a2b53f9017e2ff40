// SPDX-License-Identifier: GPL-2.0-only
//! What `/proc` says about a process: pure parsers, and readers on top.

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// One watch of an epoll set, from a `tfd:` line of its `fdinfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpollTarget {
    /// The number under which the target was added.
    pub tfd: RawFd,
    /// The events asked for.
    pub events: u32,
    /// What the application gets back.
    pub data: u64,
    /// The target's inode.
    pub ino: u64,
    /// The target's device, in the kernel's encoding.
    pub dev: u64,
}

/// Parses `tfd:  5 events: 19 data: 5  pos:0 ino:1c2 sdev:9`; `None` for other lines.
pub(crate) fn epoll_target(line: &str) -> Option<EpollTarget> {
    let mut words = line.split_whitespace();
    if words.next()? != "tfd:" {
        return None;
    }
    let tfd = words.next()?.parse().ok()?;
    let mut target = EpollTarget {
        tfd,
        events: 0,
        data: 0,
        ino: 0,
        dev: 0,
    };
    let mut seen = 0;
    while let Some(word) = words.next() {
        let (key, value) = word.split_once(':')?;
        let value = if value.is_empty() {
            words.next()?
        } else {
            value
        };
        let hex = |v: &str| u64::from_str_radix(v, 16).ok();
        match key {
            "events" => target.events = u32::from_str_radix(value, 16).ok()?,
            "data" => target.data = hex(value)?,
            "ino" => target.ino = hex(value)?,
            "sdev" => target.dev = hex(value)?,
            _ => continue,
        }
        seen += 1;
    }
    (seen == 4).then_some(target)
}

/// Whether the `flags:` line of an `fdinfo` has close-on-exec set.
pub(crate) fn close_on_exec(fdinfo: &str) -> Option<bool> {
    let line = fdinfo.lines().find_map(|l| l.strip_prefix("flags:"))?;
    let flags = i64::from_str_radix(line.trim(), 8).ok()?;
    Some(flags & i64::from(libc::O_CLOEXEC) != 0)
}

/// How many files wait inside a unix socket (`scm_fds:` of its `fdinfo`).
pub(crate) fn files_in_flight(fdinfo: &str) -> u32 {
    let line = fdinfo.lines().find_map(|l| l.strip_prefix("scm_fds:"));
    line.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

/// The parts of `/proc/PID/status` that tell whether a process runs by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// The letter of its state.
    pub state: char,
    /// Who traces it, or 0.
    pub tracer: i32,
    /// Whether a SIGKILL waits for it.
    pub dying: bool,
}

/// Parses `/proc/PID/status`.
pub(crate) fn status(text: &str) -> Option<Status> {
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .map(str::trim)
    };
    let mask = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
    let kill = 1u64 << (libc::SIGKILL - 1);
    Some(Status {
        state: field("State:")?.chars().next()?,
        tracer: field("TracerPid:")?.parse().ok()?,
        dying: (mask("SigPnd:")? | mask("ShdPnd:")?) & kill != 0,
    })
}

/// Where the vDSO of a process starts, from its `maps`.
pub(crate) fn vdso(maps: &str) -> Option<u64> {
    let line = maps.lines().find(|l| l.ends_with("[vdso]"))?;
    let (start, _) = line.split_once('-')?;
    u64::from_str_radix(start, 16).ok()
}

/// Start, end, and whether executable, of a line of `maps`. Not for the page at
/// the top of the address space, which is no memory.
pub(crate) fn mapping(line: &str) -> Option<(u64, u64, bool)> {
    if line.ends_with("[vsyscall]") {
        return None;
    }
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let executable = words.next()?.as_bytes().get(2) == Some(&b'x');
    Some((
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
        executable,
    ))
}

/// A file of `/proc`, in which names of programs and paths may be in any encoding,
/// or cut off in the middle of a letter.
fn text(path: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// The `maps` of a process.
pub(crate) fn maps(pid: i32) -> io::Result<String> {
    text(&format!("/proc/{pid}/maps"))
}

/// Reads the status of a process.
pub(crate) fn read_status(pid: i32) -> io::Result<Status> {
    let text = text(&format!("/proc/{pid}/status"))?;
    status(&text).ok_or_else(|| io::Error::other("status of the process has an unknown form"))
}

/// The id of a process in its own pid namespace.
pub(crate) fn innermost_pid(pid: i32) -> io::Result<i32> {
    let text = text(&format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("NSpid:"));
    let last = line.and_then(|l| l.split_whitespace().last());
    last.and_then(|n| n.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no NSpid in its status"))
}

/// Reads the `fdinfo` of a descriptor.
pub(crate) fn read_fdinfo(pid: i32, fd: RawFd) -> io::Result<String> {
    text(&format!("/proc/{pid}/fdinfo/{fd}"))
}

/// Where the vDSO of a process starts.
pub(crate) fn read_vdso(pid: i32) -> io::Result<Option<u64>> {
    Ok(vdso(&maps(pid)?))
}

/// Numbers that name entries of a `/proc` directory, in ascending order.
fn numbers(dir: &str) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Some(n) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
            found.push(n);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// All processes.
pub(crate) fn all() -> io::Result<Vec<i32>> {
    numbers("/proc")
}

/// The threads of a process.
pub(crate) fn threads(pid: i32) -> io::Result<Vec<i32>> {
    numbers(&format!("/proc/{pid}/task"))
}

/// The descriptors of a process, each with what its link says.
pub(crate) fn descriptors(pid: i32) -> io::Result<Vec<(RawFd, String)>> {
    let dir = format!("/proc/{pid}/fd");
    let mut found = Vec::new();
    for fd in numbers(&dir)? {
        match fs::read_link(format!("{dir}/{fd}")) {
            Ok(link) => found.push((fd, link.to_string_lossy().into_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// A process and all its descendants, parents first. The tree must stand still.
pub(crate) fn tree(root: i32) -> io::Result<Vec<i32>> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        next += 1;
        for tid in threads(pid)? {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/children"))?;
            all.extend(
                text.split_whitespace()
                    .filter_map(|w| w.parse::<i32>().ok()),
            );
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoll_lines() {
        let line = "tfd:        7 events:       1d data: deadbeef00000007  pos:0 ino:7e6d sdev:8";
        let want = EpollTarget {
            tfd: 7,
            events: 0x1d,
            data: 0xdead_beef_0000_0007,
            ino: 0x7e6d,
            dev: 8,
        };
        assert_eq!(epoll_target(line), Some(want));
        assert_eq!(epoll_target("pos:\t0"), None);
        assert_eq!(
            epoll_target("tfd: x events: 1 data: 1 pos:0 ino:1 sdev:1"),
            None
        );
        assert_eq!(epoll_target("tfd: 1 events: 1"), None);
        assert_eq!(epoll_target("tfd:"), None);
    }

    #[test]
    fn fdinfo_fields() {
        let text = "pos:\t0\nflags:\t02004002\nmnt_id:\t10\nscm_fds: 3\n";
        assert_eq!(close_on_exec(text), Some(true));
        assert_eq!(close_on_exec("flags:\t04002\n"), Some(false));
        assert_eq!(close_on_exec("pos: 0\n"), None);
        assert_eq!(files_in_flight(text), 3);
        assert_eq!(files_in_flight("pos: 0\n"), 0);
    }

    #[test]
    fn status_fields() {
        let text = "Name:\tx\nState:\tt (tracing stop)\nTracerPid:\t12\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n";
        assert_eq!(
            status(text),
            Some(Status {
                state: 't',
                tracer: 12,
                dying: true
            })
        );
        assert_eq!(status("State:\tR"), None);
    }

    #[test]
    fn a_name_cut_off_within_a_letter_is_no_obstacle() {
        let letters = "обновление".as_bytes();
        fs::write("/proc/thread-self/comm", letters).expect("a name");
        // SAFETY: no pointers are passed.
        let tid = unsafe { libc::gettid() };
        assert!(fs::read_to_string(format!("/proc/{tid}/status")).is_err());
        assert!(read_status(tid).is_ok());
        assert!(innermost_pid(tid).is_ok());
    }

    #[test]
    fn vdso_line() {
        let maps = "7f00-7f01 r--p 0 00:00 0 [vvar]\n7fff0000-7fff2000 r-xp 00000000 00:00 0                          [vdso]\n";
        assert_eq!(vdso(maps), Some(0x7fff_0000));
        assert_eq!(vdso(""), None);
        let all: Vec<_> = maps.lines().filter_map(mapping).collect();
        assert_eq!(
            all,
            vec![(0x7f00, 0x7f01, false), (0x7fff_0000, 0x7fff_2000, true)]
        );
        assert_eq!(mapping("junk"), None);
    }
}
