// SPDX-License-Identifier: GPL-2.0-only
//! One process with SCTP sockets of every sort, which says after a move what became of them.
//!
//! `socket-zoo keep` holds the sockets: a listener with two associations nobody accepted, a bound socket, a fresh one,
//! an association in two epoll sets with unread messages, one shared with a forked child. SIGUSR1 makes it compare
//! everything with what it was and use every socket. `socket-zoo visit` is the other end; SIGUSR1 makes it check.

use std::{
    fs, io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{ensure, Context, Result};
use clap::{Parser, Subcommand};
use telecr_workloads::{
    sctp::{Received, Socket, Style},
    sys::{self, Epoll},
    zoo::{self, Look},
};

/// SCTP sockets of every sort
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Hold the sockets
    Keep {
        /// Where to listen; the bound socket takes the next port
        listen: SocketAddr,
        /// Where the result goes
        report: PathBuf,
    },
    /// Be the other end of the four associations
    Visit {
        /// Own address and first port
        bind: SocketAddr,
        /// The keeper
        connect: SocketAddr,
        /// Where the result goes
        report: PathBuf,
    },
}

fn main() -> Result<()> {
    sys::handle_signals()?;
    match Options::parse().role {
        Role::Keep { listen, report } => keep(listen, &report),
        Role::Visit {
            bind,
            connect,
            report,
        } => visit(bind, connect, &report),
    }
}

fn keep(listen: SocketAddr, report: &Path) -> Result<()> {
    let listener = Socket::listen(&[listen], Style::OneToOne)?;
    odd_options(listener.as_fd())?;
    say(report, "listening")?;
    let (watched, shared) = (accept(&listener)?, accept(&listener)?);
    odd_options(watched.as_fd())?;
    zoo::set_flags(watched.as_fd(), true, false)?;
    zoo::set_flags(shared.as_fd(), false, true)?;
    let bound = Socket::bound(SocketAddr::new(listen.ip(), listen.port() + 1))?;
    zoo::set_flags(bound.as_fd(), true, false)?;
    let fresh = Socket::fresh(&listen)?;
    zoo::set_flags(fresh.as_fd(), false, false)?;
    let (first, second) = (Epoll::new()?, Epoll::new()?);
    first.add(watched.as_fd(), 0x1111_2222_3333_4444)?;
    second.add(watched.as_fd(), 7)?;
    second.add(listener.as_fd(), 8)?;
    // SAFETY: this process has one thread.
    if unsafe { libc::fork() } == 0 {
        return echo(&shared);
    }
    // The visitors' messages and the two others' associations arrive now and stay unread.
    thread::sleep(Duration::from_secs(1));
    let all = [
        ("listener", listener.as_fd()),
        ("watched", watched.as_fd()),
        ("shared", shared.as_fd()),
    ];
    let all = [
        &all[..],
        &[("bound", bound.as_fd()), ("fresh", fresh.as_fd())],
    ]
    .concat();
    let before: Vec<Look> = all.iter().map(|(_, fd)| zoo::look(*fd)).collect();
    say(report, "ready")?;

    wait_for_signal();
    let mut faults = Vec::new();
    for ((who, fd), before) in all.iter().zip(&before) {
        faults.extend(zoo::differences(who, before, &zoo::look(*fd)));
    }
    faults.extend(
        use_all(&listener, &watched, &first, &second, &fresh, listen)
            .err()
            .map(|e| format!("{e:#}")),
    );
    say(report, verdict(&faults))?;
    loop {
        thread::park();
    }
}

fn use_all(
    listener: &Socket,
    watched: &Socket,
    first: &Epoll,
    second: &Epoll,
    fresh: &Socket,
    listen: SocketAddr,
) -> Result<()> {
    let tokens = first.wait()?;
    ensure!(
        tokens == [0x1111_2222_3333_4444],
        "the first epoll set reports {tokens:x?}"
    );
    let mut tokens = second.wait()?;
    tokens.sort_unstable();
    ensure!(tokens == [7, 8], "the second epoll set reports {tokens:x?}");
    for n in 0..3 {
        expect(watched, &format!("unread {n}"))?;
    }
    watched.send(1, b"from the watched one")?;
    for n in 2..4 {
        let waiting = listener
            .accept()?
            .with_context(|| format!("association {n} waits no more"))?;
        expect(&waiting, "patient")?;
        waiting.send(0, b"accepted at last")?;
        std::mem::forget(waiting);
    }
    ensure!(
        listener.accept()?.is_none(),
        "an association too many waits"
    );
    fresh
        .bind(SocketAddr::new(listen.ip(), 0))
        .context("the fresh socket cannot be bound")
}

