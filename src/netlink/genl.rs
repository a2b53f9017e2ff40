// SPDX-License-Identifier: GPL-2.0-only
//! Generic netlink: a family is found by name and then spoken to by number.

use neli::consts::genl::{CtrlAttr, CtrlCmd};
use neli::consts::nl::GenlId;

use super::attr::{get_str, get_u16, get_u32};
use super::{Attrs, Batch, Error, Message, Protocol, Result, Socket, Writer};

/// Length of `struct genlmsghdr`.
const HEADER: usize = 4;

/// A socket connected to one generic netlink family.
pub struct Genl {
    socket: Socket,
    id: u16,
    version: u32,
    groups: Vec<(String, u32)>,
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
        let mut groups = Vec::new();
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
            if let Some(list) = attrs.find(u16::from(CtrlAttr::McastGroups))? {
                for group in Attrs::new(list) {
                    groups.extend(self::group(group?.1)?);
                }
            }
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
                groups,
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
            groups: Vec::new(),
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

    /// The number messages to this family bear.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// A socket that hears a multicast group of this family.
    ///
    /// # Errors
    /// The family has no such group.
    pub fn listen(&self, group: &str) -> Result<Socket> {
        let number = self.groups.iter().find(|(name, _)| name == group);
        let (_, number) = number.ok_or_else(|| Error::NoFamily(format!("group {group}")))?;
        let mut socket = Socket::open(Protocol::Generic)?;
        socket.join(*number)?;
        Ok(socket)
    }

    /// A batch for [`Genl::run`].
    #[must_use]
    pub fn batch(&self) -> Batch {
        self.socket.batch()
    }

    /// Adds a request to a batch.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn push(
        &self,
        batch: &mut Batch,
        command: u8,
        flags: i32,
        fill: impl FnOnce(&mut Writer) -> Result<()>,
    ) -> Result<()> {
        batch.push(self.id, flags, &[command, 1, 0, 0], fill)
    }

    /// Sends a batch, see [`Socket::run`].
    ///
    /// # Errors
    /// The first refusal, with the place of its request.
    pub fn run(&mut self, batch: &mut Batch) -> std::result::Result<(), (usize, Error)> {
        self.socket.run(batch)
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

/// Name and number of a multicast group.
fn group(attrs: &[u8]) -> Result<Option<(String, u32)>> {
    const NAME: u16 = 1;
    const ID: u16 = 2;
    let attrs = Attrs::new(attrs);
    let (Some(name), Some(id)) = (attrs.find(NAME)?, attrs.find(ID)?) else {
        return Ok(None);
    };
    Ok(Some((get_str(name)?.to_owned(), get_u32(id)?)))
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
