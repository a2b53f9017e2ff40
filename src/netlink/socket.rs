// SPDX-License-Identifier: GPL-2.0-only
//! The socket: one request, one dump, or many requests in few system calls.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::protocols;
use netlink_sys::SocketAddr;
use nix::sys::socket::sockopt::{ReceiveTimeout, SndBufForce};
use nix::sys::time::TimeVal;

use super::message::{verdict, Messages, DONE, DUMP_INTR, ERROR, OVERRUN};
use super::{Batch, Error, Message, Result};

/// Flags of a request (`NLM_F_*`).
pub(crate) mod flags {
    pub(crate) const REQUEST: i32 = libc::NLM_F_REQUEST;
    pub(crate) const ACK: i32 = libc::NLM_F_ACK;
    pub(crate) const DUMP: i32 = libc::NLM_F_DUMP;
}

/// Longest datagram taken: a whole chunk of 64 KiB with its attributes.
const RECEIVE: usize = 160 * 1024;
/// Seconds to wait for an answer.
const PATIENCE: i64 = 20;
/// Send this many bytes or messages at once, then read the answers. Errors
/// of so many messages fit the kernel's default receive buffer.
const BATCH_BYTES: usize = 96 * 1024;
/// What a send buffer takes in any case.
const ROOM: usize = 64 * 1024;
const BATCH_MESSAGES: usize = 128;

/// Which part of the kernel a socket speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes.
    Route,
    /// Sockets (`ss`).
    SockDiag,
    /// nftables and its kin.
    Netfilter,
    /// Generic netlink.
    Generic,
}

