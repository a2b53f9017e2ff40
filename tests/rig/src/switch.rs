// SPDX-License-Identifier: GPL-2.0-only
//! A learning Ethernet switch between the guests, with a capture of one port, delay and loss.
//!
//! Each port is a unix socket on which QEMU (`-netdev stream`) sends frames, each after its length in four bytes.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

/// Bytes that may wait for a port before frames are dropped.
const QUEUE: usize = 8 << 20;

/// How the wire behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// Each frame arrives this much later.
    pub delay: Duration,
    /// So many frames of a thousand are lost.
    pub loss: u64,
}

/// A running switch; it stops when dropped.
#[derive(Debug)]
pub struct Switch {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    capture: Arc<Mutex<BufWriter<File>>>,
    thread: Option<JoinHandle<()>>,
}

impl Switch {
    /// Starts a switch with one port per name and a capture of all that passes the port called `watched`.
    pub fn start(
        dir: &Path,
        ports: &[&str],
        watched: &str,
        capture: &Path,
        wire: Wire,
    ) -> Result<Self> {
        let file = File::create(capture)
            .with_context(|| format!("cannot create {}", capture.display()))?;
        let mut writer = BufWriter::new(file);
        writer.write_all(&pcap_header())?;
        let capture = Arc::new(Mutex::new(writer));
        let stop = Arc::new(AtomicBool::new(false));
        let mut made = Vec::new();
        for name in ports {
            let listener = UnixListener::bind(dir.join(format!("{name}.net")))?;
            listener.set_nonblocking(true)?;
            made.push(Port {
                listener,
                stream: None,
                input: Vec::new(),
                queue: VecDeque::new(),
                waiting: 0,
                sent: 0,
            });
        }
        let watched = ports
            .iter()
            .position(|p| *p == watched)
            .unwrap_or(usize::MAX);
        let mut fabric = Fabric {
            ports: made,
            learnt: HashMap::new(),
            watched,
            capture: capture.clone(),
            wire,
            dice: 1,
        };
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("switch".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    fabric.turn();
                }
            })?;
        Ok(Self {
            dir: dir.to_path_buf(),
            stop,
            capture,
            thread: Some(thread),
        })
    }

    /// The socket QEMU connects to for a port.
    pub fn port(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.net"))
    }

    /// Makes sure that the capture's file holds all that was seen.
    pub fn flush(&self) -> Result<()> {
        self.capture
            .lock()
            .map_err(|_| anyhow::anyhow!("the switch has failed"))?
            .flush()?;
        Ok(())
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = self.flush();
    }
}

struct Port {
    listener: UnixListener,
    stream: Option<UnixStream>,
    input: Vec<u8>,
    queue: VecDeque<(Instant, Vec<u8>)>,
    waiting: usize,
    sent: usize,
}

struct Fabric {
    ports: Vec<Port>,
    learnt: HashMap<[u8; 6], usize>,
    watched: usize,
    capture: Arc<Mutex<BufWriter<File>>>,
    wire: Wire,
    dice: u64,
}

