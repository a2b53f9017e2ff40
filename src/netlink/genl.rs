// SPDX-License-Identifier: GPL-2.0-only
//! Generic netlink: a family is found by name and then spoken to by number.

use neli::consts::genl::{CtrlAttr, CtrlCmd};
use neli::consts::nl::GenlId;

use super::attr::{get_u16, get_u32};
use super::{Attrs, Error, Message, Protocol, Result, Socket, Writer};

/// Length of `struct genlmsghdr`.
const HEADER: usize = 4;

/// A socket connected to one generic netlink family.
pub struct Genl {
    socket: Socket,
    id: u16,
    version: u32,
}

impl Genl {
    /// Finds a family.
    ///
    /// # Errors
    /// [`Error::NoFamily`] when the kernel has none of this name.
    pub fn connect(family: &str) -> Result<Self> {
        let mut socket = Socket::open(Protocol::Generic)?;
        let header = [u8::from(CtrlCmd::Getfamily), 2, 0, 0];
        let mut attrs = Writer::new();
        attrs.put_str(u16::from(CtrlAttr::FamilyName), family)?;
        let msg = Message::new(u16::from(GenlId::Ctrl), 0, &header).with(&attrs);
        let (mut id, mut version) = (None, None);
        let answer = socket.request(msg, |payload| {
            let attrs = attributes(payload)?;
            id = attrs
                .find(u16::from(CtrlAttr::FamilyId))?
                .map(get_u16)
                .transpose()?;
            version = attrs
                .find(u16::from(CtrlAttr::Version))?
                .map(get_u32)
                .transpose()?;
            Ok(())
        });
        match answer {
            Err(Error::Refused(r)) if r.errno == libc::ENOENT => {
                return Err(Error::NoFamily(family.to_owned()))
            }
            other => other?,
        }
        match (id, version) {
            (Some(id), Some(version)) => Ok(Self {
                socket,
                id,
                version,
            }),
            _ => Err(Error::Malformed("family without number or version")),
        }
    }

    /// Connects to a family whose number and version are known.
    ///
    /// # Errors
    /// No netlink socket.
    pub(crate) fn reconnect(known: (u16, u32)) -> Result<Self> {
        Ok(Self {
            socket: Socket::open(Protocol::Generic)?,
            id: known.0,
            version: known.1,
        })
    }

    /// Number and version of the family.
    pub(crate) fn known(&self) -> (u16, u32) {
        (self.id, self.version)
    }

    /// The version the family states.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    fn message(&self, command: u8, attrs: &Writer) -> Message {
        Message::new(self.id, 0, &[command, 1, 0, 0]).with(attrs)
    }

    /// One request; `reply` sees the attributes of each reply.
    ///
    /// # Errors
    /// The kernel's refusal, with its words.
    pub fn request(
        &mut self,
        command: u8,
        attrs: &Writer,
        mut reply: impl FnMut(Attrs<'_>) -> Result<()>,
    ) -> Result<()> {
        let msg = self.message(command, attrs);
        self.socket
            .request(msg, |payload| reply(attributes(payload)?))
    }

    /// A dump; `entry` sees the attributes of each entry.
    ///
    /// # Errors
    /// The kernel's refusal, or an error of `entry`.
    pub fn dump<E: From<Error>>(
        &mut self,
        command: u8,
        attrs: &Writer,
        mut entry: impl FnMut(Attrs<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let msg = self.message(command, attrs);
        self.socket.dump(msg, |payload| entry(attributes(payload)?))
    }

    /// Queues a request of which only an error will be heard.
    ///
    /// # Errors
    /// The first refusal among the requests sent so far.
    pub fn queue(&mut self, command: u8, attrs: &Writer) -> Result<()> {
        let msg = self.message(command, attrs);
        self.socket.queue(msg)
    }

    /// Forgets what is queued.
    pub fn discard(&mut self) {
        self.socket.discard();
    }

    /// Sends what is queued and waits until it is done.
    ///
    /// # Errors
    /// The first refusal among the requests sent.
    pub fn flush(&mut self) -> Result<()> {
        self.socket.flush()
    }
}

fn attributes(payload: &[u8]) -> Result<Attrs<'_>> {
    payload
        .get(HEADER..)
        .map(Attrs::new)
        .ok_or(Error::Malformed("no generic netlink header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_knows_itself() {
        let genl = Genl::connect("nlctrl").unwrap();
        assert!(genl.version() >= 1);
    }

    #[test]
    fn a_family_that_is_not_there_is_named() {
        let Err(e) = Genl::connect("telecr_none") else {
            panic!("found")
        };
        assert_eq!(
            e.to_string(),
            "the kernel has no netlink family telecr_none"
        );
    }
}
