// SPDX-License-Identifier: GPL-2.0-only
//! The kernel companion, verb by verb.
//!
//! A socket is frozen ([`Repair::freeze`]), read or filled, and then woken
//! ([`Repair::wake`]), let go as if nothing had happened ([`Repair::release`]),
//! or closed, which in repair mode says nothing to anybody.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use super::dump::LISTEN;
use super::table::{number, Carried};
use super::uapi::*;
use super::{Error, Result};
use crate::netlink::{self, Genl, Writer};
use crate::proto::{Association, Chunk, Endpoint, Streams};

/// Oldest version of the companion that will do.
pub const VERSION_NEEDED: u32 = SCTP_REPAIR_FAMILY_VERSION;

/// Number and version of the family, once found: looking it up for each of
/// thousands of sockets takes longer than reading one.
static FAMILY: OnceLock<(u16, u32)> = OnceLock::new();

/// A connection to the kernel companion.
pub struct Repair {
    genl: Genl,
}

/// Commands are small; bindgen makes them `u32`.
const fn command(cmd: u32) -> u8 {
    assert!(cmd < 256, "command number");
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    {
        cmd as u8
    }
}

fn socket(fd: BorrowedFd<'_>) -> Result<Writer> {
    // Attribute 1 names the socket in every set.
    let raw = u32::try_from(fd.as_raw_fd()).map_err(|_| Error::BadImage("negative descriptor"))?;
    let mut attrs = Writer::new();
    attrs.put_u32(number(SCTP_REPAIR_A_SOCK_FD), raw)?;
    Ok(attrs)
}

impl Repair {
    /// Connects, loading the `sctp` module where it is not loaded.
    ///
    /// # Errors
    /// [`Error::NoCompanion`] or [`Error::TooOld`], each with its cure.
    pub fn open() -> Result<Self> {
        // The module cannot be unloaded, so its number stays.
        if let Some(known) = FAMILY.get() {
            let genl = Genl::reconnect(*known)?;
            return Ok(Self { genl });
        }
        let family = CStr::from_bytes_with_nul(SCTP_REPAIR_FAMILY_NAME)
            .ok()
            .and_then(|name| name.to_str().ok())
            .ok_or(Error::NoCompanion)?;
        let genl = match Genl::connect(family) {
            Err(netlink::Error::NoFamily(_)) => {
                super::sockopt::load_module();
                Genl::connect(family)
            }
            other => other,
        };
        let genl = genl.map_err(|e| match e {
            netlink::Error::NoFamily(_) => Error::NoCompanion,
            other => other.into(),
        })?;
        let have = genl.version();
        if have < VERSION_NEEDED {
            return Err(Error::TooOld {
                have,
                need: VERSION_NEEDED,
            });
        }
        let _ = FAMILY.set(genl.known());
        Ok(Self { genl })
    }

