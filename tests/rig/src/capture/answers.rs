// SPDX-License-Identifier: GPL-2.0-only
//! What hosts answer to packets they have no use for. None of it may come while a service moves.

use std::time::SystemTime;

use super::{chunks, records, sctp};
use crate::outcome::Outcome;

/// Answers that end what they answer to, or tempt a peer to end it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// SCTP packets with an ABORT.
    pub abort: u64,
    /// ICMP unreachable, for whatever reason but a packet that is too long.
    pub unreachable: u64,
    /// GTP error indications.
    pub error_indication: u64,
    /// TCP resets.
    pub reset: u64,
}

impl Answers {
    /// Notes them as figures that must be zero.
    pub fn judge(&self, outcome: &mut Outcome) {
        outcome.zero("abort_packets", self.abort);
        outcome.zero("icmp_unreachable", self.unreachable);
        outcome.zero("error_indications", self.error_indication);
        outcome.zero("tcp_resets", self.reset);
    }
}

/// The peer's link address: what it sends itself does not count.
const PEER: [u8; 6] = [0x52, 0x54, 0, 0x45, 0, 3];

/// Counts those that came to the peer between two moments.
pub fn count(pcap: &[u8], from: SystemTime, to: SystemTime) -> Answers {
    let mut found = Answers::default();
    for (_, frame) in records(pcap).filter(|(when, _)| *when >= from && *when <= to) {
        if frame.get(6..12) == Some(&PEER) {
            continue;
        }
        if let Some(packet) = sctp(frame) {
            found.abort += u64::from(chunks(packet.chunks).contains(&6));
            continue;
        }
        let Some((protocol, body)) = payload(frame) else {
            continue;
        };
        let byte = |at: usize| body.get(at).copied();
        match protocol {
            1 => found.unreachable += u64::from(byte(0) == Some(3) && byte(1) != Some(4)),
            58 => found.unreachable += u64::from(byte(0) == Some(1)),
            6 => found.reset += u64::from(byte(13).is_some_and(|flags| flags & 4 != 0)),
            17 => {
                let gtp = body.get(2..4) == Some(&2152u16.to_be_bytes());
                found.error_indication += u64::from(gtp && byte(9) == Some(26));
            }
            _ => {}
        }
    }
    found
}

/// Protocol and payload of an IP packet that is no later fragment.
pub(super) fn payload(frame: &[u8]) -> Option<(u8, &[u8])> {
    let ip = frame.get(14..)?;
    match frame.get(12..14)? {
        [8, 0] => {
            let later = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x1fff;
            let header = usize::from(ip.first()? & 15) * 4;
            (later == 0).then_some((*ip.get(9)?, ip.get(header..)?))
        }
        [0x86, 0xdd] => Some((*ip.get(6)?, ip.get(40..)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn each_kind_is_known() {
        let v4 = |protocol: u8, body: &[u8]| {
            let mut f = vec![0; 12];
            let len = u16::try_from(20 + body.len()).expect("short").to_be_bytes();
            f.extend([8, 0, 0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, protocol]);
            f.extend([0; 10]);
            f.extend_from_slice(body);
            f
        };
        let gtp = |kind: u8| [&[0, 1, 8, 104, 0, 0, 0, 0, 0x32, kind][..], &[0; 8]].concat();
        let frames = [
            v4(
                132,
                &[[0; 12], [6, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]].concat(),
            ),
            v4(1, &[3, 3, 0, 0]),
            v4(1, &[3, 4, 0, 0]),
            v4(6, &[0; 20]),
            v4(6, &[[0; 13], [4; 13]].concat()),
            v4(17, &gtp(26)),
            v4(17, &gtp(255)),
            {
                let mut own = v4(1, &[3, 3, 0, 0]);
                own[6..12].copy_from_slice(&PEER);
                own
            },
        ];
        let mut pcap = vec![0; 24];
        for f in frames {
            let len = u32::try_from(f.len()).expect("short").to_le_bytes();
            pcap.extend([5u32.to_le_bytes(), [0; 4], len, len].concat());
            pcap.extend(f);
        }
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        let expect = Answers {
            abort: 1,
            unreachable: 1,
            error_indication: 1,
            reset: 1,
        };
        assert_eq!(count(&pcap, at(0), at(9)), expect);
        assert_eq!(count(&pcap, at(6), at(9)), Answers::default());
    }
}