impl Fabric {
    /// Waits for something to do, at most 50 ms, and does it.
    fn turn(&mut self) {
        let now = Instant::now();
        let mut wait = Duration::from_millis(50);
        let mut polls = Vec::new();
        for port in &self.ports {
            let mut events = libc::POLLIN;
            if let Some((due, _)) = port.queue.front() {
                if *due <= now {
                    events |= libc::POLLOUT
                } else {
                    wait = wait.min(*due - now)
                }
            }
            let fd = port
                .stream
                .as_ref()
                .map_or(port.listener.as_raw_fd(), AsRawFd::as_raw_fd);
            polls.push(libc::pollfd {
                fd,
                events,
                revents: 0,
            });
        }
        let timeout = libc::timespec {
            tv_sec: 0,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        // SAFETY: `polls` and `timeout` live over the call and the count is that of `polls`.
        unsafe {
            libc::ppoll(
                polls.as_mut_ptr(),
                polls.len() as libc::nfds_t,
                &timeout,
                std::ptr::null(),
            )
        };
        for (i, poll) in polls.iter().enumerate() {
            if poll.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0 {
                self.input(i);
            }
        }
        for port in &mut self.ports {
            port.output();
        }
    }

    fn input(&mut self, from: usize) {
        let port = &mut self.ports[from];
        let Some(stream) = &mut port.stream else {
            if let Ok((stream, _)) = port.listener.accept() {
                let _ = stream.set_nonblocking(true);
                port.stream = Some(stream);
            }
            return;
        };
        let mut chunk = [0u8; 65536];
        match stream.read(&mut chunk) {
            Ok(0) => port.unplug(),
            Ok(n) => port.input.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => port.unplug(),
        }
        let input = std::mem::take(&mut self.ports[from].input);
        let mut rest = input.as_slice();
        while let Some((frame, after)) = split_frame(rest) {
            self.forward(from, frame);
            rest = after;
        }
        self.ports[from].input = rest.to_vec();
    }

    fn forward(&mut self, from: usize, frame: &[u8]) {
        let (Some(to), Some(source)) = (mac(frame, 0), mac(frame, 6)) else {
            return;
        };
        self.learnt.insert(source, from);
        if from == self.watched {
            self.record(frame);
        }
        if self.lose() {
            return;
        }
        let due = Instant::now() + self.wire.delay;
        let known = if to[0] & 1 == 1 {
            None
        } else {
            self.learnt.get(&to).copied()
        };
        for i in 0..self.ports.len() {
            if i == from || known.is_some_and(|k| k != i) {
                continue;
            }
            if i == self.watched {
                self.record(frame);
            }
            self.ports[i].enqueue(due, frame);
        }
    }

    fn lose(&mut self) -> bool {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % 1000 < self.wire.loss
    }

    fn record(&self, frame: &[u8]) {
        if let Ok(mut out) = self.capture.lock() {
            let _ = out.write_all(&pcap_record(SystemTime::now(), frame));
        }
    }
}

impl Port {
    fn unplug(&mut self) {
        self.stream = None;
        self.input.clear();
        self.queue.clear();
        (self.waiting, self.sent) = (0, 0);
    }

    fn enqueue(&mut self, due: Instant, frame: &[u8]) {
        let Ok(len) = u32::try_from(frame.len()) else {
            return;
        };
        if self.stream.is_none() || self.waiting > QUEUE {
            return;
        }
        let mut bytes = Vec::with_capacity(frame.len() + 4);
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(frame);
        self.waiting += bytes.len();
        self.queue.push_back((due, bytes));
    }

    fn output(&mut self) {
        let now = Instant::now();
        while let (Some(stream), Some((due, bytes))) = (&mut self.stream, self.queue.front()) {
            if *due > now {
                return;
            }
            match stream.write(bytes.get(self.sent..).unwrap_or(&[])) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.unplug(),
            }
            if self.sent >= bytes.len() {
                self.waiting = self.waiting.saturating_sub(bytes.len());
                self.sent = 0;
                self.queue.pop_front();
            }
        }
    }
}

fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(4)?;
    rest.split_at_checked(u32::from_be_bytes(head.try_into().ok()?) as usize)
}

fn mac(frame: &[u8], at: usize) -> Option<[u8; 6]> {
    frame.get(at..at + 6)?.try_into().ok()
}

/// A pcap file's first bytes: little-endian, microseconds, Ethernet.
fn pcap_header() -> Vec<u8> {
    let mut h = Vec::new();
    h.extend_from_slice(&0xa1b2_c3d4u32.to_le_bytes());
    h.extend_from_slice(&2u16.to_le_bytes());
    h.extend_from_slice(&4u16.to_le_bytes());
    h.extend_from_slice(&[0; 8]);
    h.extend_from_slice(&262_144u32.to_le_bytes());
    h.extend_from_slice(&1u32.to_le_bytes());
    h
}

fn pcap_record(when: SystemTime, frame: &[u8]) -> Vec<u8> {
    let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let mut r = Vec::with_capacity(16 + frame.len());
    r.extend_from_slice(
        &u32::try_from(since.as_secs())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    r.extend_from_slice(&since.subsec_micros().to_le_bytes());
    r.extend_from_slice(&len.to_le_bytes());
    r.extend_from_slice(&len.to_le_bytes());
    r.extend_from_slice(frame);
    r
}
