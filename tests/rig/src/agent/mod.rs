// SPDX-License-Identifier: GPL-2.0-only
//! The guest's PID 1: brings the machine up in a few hundred milliseconds and does what the rig asks.

mod boot;
mod exec;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::proto::{self, Reply, Request};
use exec::Children;

/// Runs as PID 1; comes back only when the machine cannot be brought up or the rig is gone.
pub fn run() -> io::Result<()> {
    let kernel = boot::boot()?;
    let mut port = open_port()?;
    proto::write(&mut port, &Reply::Ready { kernel }, &[])?;
    let mut children = Children::default();
    loop {
        let (request, bytes): (Request, _) = proto::read(&mut port)?;
        let (reply, bytes) = match serve(&mut children, request, &bytes) {
            Ok(answer) => answer,
            Err(e) => (
                Reply::Failed {
                    error: e.to_string(),
                },
                Vec::new(),
            ),
        };
        proto::write(&mut port, &reply, &bytes)?;
    }
}

/// Ends the machine.
pub fn power_off() {
    // SAFETY: no pointers are passed.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
}

fn serve(children: &mut Children, request: Request, bytes: &[u8]) -> io::Result<(Reply, Vec<u8>)> {
    let reply = match request {
        Request::Run { argv, limit_ms } => {
            return children.run(&argv, bytes, Duration::from_millis(limit_ms))
        }
        Request::Spawn { argv, output } => Reply::Started {
            pid: children.spawn(&argv, &output)?,
        },
        Request::Status { pid } => Reply::Status {
            code: children.status(pid),
        },
        Request::Signal { pid, signal } => {
            // SAFETY: no pointers are passed.
            if unsafe { libc::kill(pid, signal) } < 0 {
                return Err(io::Error::last_os_error());
            }
            Reply::Done
        }
        Request::Put { path, mode } => {
            if let Some(parent) = Path::new(&path).parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            Reply::Done
        }
        Request::Get { path } => return Ok((Reply::Done, fs::read(path)?)),
    };
    Ok((reply, Vec::new()))
}

/// Finds the port by its name and opens it.
fn open_port() -> io::Result<File> {
    let began = Instant::now();
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports")?.flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == proto::PORT {
                let dev = Path::new("/dev").join(entry.file_name());
                return OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_CLOEXEC)
                    .open(dev);
            }
        }
        if began.elapsed() > Duration::from_secs(10) {
            return Err(io::Error::other(format!(
                "no virtio-serial port is called {}",
                proto::PORT
            )));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