    /// Feature level of the loaded module.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.genl.version()
    }

    fn mode(&mut self, fd: BorrowedFd<'_>, mode: u32, doing: &'static str) -> Result<()> {
        let mut attrs = socket(fd)?;
        attrs.put_u32(number(SCTP_REPAIR_A_SOCK_MODE), mode)?;
        self.genl
            .request(command(SCTP_REPAIR_CMD_MODE_SET), &attrs, |_| Ok(()))
            .map_err(Error::doing(doing))
    }

    /// Turns repair mode on: from here on the socket sends nothing and drops
    /// what arrives in silence. Does nothing to a socket already frozen.
    ///
    /// # Errors
    /// The socket holds something that cannot be carried; nothing was changed.
    pub fn freeze(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        self.mode(fd, SCTP_REPAIR_MODE_ON, "freeze SCTP socket")
    }

    /// Turns repair mode off and tells every peer at once that it lives.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn wake(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        self.mode(fd, SCTP_REPAIR_MODE_OFF, "wake SCTP socket")
    }

    /// Turns repair mode off as if it had never been on.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn release(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        self.mode(fd, SCTP_REPAIR_MODE_QUIET, "release SCTP socket")
    }

    /// Whether a socket is in repair mode.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn is_frozen(&mut self, fd: BorrowedFd<'_>) -> Result<bool> {
        let mut mode = None;
        self.genl
            .request(command(SCTP_REPAIR_CMD_SOCK_GET), &socket(fd)?, |attrs| {
                let value = attrs.find(number(SCTP_REPAIR_A_SOCK_MODE))?;
                mode = value.map(netlink::attr::get_u32).transpose()?;
                Ok(())
            })
            .map_err(Error::doing("read SCTP socket"))?;
        Ok(mode == Some(SCTP_REPAIR_MODE_ON))
    }

    /// Reads the endpoint, in or out of repair mode.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn endpoint(&mut self, fd: BorrowedFd<'_>) -> Result<Endpoint> {
        let mut endpoint = Err(Error::BadImage("kernel sent no socket"));
        self.genl
            .request(command(SCTP_REPAIR_CMD_SOCK_GET), &socket(fd)?, |attrs| {
                endpoint = Endpoint::from_attrs(attrs);
                Ok(())
            })
            .map_err(Error::doing("read SCTP socket"))?;
        endpoint
    }

    /// Sets what no socket option sets: cookie secret, shutdown, pending
    /// error, keys (RFC 4895), whether it was peeled off.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn set_endpoint(&mut self, fd: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<()> {
        let settable = Endpoint {
            // listen() sets the state of a listener.
            state: endpoint.state.filter(|s| *s != LISTEN),
            r#type: None,
            backlog: None,
            port: None,
            addrs: Vec::new(),
            ..endpoint.clone()
        };
        let mut attrs = socket(fd)?;
        settable.to_attrs(&mut attrs)?;
        self.genl
            .request(command(SCTP_REPAIR_CMD_SOCK_SET), &attrs, |_| Ok(()))
            .map_err(Error::doing("set up SCTP socket"))
    }

    fn dump<T: Carried>(
        &mut self,
        fd: BorrowedFd<'_>,
        cmd: u32,
        mut each: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        self.genl
            .dump(command(cmd), &socket(fd)?, |attrs| {
                each(T::from_attrs(attrs)?)
            })
            .map_err(|e| match e {
                Error::Netlink(n) => Error::doing("read SCTP associations")(n),
                other => other,
            })
    }

    /// Reads every association of a frozen socket.
    ///
    /// # Errors
    /// The kernel's refusal, or an error of `each`.
    pub fn associations(
        &mut self,
        fd: BorrowedFd<'_>,
        each: impl FnMut(Association) -> Result<()>,
    ) -> Result<()> {
        self.dump(fd, SCTP_REPAIR_CMD_ASSOC_GET, each)
    }

    /// Reads the stream counters of every association of a frozen socket.
    ///
    /// # Errors
    /// The kernel's refusal, or an error of `each`.
    pub fn streams(
        &mut self,
        fd: BorrowedFd<'_>,
        each: impl FnMut(Streams) -> Result<()>,
    ) -> Result<()> {
        self.dump(fd, SCTP_REPAIR_CMD_STREAM_GET, each)
    }

    /// Reads everything that waits on a frozen socket in either direction.
    ///
    /// # Errors
    /// The kernel's refusal, or an error of `each`.
    pub fn chunks(
        &mut self,
        fd: BorrowedFd<'_>,
        each: impl FnMut(Chunk) -> Result<()>,
    ) -> Result<()> {
        self.dump(fd, SCTP_REPAIR_CMD_CHUNK_GET, each)
    }

    /// Creates an association on a frozen socket.
    ///
    /// # Errors
    /// The kernel's refusal: the id or the addresses and ports are taken, or
    /// the association makes no sense.
    pub fn new_association(&mut self, fd: BorrowedFd<'_>, asoc: &Association) -> Result<()> {
        let mut attrs = socket(fd)?;
        asoc.to_attrs(&mut attrs)?;
        self.genl
            .request(command(SCTP_REPAIR_CMD_ASSOC_NEW), &attrs, |_| Ok(()))
            .map_err(Error::doing("create SCTP association"))
    }

    /// Sets stream counters of an association.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn set_streams(&mut self, fd: BorrowedFd<'_>, streams: &Streams) -> Result<()> {
        let mut attrs = socket(fd)?;
        streams.to_attrs(&mut attrs)?;
        self.genl
            .request(command(SCTP_REPAIR_CMD_STREAM_SET), &attrs, |_| Ok(()))
            .map_err(Error::doing("set SCTP streams"))
    }

    /// Appends a chunk to a queue; [`Repair::flush`] says whether it went well.
    ///
    /// # Errors
    /// The kernel's refusal of this chunk or of one before it.
    pub fn add_chunk(&mut self, fd: BorrowedFd<'_>, chunk: &Chunk) -> Result<()> {
        let mut attrs = socket(fd)?;
        chunk.to_attrs(&mut attrs)?;
        self.genl
            .queue(command(SCTP_REPAIR_CMD_CHUNK_ADD), &attrs)
            .map_err(Error::doing("refill SCTP queues"))
    }

    /// Forgets chunks added since the last [`Repair::flush`].
    pub fn discard(&mut self) {
        self.genl.discard();
    }

    /// Waits until every chunk is in its queue.
    ///
    /// # Errors
    /// The kernel's refusal of one of them.
    pub fn flush(&mut self) -> Result<()> {
        self.genl
            .flush()
            .map_err(Error::doing("refill SCTP queues"))
    }
}