fn visit(bind: SocketAddr, connect: SocketAddr, report: &Path) -> Result<()> {
    let mut sockets = Vec::new();
    for n in 0..4u16 {
        sockets.push(Socket::connect(
            &[SocketAddr::new(bind.ip(), bind.port() + n)],
            connect,
        )?);
    }
    let [watched, shared, waiting, other] = &sockets[..] else {
        return Ok(());
    };
    for n in 0..3 {
        watched.send(n, format!("unread {n}").as_bytes())?;
    }
    waiting.send(1, b"patient")?;
    other.send(2, b"patient")?;
    echoed(shared, "before")?;
    say(report, "ready")?;

    wait_for_signal();
    let mut faults = Vec::new();
    let mut check = |who: &str, result: Result<()>| {
        faults.extend(result.err().map(|e| format!("{who}: {e:#}")))
    };
    check("shared", echoed(shared, "after"));
    check("watched", expect(watched, "from the watched one"));
    check("waiting", expect(waiting, "accepted at last"));
    check("other", expect(other, "accepted at last"));
    say(report, verdict(&faults))?;
    loop {
        thread::park();
    }
}

/// Writes the report so that nobody reads half of it.
fn say(report: &Path, words: impl AsRef<[u8]>) -> Result<()> {
    let temp = report.with_extension("new");
    fs::write(&temp, words)?;
    Ok(fs::rename(&temp, report)?)
}

fn verdict(faults: &[String]) -> String {
    if faults.is_empty() {
        "ok".into()
    } else {
        faults.join("\n")
    }
}

/// Options of unusual values.
fn odd_options(fd: BorrowedFd<'_>) -> Result<()> {
    let words = |list: &[u32]| {
        list.iter()
            .flat_map(|w| w.to_ne_bytes())
            .collect::<Vec<u8>>()
    };
    let sctp = |number, value: &[u8]| zoo::set(fd, libc::IPPROTO_SCTP, number, value);
    let socket = |number, value: &[u8]| zoo::set(fd, libc::SOL_SOCKET, number, value);
    socket(libc::SO_RCVBUF, &words(&[150_000]))?;
    socket(libc::SO_SNDBUF, &words(&[100_000]))?;
    socket(libc::SO_LINGER, &words(&[1, 3]))?;
    socket(
        libc::SO_RCVTIMEO,
        &[1u64, 500_000].map(u64::to_ne_bytes).concat(),
    )?;
    socket(libc::SO_PRIORITY, &words(&[4]))?;
    zoo::set(fd, libc::IPPROTO_IP, libc::IP_TOS, &words(&[0x48]))?;
    sctp(0, &words(&[0, 700, 5000, 300]))?; // RTOINFO
    sctp(1, &words(&[0, 6, 0, 0, 30_000]))?; // ASSOCINFO
    sctp(2, &[12u16, 14, 5, 900].map(u16::to_ne_bytes).concat())?; // INITMSG
    sctp(3, &words(&[1]))?; // NODELAY
    sctp(
        10,
        &[2u16, 0, 0, 0]
            .map(u16::to_ne_bytes)
            .concat()
            .into_iter()
            .chain(words(&[99, 17, 0, 0, 0, 0]))
            .collect::<Vec<_>>(),
    )?;
    sctp(13, &words(&[0, 1000]))?; // MAXSEG
    sctp(16, &words(&[0, 150, 3]))?; // DELAYED_SACK
    sctp(17, &words(&[0, 77]))?; // CONTEXT
    sctp(18, &words(&[1]))?; // FRAGMENT_INTERLEAVE
    sctp(19, &words(&[50_000]))?; // PARTIAL_DELIVERY_POINT
    sctp(20, &words(&[0, 3]))?; // MAX_BURST
    Ok(())
}

fn echo(socket: &Socket) -> Result<()> {
    let mut buffer = [0u8; 2048];
    loop {
        match socket.recv(&mut buffer)? {
            Received::Data { len, .. } => socket
                .send(0, buffer.get(..len).unwrap_or(&[]))
                .map(|_| ())?,
            Received::Closed => return Ok(()),
            _ => {}
        }
    }
}

fn echoed(socket: &Socket, words: &str) -> Result<()> {
    socket.send(3, words.as_bytes())?;
    expect(socket, words)
}

/// The next message must be `words`; notifications are passed over.
fn expect(socket: &Socket, words: &str) -> Result<()> {
    let mut buffer = [0u8; 2048];
    let began = Instant::now();
    loop {
        match socket.recv(&mut buffer)? {
            Received::Data { len, .. } => {
                let got = String::from_utf8_lossy(buffer.get(..len).unwrap_or(&[]));
                ensure!(got == words, "expected {words:?} and got {got:?}");
                return Ok(());
            }
            Received::Notification { .. } => {}
            Received::Closed => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("closed")
            }
            Received::WouldBlock => {
                ensure!(
                    began.elapsed() < Duration::from_secs(20),
                    "expected {words:?} and got nothing"
                );
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn accept(listener: &Socket) -> Result<Socket> {
    loop {
        if let Some(socket) = listener.accept()? {
            return Ok(socket);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for_signal() {
    while !sys::asked().snapshot {
        thread::sleep(Duration::from_millis(50));
    }
}
