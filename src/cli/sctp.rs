// SPDX-License-Identifier: GPL-2.0-only
//! `telecr sctp`: sockets by hand, without CRIU.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{bail, ensure, Context as _};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::signal::{kill, Signal};
use nix::unistd::{access, AccessFlags, Pid};
use telecr::netlink::local_addresses;
use telecr::sctp::nudge::Nudger;
use telecr::sctp::repair::Repair;
use telecr::sctp::{dump as sctp_dump, list as sctp_list, restore as sctp_restore, wake};
use telecr::{criu, image, lock};

use super::{output, table::Table};

/// Print the SCTP sockets of a process or of the host.
pub(super) fn list(pid: Option<i32>, json: bool) -> anyhow::Result<()> {
    let sockets = match pid {
        Some(pid) => sctp_list::of_process(pid)?,
        None => sctp_list::all()?,
    };
    let mut out = output::open();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&sockets)?)?;
        return Ok(out.flush()?);
    }
    let mut table = Table::new(&["STATE", "RECV-Q", "SEND-Q", "LOCAL", "PEER", "PROCESS"]);
    for s in &sockets {
        let join = |all: &[std::net::SocketAddr]| {
            all.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        let holders: Vec<String> = s
            .holders
            .iter()
            .map(|h| format!("{}/{} fd {}", h.pid, h.command, h.fd))
            .collect();
        table.row(vec![
            s.state.to_string(),
            s.recv_queue.to_string(),
            s.send_queue.to_string(),
            join(&s.local),
            join(&s.peer),
            holders.join(", "),
        ]);
    }
    if table.is_empty() {
        eprintln!("no SCTP sockets");
    } else {
        write!(out, "{table}")?;
    }
    Ok(out.flush()?)
}

/// Write a socket of another process to a file.
pub(super) fn dump(pid: i32, fd: i32, then_kill: bool, file: &Path) -> anyhow::Result<()> {
    let socket = criu::fd_of(pid, fd)
        .with_context(|| format!("cannot reach descriptor {fd} of process {pid}"))?;
    let mut repair = Repair::open()?;
    repair.freeze(socket.as_fd())?;
    let written = write(&mut repair, socket.as_fd(), file).and_then(|summary| {
        if then_kill {
            // Still in repair mode: its end is silent.
            kill(Pid::from_raw(pid), Signal::SIGKILL)
                .with_context(|| format!("cannot kill process {pid}"))?;
        }
        Ok(summary)
    });
    if !(then_kill && written.is_ok()) {
        repair.release(socket.as_fd())?;
    }
    report("dumped", &written?);
    Ok(())
}

fn write(
    repair: &mut Repair,
    socket: std::os::fd::BorrowedFd<'_>,
    file: &Path,
) -> anyhow::Result<telecr::sctp::Summary> {
    let out = File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let header = image::sctp_header(repair.version());
    let mut writer = image::Writer::new(BufWriter::new(out), header)?;
    let summary = sctp_dump::dump(repair, socket, &mut writer)?;
    writer.finish()?.flush()?;
    Ok(summary)
}

/// Bring a socket back and become the command that gets it.
pub(super) fn restore(file: &Path, command: &[OsString]) -> anyhow::Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("no command given")
    };
    // Found out too late, it would cost the associations.
    ensure!(
        is_program(program),
        "no program {}",
        Path::new(program).display()
    );
    let input = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut reader = image::open(input).with_context(|| file.display().to_string())?;
    let mut repair = Repair::open()?;
    let (socket, summary) = sctp_restore::restore(&mut repair, &mut reader, &local_addresses()?)?;
    let bound = summary.local.iter().map(std::net::SocketAddr::ip);
    lock::unlock(&lock::reached(bound.collect())?)?;
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass the socket on")?;
    let sockets = [socket];
    let (woken, told) = wake::each(&mut repair, &sockets, Some(&mut Nudger::default()));
    woken?;
    let [socket] = sockets;
    if let Err(e) = told {
        log::warn!("the peers may send again late: {e}");
    }
    report("restored", &summary);
    let error = Command::new(program)
        .args(arguments)
        .env("TELECR_FD", socket.as_raw_fd().to_string())
        .exec();
    Err(error).with_context(|| format!("cannot run {}", Path::new(program).display()))
}

/// Whether `exec` would find it.
fn is_program(name: &OsStr) -> bool {
    let runs = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if Path::new(name).components().count() > 1 {
        return runs(Path::new(name));
    }
    // As exec does without it.
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path).any(|dir| runs(&dir.join(name)))
}

fn report(done: &str, s: &telecr::sctp::Summary) {
    eprintln!(
        "{done}: {} associations, {} chunks to send, {} to read",
        s.associations, s.outgoing, s.incoming
    );
}
