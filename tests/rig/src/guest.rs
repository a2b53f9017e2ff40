// SPDX-License-Identifier: GPL-2.0-only
//! One guest: QEMU, its agent, its end.

use std::{
    fs,
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure, Context, Result};

use crate::{
    accel::Accel,
    image::Image,
    proto::{self, Reply, Request},
};

/// No guest lives longer than this, scaled: the fifty moves of `flood` take 20 minutes without KVM.
const HARD_SECONDS: f64 = 1200.0;
/// What the agent may add to a request's own limit before it counts as dead, scaled.
const IDLE_SECONDS: f64 = 15.0;

/// What a guest is made of.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Its name, also its host name.
    pub name: &'a str,
    /// Tells its addresses from the others'.
    pub number: u8,
    /// Where its sockets and its console log go.
    pub dir: &'a Path,
    /// Disk and kernel.
    pub image: &'a Image,
    /// Its initrd.
    pub initrd: &'a Path,
    /// The switch's port; none for a probe.
    pub port: Option<PathBuf>,
    /// KVM or TCG.
    pub accel: Accel,
    /// Its memory.
    pub memory_mib: u32,
    /// What its kernel is told besides.
    pub boot: &'a str,
    /// How long it may take to its ready line, before scaling.
    pub boot_seconds: f64,
}

/// What a program in the guest said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code, or 128 and the signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
}

/// A running guest. Dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    number: u8,
    qemu: Child,
    agent: UnixStream,
    accel: Accel,
    alive: Option<mpsc::Sender<()>>,
}

impl Guest {
    /// Boots a guest to its ready line.
    pub fn boot(setup: &Setup<'_>) -> Result<Self> {
        let path = setup.dir.join(format!("{}.agent", setup.name));
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        listener.set_nonblocking(true)?;
        let log = setup.dir.join(format!("{}.qemu.log", setup.name));
        let mut command = command(setup, &path);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .process_group(0);
        // SAFETY: prctl with these arguments is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut qemu = command
            .spawn()
            .context("cannot start qemu-system-x86_64: run scripts/setup")?;
        let limit = setup.accel.limit(setup.boot_seconds);
        let agent = match connect(&listener, &mut qemu, limit) {
            Ok(agent) => agent,
            Err(e) => {
                end(&mut qemu);
                let words = fs::read_to_string(&log).unwrap_or_default();
                return Err(e.context(format!("guest {} did not boot {words}", setup.name)));
            }
        };
        let alive = watchdog(qemu.id(), setup.accel.limit(HARD_SECONDS));
        Ok(Self {
            name: setup.name.to_string(),
            number: setup.number,
            qemu,
            agent,
            accel: setup.accel,
            alive: Some(alive),
        })
    }

