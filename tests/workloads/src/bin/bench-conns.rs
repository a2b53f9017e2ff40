// SPDX-License-Identifier: GPL-2.0-only
//! Many idle connections, SCTP or TCP, for measuring what it costs to move them.
//!
//! `serve` accepts them and echoes; `call` opens them, and on SIGUSR1 says a word on each and counts the echoes.
//! Each writes a line to its status file whenever it has got further.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{bail, Context, Result};
use clap::{Parser, ValueEnum};
use nix::sys::resource::{setrlimit, Resource};
use telecr_workloads::{
    sctp::{Received, Socket, Style},
    sys::{self, Epoll},
};

/// Idle connections that echo
#[derive(Parser)]
struct Options {
    role: Role,
    protocol: Protocol,
    /// Where to listen, or to connect to
    addr: SocketAddr,
    /// How many connections
    count: usize,
    /// Where to write how far it is
    status: PathBuf,
    /// Address to call from; ports count up from its own
    #[arg(long)]
    bind: Option<SocketAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Serve,
    Call,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Sctp,
    Tcp,
}

enum Conn {
    Sctp(Socket),
    Tcp(TcpStream),
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Sctp(s) => s.as_fd(),
            Self::Tcp(s) => s.as_fd(),
        }
    }
}

impl Conn {
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Sctp(s) => s.send(0, bytes).map(drop),
            Self::Tcp(s) => (&*s).write_all(bytes),
        }
    }

    /// What has arrived; `None` when nothing has. An end is an error: nothing here ends.
    fn take(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let len = match self {
            Self::Sctp(s) => loop {
                match s.recv(buffer)? {
                    Received::Data { len, .. } => break len,
                    Received::Notification { .. } => {}
                    Received::WouldBlock => return Ok(None),
                    Received::Closed => break 0,
                }
            },
            Self::Tcp(s) => match (&*s).read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                other => other?,
            },
        };
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(len))
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    sys::handle_signals()?;
    let files = u64::try_from(options.count)? + 100;
    setrlimit(Resource::RLIMIT_NOFILE, files, files).context("cannot open so many files")?;
    match options.role {
        Role::Serve => serve(&options),
        Role::Call => call(&options),
    }
}

fn say(options: &Options, word: &str) -> Result<()> {
    let new = options.status.with_extension("new");
    fs::write(&new, word)?;
    fs::rename(&new, &options.status)?;
    Ok(())
}

fn serve(options: &Options) -> Result<()> {
    let listeners = (
        (options.protocol == Protocol::Sctp)
            .then(|| Socket::listen(&[options.addr], Style::OneToOne))
            .transpose()?,
        (options.protocol == Protocol::Tcp)
            .then(|| TcpListener::bind(options.addr))
            .transpose()?,
    );
    if let (_, Some(l)) = &listeners {
        l.set_nonblocking(true)?;
    }
    say(options, "listening")?;
    let epoll = Epoll::new()?;
    let mut conns = Vec::with_capacity(options.count);
    while conns.len() < options.count {
        let conn = match &listeners {
            (Some(l), _) => l.accept()?.map(Conn::Sctp),
            (_, Some(l)) => match l.accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
                other => {
                    let (stream, _) = other?;
                    stream.set_nonblocking(true)?;
                    Some(Conn::Tcp(stream))
                }
            },
            _ => None,
        };
        match conn {
            Some(conn) => {
                epoll.add(conn.as_fd(), conns.len() as u64)?;
                conns.push(conn);
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
    say(options, "ready")?;
    let mut buffer = [0u8; 4096];
    loop {
        for token in epoll.wait()? {
            let conn = conns
                .get(usize::try_from(token)?)
                .context("a token of nobody")?;
            while let Some(len) = conn.take(&mut buffer)? {
                conn.send(buffer.get(..len).unwrap_or(&[]))?;
            }
        }
        if sys::asked().stop {
            return Ok(());
        }
    }
}

fn call(options: &Options) -> Result<()> {
    let Some(bind) = options.bind else {
        bail!("--bind says where to call from")
    };
    let mut conns = Vec::with_capacity(options.count);
    for n in 0..options.count {
        conns.push(match options.protocol {
            Protocol::Sctp => {
                let from = SocketAddr::new(bind.ip(), bind.port() + u16::try_from(n)?);
                Conn::Sctp(Socket::connect(&[from], options.addr)?)
            }
            Protocol::Tcp => Conn::Tcp(TcpStream::connect(options.addr)?),
        });
    }
    say(options, "ready")?;
    loop {
        thread::sleep(Duration::from_millis(5));
        let asked = sys::asked();
        if asked.stop {
            return Ok(());
        }
        if asked.snapshot {
            let heard = ask_all(&conns)?;
            say(options, &format!("heard {heard}"))?;
        }
    }
}

/// A word on each, and how many come back.
fn ask_all(conns: &[Conn]) -> Result<usize> {
    let mut heard = 0;
    for (n, conn) in conns.iter().enumerate() {
        if let Conn::Tcp(s) = conn {
            s.set_nonblocking(false)?;
            s.set_read_timeout(Some(Duration::from_secs(10)))?;
        }
        conn.send(&n.to_be_bytes())?;
    }
    let mut buffer = [0u8; 64];
    for (n, conn) in conns.iter().enumerate() {
        for _ in 0..2000 {
            if let Some(len) = conn.take(&mut buffer)? {
                heard += usize::from(buffer.get(..len) == Some(&n.to_be_bytes()[..]));
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(heard)
}
