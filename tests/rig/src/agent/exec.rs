// SPDX-License-Identifier: GPL-2.0-only
//! Programs the rig runs in the guest, and the reaping that PID 1 owes everyone.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::proto::Reply;

/// What has ended, by process id.
#[derive(Debug, Default)]
pub(super) struct Children {
    ended: BTreeMap<i32, i32>,
}

impl Children {
    /// Runs a program to its end. Its output goes through files, so that a daemon it leaves behind delays nothing.
    pub(super) fn run(
        &mut self,
        argv: &[String],
        input: &[u8],
        limit: Duration,
    ) -> io::Result<(Reply, Vec<u8>)> {
        let [stdin, stdout, stderr] = ["/run/rig.in", "/run/rig.out", "/run/rig.err"];
        for path in [stdout, stderr] {
            // A daemon of an earlier call may still write to the old file.
            let _ = fs::remove_file(path);
        }
        fs::write(stdin, input)?;
        let mut command = command(argv)?;
        command
            .stdin(File::open(stdin)?)
            .stdout(File::create(stdout)?)
            .stderr(File::create(stderr)?);
        let began = Instant::now();
        let pid = start(&mut command)?;
        let mut late = false;
        let code = loop {
            self.reap();
            if let Some(code) = self.ended.remove(&pid) {
                break code;
            }
            if !late && began.elapsed() > limit {
                late = true;
                // SAFETY: no pointers are passed; the child leads its own process group.
                unsafe { libc::kill(-pid, libc::SIGKILL) };
            }
            thread::sleep(Duration::from_millis(2));
        };
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut bytes = fs::read(stdout)?;
        let stdout = bytes.len();
        bytes.extend(fs::read(stderr)?);
        Ok((
            Reply::Ended {
                code,
                stdout,
                elapsed_ms,
                late,
            },
            bytes,
        ))
    }

    /// Starts a program and leaves it running.
    pub(super) fn spawn(&mut self, argv: &[String], output: &str) -> io::Result<i32> {
        let out = File::create(output)?;
        let mut command = command(argv)?;
        command
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out);
        start(&mut command)
    }

    /// The exit code of a child that ended.
    pub(super) fn status(&mut self, pid: i32) -> Option<i32> {
        self.reap();
        self.ended.get(&pid).copied()
    }

    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: `status` lives over the call.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            let code = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            self.ended.insert(pid, code);
        }
    }
}

fn command(argv: &[String]) -> io::Result<Command> {
    let (program, args) = argv
        .split_first()
        .ok_or_else(|| io::Error::other("no program named"))?;
    let mut command = Command::new(program);
    command.args(args).current_dir("/");
    Ok(command)
}

fn start(command: &mut Command) -> io::Result<i32> {
    // SAFETY: setsid is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        });
    }
    let child = command.spawn().map_err(|e| {
        io::Error::other(format!("{}: {e}", command.get_program().to_string_lossy()))
    })?;
    i32::try_from(child.id()).map_err(io::Error::other)
}
