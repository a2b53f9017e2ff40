// SPDX-License-Identifier: GPL-2.0-only
//! Who sent what in one direction of one association, and whether it came as it should.

use std::collections::HashMap;

use crate::rng::Rng;

/// Magic, association, direction, number, length.
const HEAD: usize = 16;
const MAGIC: [u8; 4] = *b"soak";

/// How a message is to travel.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    pub number: u32,
    pub stream: u16,
    pub unordered: bool,
    /// It may be given up.
    pub may_fail: bool,
    pub len: usize,
}

/// One direction of one association.
#[derive(Debug, Default)]
pub struct Ledger {
    sent: Vec<Message>,
    came: Vec<bool>,
    /// The last ordered one of each stream.
    last: HashMap<u16, u32>,
    pub arrived: usize,
}

impl Ledger {
    /// The bytes of the next message; it counts once [`Ledger::sent`] is told.
    pub fn next(&self, association: u8, direction: u8, len: u64) -> (u32, Vec<u8>) {
        let number = u32::try_from(self.sent.len()).unwrap();
        let len = usize::try_from(len).unwrap().max(HEAD);
        let mut bytes = Vec::with_capacity(len);
        bytes.extend(MAGIC);
        bytes.extend([association, direction, 0, 0]);
        bytes.extend(number.to_ne_bytes());
        bytes.extend(u32::try_from(len).unwrap().to_ne_bytes());
        let mut fill = filling(association, direction, number);
        bytes.resize_with(len, &mut fill);
        (number, bytes)
    }

    pub fn sent(&mut self, m: Message) {
        assert_eq!(usize::try_from(m.number).unwrap(), self.sent.len());
        self.sent.push(m);
        self.came.push(false);
    }

    pub fn count(&self) -> usize {
        self.sent.len()
    }

    /// Notes a whole message.
    pub fn came(&mut self, stream: u16, bytes: &[u8]) -> Result<(), String> {
        let (association, direction, number) =
            decode(bytes).ok_or_else(|| format!("{} bytes nobody sent", bytes.len()))?;
        let index = usize::try_from(number).unwrap();
        let m = *self
            .sent
            .get(index)
            .ok_or_else(|| format!("message {number} was never sent"))?;
        let what = |fault: &str| Err(format!("{m:?}: {fault}"));
        let mut fill = filling(association, direction, number);
        if bytes.len() != m.len {
            return what(&format!("came with {} bytes", bytes.len()));
        }
        if bytes[HEAD..].iter().any(|b| *b != fill()) {
            return what("came with other bytes");
        }
        if stream != m.stream {
            return what(&format!("came on stream {stream}"));
        }
        if std::mem::replace(&mut self.came[index], true) {
            return what("came twice");
        }
        if !m.unordered {
            let before = self.last.insert(stream, number);
            if before.is_some_and(|b| b > number) {
                return what(&format!("came behind {before:?}"));
            }
        }
        self.arrived += 1;
        Ok(())
    }

    /// Those that have not come and may not fail.
    pub fn missing(&self) -> Vec<Message> {
        let missing = self
            .sent
            .iter()
            .zip(&self.came)
            .filter(|(m, came)| !**came && !m.may_fail);
        missing.map(|(m, _)| *m).collect()
    }

    /// Those given up.
    pub fn given_up(&self) -> usize {
        self.came.iter().filter(|came| !**came).count()
    }

    pub fn may_fail(&self, number: u32) -> bool {
        self.sent
            .get(usize::try_from(number).unwrap())
            .is_some_and(|m| m.may_fail)
    }
}

/// Association, direction and number, if these are the first bytes of a message.
pub fn decode(bytes: &[u8]) -> Option<(u8, u8, u32)> {
    let head = bytes.get(..HEAD)?;
    (head[..4] == MAGIC).then(|| {
        (
            head[4],
            head[5],
            u32::from_ne_bytes([head[8], head[9], head[10], head[11]]),
        )
    })
}

fn filling(association: u8, direction: u8, number: u32) -> impl FnMut() -> u8 {
    let mut rng =
        Rng::new(u64::from(number) << 16 | u64::from(association) << 8 | u64::from(direction));
    let (mut word, mut left) = (0, 0);
    move || {
        if left == 0 {
            (word, left) = (rng.next(), 8);
        }
        left -= 1;
        word = word.rotate_left(8);
        word.to_ne_bytes()[0]
    }
}
