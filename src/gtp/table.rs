// SPDX-License-Identifier: GPL-2.0-only
//! The tunnel table of a kernel.

use super::attribute as a;
use super::command as c;
use super::pdp::Pdp;
use super::{Error, Result};
use crate::netlink::{self, Batch, Genl, Socket, Writer};

/// Name of the multicast group that hears of each change.
const GROUP: &str = "gtp";

/// Watches for changes of the table.
///
/// The driver's dump has no consistency check and may skip entries while the
/// table changes, but each change is announced under the lock it is made under.
pub struct Watch {
    socket: Option<Socket>,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn new(genl: &Genl) -> Result<Self> {
        match genl.listen(GROUP) {
            Ok(socket) => Ok(Self {
                socket: Some(socket),
            }),
            Err(netlink::Error::NoFamily(_)) => {
                log::warn!("this kernel does not tell of changes in the tunnel table (Linux 5.10 and later do): nothing must change it now");
                Ok(Self { socket: None })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the table has changed since the last call.
    ///
    /// # Errors
    /// Those of the netlink socket.
    pub fn changed(&mut self, genl: &mut Genl) -> Result<bool> {
        let Some(socket) = &mut self.socket else {
            return Ok(false);
        };
        // DELPDP takes the lock of the table before it finds that no tunnel is
        // named: any change made before has been announced when it answers.
        let mut nothing = Writer::new();
        nothing.put_u32(a::VERSION, 1)?;
        match genl.request(c::DELPDP, &nothing, |_| Ok(())) {
            Err(netlink::Error::Refused(r)) if r.errno == libc::EINVAL => {}
            Err(e) => return Err(e.into()),
            Ok(()) => return Err(netlink::Error::Malformed("tunnel deleted without a name").into()),
        }
        Ok(socket.heard()?)
    }
}

/// Reads the tables of all links of this network namespace.
///
/// # Errors
/// The kernel's refusal, or an error of `each`.
pub fn read(genl: &mut Genl, mut each: impl FnMut(Pdp) -> Result<()>) -> Result<()> {
    // The driver answers with its family id for a command: it is not looked at.
    genl.dump(c::GETPDP, &Writer::new(), |attrs| each(Pdp::read(attrs)?))
}

/// Adds tunnels to links, many with each system call.
pub struct Filler {
    genl: Genl,
    batch: Batch,
    sent: Vec<Pdp>,
    name: String,
}

impl Filler {
    /// For the table of the link `name`.
    ///
    /// # Errors
    /// The driver is not loaded.
    pub fn new(name: &str) -> Result<Self> {
        let genl = super::connect()?;
        Ok(Self {
            batch: genl.batch(),
            genl,
            sent: Vec::new(),
            name: name.to_owned(),
        })
    }

    /// Adds a tunnel, now or with one of the next calls.
    ///
    /// # Errors
    /// The first tunnel refused among those sent with this call.
    pub fn add(&mut self, pdp: Pdp) -> Result<()> {
        // Without EXCL the driver would change a tunnel that is there, and
        // leave it where its old TEID is looked for.
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.genl
            .push(&mut self.batch, c::NEWPDP, flags, |w| pdp.write(w))?;
        self.sent.push(pdp);
        if self.batch.is_full() {
            self.flush()?;
        }
        Ok(())
    }

    /// Adds those that wait.
    ///
    /// # Errors
    /// The first tunnel refused.
    pub fn flush(&mut self) -> Result<()> {
        let done = self.genl.run(&mut self.batch);
        let refused = done.map_err(|(place, source)| match self.sent.get(place) {
            Some(pdp) if matches!(source, netlink::Error::Refused(_)) => Error::Tunnel {
                link: self.name.clone(),
                pdp: Box::new(*pdp),
                source,
            },
            _ => source.into(),
        });
        self.sent.clear();
        refused
    }
}