    /// Its own IPv4 address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("10.45.0.{}", self.number)
    }

    /// Runs a program to its end, whatever that is.
    pub fn run(&mut self, argv: &[&str]) -> Result<Output> {
        self.run_within(argv, &[], 60.0)
    }

    /// Runs a program with input and a limit in seconds, scaled.
    pub fn run_within(&mut self, argv: &[&str], input: &[u8], seconds: f64) -> Result<Output> {
        let limit = self.accel.limit(seconds);
        let limit_ms = u64::try_from(limit.as_millis())?;
        let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
        let what = argv.join(" ");
        match self.ask(&Request::Run { argv, limit_ms }, input, limit)? {
            (Reply::Ended { late: true, .. }, _) => {
                bail!("{}: `{what}` did not end within {limit:?}", self.name)
            }
            (
                Reply::Ended {
                    code,
                    stdout,
                    elapsed_ms,
                    ..
                },
                bytes,
            ) => {
                let (out, err) = bytes
                    .split_at_checked(stdout)
                    .context("the agent miscounted")?;
                let text = |b| String::from_utf8_lossy(b).into_owned();
                Ok(Output {
                    code,
                    stdout: text(out),
                    stderr: text(err),
                    elapsed_ms,
                })
            }
            (other, _) => bail!("{}: unexpected answer {other:?}", self.name),
        }
    }

    /// Runs a shell script that must succeed, and returns its output.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        let out = self.run(&["sh", "-ec", script])?;
        ensure!(
            out.code == 0,
            "{}: `{script}` ended with {}: {}",
            self.name,
            out.code,
            format!("{}{}", out.stdout, out.stderr).trim()
        );
        Ok(out.stdout)
    }

    /// Starts a program in a session of its own and returns its process id.
    pub fn spawn(&mut self, argv: &[&str], output: &str) -> Result<i32> {
        let argv = argv.iter().map(ToString::to_string).collect();
        match self.ask(
            &Request::Spawn {
                argv,
                output: output.into(),
            },
            &[],
            Duration::ZERO,
        )? {
            (Reply::Started { pid }, _) => Ok(pid),
            (other, _) => bail!("{}: unexpected answer {other:?}", self.name),
        }
    }

    /// The exit code of a spawned program, once it ended.
    pub fn ended(&mut self, pid: i32) -> Result<Option<i32>> {
        match self.ask(&Request::Status { pid }, &[], Duration::ZERO)? {
            (Reply::Status { code }, _) => Ok(code),
            (other, _) => bail!("{}: unexpected answer {other:?}", self.name),
        }
    }

    /// Waits for a spawned program to end.
    pub fn wait(&mut self, pid: i32, seconds: f64) -> Result<i32> {
        let mut code = None;
        self.until(&format!("process {pid} to end"), seconds, |guest| {
            code = guest.ended(pid)?;
            Ok(code.is_some())
        })?;
        code.context("no exit code")
    }

    /// Sends a signal.
    pub fn signal(&mut self, pid: i32, signal: i32) -> Result<()> {
        self.ask(&Request::Signal { pid, signal }, &[], Duration::ZERO)
            .map(|_| ())
    }

    /// Writes a file.
    pub fn put(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.ask(
            &Request::Put {
                path: path.into(),
                mode,
            },
            bytes,
            self.accel.limit(10.0),
        )
        .map(|_| ())
    }

    /// Reads a file.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let answer = self.ask(
            &Request::Get { path: path.into() },
            &[],
            self.accel.limit(10.0),
        );
        answer
            .map(|(_, bytes)| bytes)
            .with_context(|| format!("cannot read {path}"))
    }

    /// Waits until something is true.
    pub fn until(
        &mut self,
        what: &str,
        seconds: f64,
        mut is: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let limit = self.accel.limit(seconds);
        let began = Instant::now();
        while !is(self)? {
            ensure!(
                began.elapsed() < limit,
                "{}: waited {limit:?} in vain for {what}",
                self.name
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn ask(
        &mut self,
        request: &Request,
        bytes: &[u8],
        limit: Duration,
    ) -> Result<(Reply, Vec<u8>)> {
        self.agent
            .set_read_timeout(Some(limit + self.accel.limit(IDLE_SECONDS)))?;
        let dead = || format!("guest {} answers no more", self.name);
        proto::write(&mut self.agent, request, bytes).with_context(dead)?;
        match proto::read(&mut self.agent).with_context(dead)? {
            (Reply::Failed { error }, _) => bail!("{}: {error}", self.name),
            answer => Ok(answer),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.alive = None;
        end(&mut self.qemu);
    }
}

fn command(setup: &Setup<'_>, agent: &Path) -> Command {
    let image = setup.image;
    let console = setup.dir.join(format!("{}.console.log", setup.name));
    let probe = if setup.port.is_none() {
        " telecr.probe"
    } else {
        ""
    };
    let mut c = Command::new("qemu-system-x86_64");
    c.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "pc",
        "-smp",
        "1",
    ]);
    c.args(["-m", &setup.memory_mib.to_string()])
        .args(setup.accel.options());
    c.arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(setup.initrd);
    c.arg("-append").arg(format!(
        "console=ttyS0 quiet loglevel=5 panic=-1 mitigations=off random.trust_cpu=on no_timer_check net.ifnames=0 telecr.hostname={}{probe}{}{}",
        setup.name,
        image.options(),
        setup.boot
    ));
    c.arg("-serial").arg(format!("file:{}", console.display()));
    c.arg("-drive").arg(format!(
        "file={},format=raw,if=virtio,snapshot=on",
        image.disk().display()
    ));
    c.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    c.arg("-chardev")
        .arg(format!("socket,id=agent,path={}", agent.display()));
    c.arg("-device")
        .arg(format!("virtserialport,chardev=agent,name={}", proto::PORT));
    if let Some(port) = &setup.port {
        c.arg("-netdev").arg(format!(
            "stream,id=net,server=off,addr.type=unix,addr.path={}",
            port.display()
        ));
        c.arg("-device").arg(format!(
            "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:45:00:{:02x}",
            setup.number
        ));
    }
    c
}

/// Waits for the agent's first frame.
fn connect(listener: &UnixListener, qemu: &mut Child, limit: Duration) -> Result<UnixStream> {
    let began = Instant::now();
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
        if let Some(status) = qemu.try_wait()? {
            bail!("QEMU ended with {status}");
        }
        ensure!(
            began.elapsed() < limit,
            "QEMU did not start within {limit:?}"
        );
        thread::sleep(Duration::from_millis(10));
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(
        limit
            .saturating_sub(began.elapsed())
            .max(Duration::from_millis(1)),
    ))?;
    let (ready, _): (Reply, _) =
        proto::read(&mut stream).context("no ready line within the limit")?;
    ensure!(
        matches!(ready, Reply::Ready { .. }),
        "the agent began with {ready:?}"
    );
    Ok(stream)
}

/// Ends the guest's process group when its time is over, unless the sender is dropped before.
fn watchdog(pid: u32, limit: Duration) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    thread::spawn(move || {
        if receiver.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            kill_group(pid);
        }
    });
    sender
}

fn kill_group(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: no pointers are passed; the group is the one QEMU was started in.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

fn end(qemu: &mut Child) {
    kill_group(qemu.id());
    let _ = qemu.wait();
}
