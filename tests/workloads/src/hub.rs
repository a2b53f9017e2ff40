// SPDX-License-Identifier: GPL-2.0-only
//! A one-to-many socket, and which association is which.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    rc::Rc,
};

use crate::{
    assoc::Assoc,
    sctp::{Line, Received, Socket},
};

/// The socket, and the place of each association in the program's list by its id.
#[derive(Debug)]
pub(crate) struct Hub {
    socket: Rc<Socket>,
    places: HashMap<i32, usize>,
    /// Is it watched for room to write?
    pub(crate) writing: bool,
}

impl AsFd for Hub {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Hub {
    pub(crate) fn new(socket: Socket) -> Self {
        Self {
            socket: Rc::new(socket),
            places: HashMap::new(),
            writing: false,
        }
    }

    /// Takes everything the socket holds; an id not seen before is a new association.
    pub(crate) fn drain(&mut self, assocs: &mut Vec<Assoc>, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            let got = self.socket.recv(buffer)?;
            let id = match got {
                Received::WouldBlock | Received::Closed => return Ok(()),
                Received::Data { assoc, .. } => assoc,
                Received::Notification { len } => {
                    named(buffer.get(..len).unwrap_or(&[])).unwrap_or(0)
                }
            };
            let place = *self.places.entry(id).or_insert(assocs.len());
            if place == assocs.len() {
                let line = Line {
                    socket: Rc::clone(&self.socket),
                    id,
                };
                assocs.push(Assoc::new(line, None));
            }
            if let Some(assoc) = assocs.get_mut(place) {
                assoc.hear(&got, buffer);
                if over(&got, buffer) {
                    assoc.line = None;
                }
            }
        }
    }
}

const ASSOC_CHANGE: u16 = 0x8001;
const PEER_ADDR_CHANGE: u16 = 0x8002;
const SHUTDOWN_EVENT: u16 = 0x8005;

/// The association a notification names (RFC 6458, section 6.1).
fn named(bytes: &[u8]) -> Option<i32> {
    let at = match half(bytes, 0)? {
        ASSOC_CHANGE => 16,
        PEER_ADDR_CHANGE => 144,
        SHUTDOWN_EVENT => 8,
        _ => return None,
    };
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(i32::from_ne_bytes)
}

/// Does it say that the association has ended?
fn over(got: &Received, buffer: &[u8]) -> bool {
    const COMM_UP: u16 = 0;
    const RESTART: u16 = 2;
    matches!(got, Received::Notification { .. })
        && half(buffer, 0) == Some(ASSOC_CHANGE)
        && !matches!(half(buffer, 8), Some(COMM_UP | RESTART))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_names_its_association() {
        let mut change = [0u8; 20];
        change[..2].copy_from_slice(&ASSOC_CHANGE.to_ne_bytes());
        change[16..].copy_from_slice(&7i32.to_ne_bytes());
        assert_eq!(named(&change), Some(7));
        assert_eq!(named(&change[..18]), None);
        assert_eq!(named(&[]), None);
        let notification = Received::Notification { len: 20 };
        assert!(!over(&notification, &change));
        change[8..10].copy_from_slice(&1u16.to_ne_bytes());
        assert!(over(&notification, &change));
    }
}
