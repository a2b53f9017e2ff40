// SPDX-License-Identifier: GPL-2.0-only
//! From the kernel's first process to a usable root.

use std::{
    ffi::CString,
    fs, io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::proto;

const ROOT: &str = "/newroot";
const MODULE_INIT_COMPRESSED_FILE: libc::c_int = 4;

/// Brings up the machine and returns the kernel's release.
pub(super) fn boot() -> io::Result<String> {
    mount("devtmpfs", "/dev", "devtmpfs", 0)?;
    mount("proc", "/proc", "proc", 0)?;
    mount("sysfs", "/sys", "sysfs", 0)?;
    load_modules()?;
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    if !cmdline.split_whitespace().any(|w| w == "telecr.probe") {
        enter_root()?;
        if let Some(name) = cmdline
            .split_whitespace()
            .find_map(|w| w.strip_prefix("telecr.hostname="))
        {
            fs::write("/proc/sys/kernel/hostname", name)?;
        }
    }
    Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?
        .trim()
        .to_string())
}

fn load_modules() -> io::Result<()> {
    let dir = Path::new("/").join(proto::MODULES);
    // A kernel that has all of them built in comes without.
    if !dir.exists() {
        return Ok(());
    }
    let mut modules: Vec<_> = fs::read_dir(dir)?.flatten().map(|e| e.path()).collect();
    modules.sort();
    for path in modules {
        let file = fs::File::open(&path)?;
        let flags = if path.extension().is_some_and(|e| e != "ko") {
            MODULE_INIT_COMPRESSED_FILE
        } else {
            0
        };
        // SAFETY: the parameters are an empty C string, the rest are numbers.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_finit_module,
                file.as_raw_fd(),
                c"".as_ptr(),
                flags,
            )
        };
        let error = io::Error::last_os_error();
        if ret < 0 && error.raw_os_error() != Some(libc::EEXIST) {
            return Err(io::Error::other(format!(
                "cannot load {}: {error}",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Mounts the disk, copies the payload onto it and makes it the root.
fn enter_root() -> io::Result<()> {
    fs::create_dir_all(ROOT)?;
    wait_for("/dev/vda")?;
    mount("/dev/vda", ROOT, "ext4", libc::MS_NOATIME)?;
    copy_tree(&Path::new("/").join(proto::PAYLOAD), Path::new(ROOT))?;
    for dir in ["/dev", "/proc", "/sys"] {
        mount(dir, &format!("{ROOT}{dir}"), "", libc::MS_MOVE)?;
    }
    std::env::set_current_dir(ROOT)?;
    mount(".", "/", "", libc::MS_MOVE)?;
    let dot = CString::new(".")?;
    // SAFETY: `dot` is a C string that lives over the call.
    if unsafe { libc::chroot(dot.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    std::env::set_current_dir("/")?;
    mount("tmpfs", "/run", "tmpfs", 0)?;
    fs::create_dir_all("/dev/pts")?;
    mount("devpts", "/dev/pts", "devpts", 0)?;
    fs::create_dir_all("/dev/shm")?;
    mount("tmpfs", "/dev/shm", "tmpfs", 0)?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0)?;
    for (link, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, Path::new("/dev").join(link));
    }
    std::env::set_var(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    std::env::set_var("HOME", "/root");
    std::env::set_var("LANG", "C.UTF-8");
    Ok(())
}

fn wait_for(path: &str) -> io::Result<()> {
    let began = Instant::now();
    while !Path::new(path).exists() {
        if began.elapsed() > Duration::from_secs(20) {
            return Err(io::Error::other(format!("{path} did not appear")));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)?.flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::set_permissions(
                &target,
                fs::Permissions::from_mode(entry.metadata()?.permissions().mode()),
            )?;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> io::Result<()> {
    if flags & libc::MS_MOVE == 0 {
        fs::create_dir_all(target)?;
    }
    let (s, t, k) = (
        CString::new(source)?,
        CString::new(target)?,
        CString::new(kind)?,
    );
    // SAFETY: three C strings that live over the call, and no data.
    if unsafe { libc::mount(s.as_ptr(), t.as_ptr(), k.as_ptr(), flags, std::ptr::null()) } < 0 {
        let e = io::Error::last_os_error();
        return Err(io::Error::other(format!(
            "cannot mount {source} on {target}: {e}"
        )));
    }
    Ok(())
}