/// A netlink socket.
pub struct Socket {
    inner: netlink_sys::Socket,
    seq: u32,
    buf: Vec<u8>,
    queue: Vec<Message>,
    queued: usize,
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl Socket {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    /// The kernel lacks the protocol, or descriptors have run out.
    pub fn open(protocol: Protocol) -> Result<Self> {
        let number = match protocol {
            Protocol::Route => protocols::NETLINK_ROUTE,
            Protocol::SockDiag => protocols::NETLINK_SOCK_DIAG,
            Protocol::Netfilter => protocols::NETLINK_NETFILTER,
            Protocol::Generic => protocols::NETLINK_GENERIC,
        };
        let mut inner = netlink_sys::Socket::new(number).map_err(io("socket"))?;
        inner.bind_auto().map_err(io("bind"))?;
        inner
            .connect(&SocketAddr::new(0, 0))
            .map_err(io("connect"))?;
        inner.set_ext_ack(true).map_err(io("extended ack"))?;
        inner.set_cap_ack(true).map_err(io("capped ack"))?;
        // The kernel answers while it is asked; waiting longer means a fault.
        nix::sys::socket::setsockopt(&inner, ReceiveTimeout, &TimeVal::new(PATIENCE, 0))
            .map_err(|e| io("time limit")(e.into()))?;
        Ok(Self {
            inner,
            seq: 0,
            buf: Vec::with_capacity(RECEIVE),
            queue: Vec::new(),
            queued: 0,
        })
    }

    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        loop {
            match self.inner.send(bytes, 0) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(_) => return Err(Error::Malformed("request sent in part")),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(io("send")(e)),
            }
        }
    }

    fn receive(&mut self) -> Result<()> {
        loop {
            self.buf.clear();
            match self.inner.recv(&mut self.buf, libc::MSG_TRUNC) {
                Ok(n) if n > self.buf.len() => return Err(Error::Truncated(n)),
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(io("receive")(e)),
            }
        }
    }

    /// Sends one request and hands each reply to `reply`, up to the
    /// acknowledgement.
    ///
    /// # Errors
    /// The kernel's refusal, with its words.
    pub fn request(
        &mut self,
        mut msg: Message,
        mut reply: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        msg.flag(flags::REQUEST | flags::ACK);
        let seq = self.next_seq();
        let mut bytes = Vec::with_capacity(msg.len());
        msg.write(seq, &mut bytes)?;
        self.send(&bytes)?;
        loop {
            self.receive()?;
            for msg in Messages(&self.buf) {
                let msg = msg?;
                if msg.seq != seq {
                    continue; // of a request given up earlier
                }
                match msg.kind {
                    ERROR => return verdict(&msg),
                    OVERRUN => return Err(Error::Malformed("overrun")),
                    _ => reply(msg.payload)?,
                }
            }
        }
    }

    /// Sends a dump request and hands each entry to `entry`.
    ///
    /// # Errors
    /// The kernel's refusal, an error of `entry`, or a change of what is
    /// dumped while it is dumped.
    pub fn dump<E: From<Error>>(
        &mut self,
        mut msg: Message,
        mut entry: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        msg.flag(flags::REQUEST | flags::DUMP);
        let seq = self.next_seq();
        let mut bytes = Vec::with_capacity(msg.len());
        msg.write(seq, &mut bytes)?;
        self.send(&bytes)?;
        let mut disturbed = false;
        // An error of `entry` must not leave half a dump in the socket.
        let mut failed = None;
        loop {
            self.receive()?;
            for msg in Messages(&self.buf) {
                let msg = msg?;
                if msg.seq != seq {
                    continue;
                }
                disturbed |= msg.flags & DUMP_INTR != 0;
                match msg.kind {
                    ERROR | DONE => {
                        verdict(&msg)?;
                        return match failed {
                            Some(e) => Err(e),
                            None if disturbed => Err(Error::Interrupted.into()),
                            None => Ok(()),
                        };
                    }
                    OVERRUN => return Err(Error::Malformed("overrun").into()),
                    _ if failed.is_none() => failed = entry(msg.payload).err(),
                    _ => {}
                }
            }
        }
    }

    /// Queues a request of which only an error will be heard. Call
    /// [`Socket::flush`] at the end.
    ///
    /// # Errors
    /// The first refusal among the requests sent so far.
    pub fn queue(&mut self, mut msg: Message) -> Result<()> {
        msg.flag(flags::REQUEST);
        if self.queued + msg.len() > BATCH_BYTES || self.queue.len() >= BATCH_MESSAGES {
            self.flush()?;
        }
        self.queued += msg.len();
        self.queue.push(msg);
        Ok(())
    }

    /// Forgets what is queued.
    pub fn discard(&mut self) {
        self.queue.clear();
        self.queued = 0;
    }

    /// Sends what is queued and waits until the kernel has worked it off.
    ///
    /// # Errors
    /// The first refusal among the requests sent.
    pub fn flush(&mut self) -> Result<()> {
        let mut queue = std::mem::take(&mut self.queue);
        let mut bytes = Vec::with_capacity(self.queued);
        self.queued = 0;
        let Some(last) = queue.last_mut() else {
            return Ok(());
        };
        last.flag(flags::ACK);
        let first = self.seq.wrapping_add(1);
        for msg in &queue {
            let seq = self.next_seq();
            msg.write(seq, &mut bytes)?;
        }
        self.send(&bytes)?;
        let mut refusal = None;
        self.answers(first, queue.len(), |_, e| {
            refusal.get_or_insert(e);
            Ok(())
        })?;
        refusal.map_or(Ok(()), Err)
    }

    /// A batch for [`Socket::run`].
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(self.seq.wrapping_add(1))
    }

    /// Sends a batch in one system call and waits until the kernel has worked
    /// it off. The batch is empty afterwards.
    ///
    /// # Errors
    /// The first refusal, with the place of its request in the batch. Those
    /// after it have been carried out or refused on their own.
    pub fn run(&mut self, batch: &mut Batch) -> std::result::Result<(), (usize, Error)> {
        let mut first = None;
        self.run_each(batch, |place, e| {
            first.get_or_insert((place, e));
        })
        .map_err(|e| (0, e))?;
        first.map_or(Ok(()), Err)
    }

    /// Sends a batch; `refused` hears of each refusal, with the place of its
    /// request in the batch.
    ///
    /// # Errors
    /// The whole batch could not be sent, or was not answered.
    pub fn run_each(
        &mut self,
        batch: &mut Batch,
        mut refused: impl FnMut(usize, Error),
    ) -> Result<()> {
        let Some(count) = batch.seal() else {
            return Ok(());
        };
        let first = self.seq.wrapping_add(1);
        self.seq = self
            .seq
            .wrapping_add(u32::try_from(count).unwrap_or_default());
        self.send(batch.bytes())?;
        batch.reset(self.seq.wrapping_add(1));
        self.answers(first, count, |place, e| {
            refused(place, e);
            Ok(())
        })
    }

    /// Joins a multicast group.
    ///
    /// # Errors
    /// No such group, or no right to hear it.
    pub fn join(&mut self, group: u32) -> Result<()> {
        self.inner
            .add_membership(group)
            .map_err(io("multicast group"))
    }

    /// Whether a multicast message has come since the last call, or so many
    /// that some were lost.
    ///
    /// # Errors
    /// Receiving failed.
    pub fn heard(&mut self) -> Result<bool> {
        let mut heard = false;
        loop {
            self.buf.clear();
            match self
                .inner
                .recv(&mut self.buf, libc::MSG_DONTWAIT | libc::MSG_TRUNC)
            {
                Ok(_) => heard = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
                Err(e) => return Err(io("receive")(e)),
            }
        }
    }

    /// Sends requests in one datagram, as nfnetlink wants its transactions.
    ///
    /// # Errors
    /// The first refusal among them; none of them has taken effect then.
    pub fn transaction(&mut self, begin: &Message, body: &[Message], end: &Message) -> Result<()> {
        let mut bytes = Vec::new();
        let first = self.seq.wrapping_add(1);
        let seq = self.next_seq();
        begin.write(seq, &mut bytes)?;
        for msg in body {
            let seq = self.next_seq();
            let mut msg = msg.clone();
            msg.flag(flags::REQUEST | flags::ACK);
            msg.write(seq, &mut bytes)?;
        }
        let last = self.seq;
        let seq = self.next_seq();
        end.write(seq, &mut bytes)?;
        // A transaction is one send, whatever its size. Where this is not permitted the send tells.
        if bytes.len() > ROOM {
            let _ = nix::sys::socket::setsockopt(&self.inner, SndBufForce, &(2 * bytes.len()));
        }
        self.send(&bytes)?;
        if body.is_empty() {
            return Ok(());
        }
        let count = usize::try_from(last.wrapping_sub(first))
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let mut refusal = None;
        self.answers(first, count, |place, e| {
            // A transaction refused as a whole has no more answers.
            if place == 0 {
                return Err(e);
            }
            refusal.get_or_insert(e);
            Ok(())
        })?;
        refusal.map_or(Ok(()), Err)
    }

    /// Reads answers to `count` requests until the last one is answered, or
    /// `refused`, which hears of each refusal with the place of its request,
    /// has heard enough.
    fn answers(
        &mut self,
        first: u32,
        count: usize,
        mut refused: impl FnMut(usize, Error) -> Result<()>,
    ) -> Result<()> {
        let span = u32::try_from(count).map_err(|_| Error::TooLong("batch"))?;
        let last = first.wrapping_add(span).wrapping_sub(1);
        loop {
            self.receive()?;
            for msg in Messages(&self.buf) {
                let msg = msg?;
                let place = msg.seq.wrapping_sub(first);
                if place >= span {
                    continue;
                }
                if msg.kind == ERROR {
                    if let Err(e) = verdict(&msg) {
                        refused(usize::try_from(place).unwrap_or_default(), e)?;
                    }
                    if msg.seq == last {
                        return Ok(());
                    }
                }
            }
        }
    }
}
