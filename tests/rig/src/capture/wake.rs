// SPDX-License-Identifier: GPL-2.0-only
//! How soon a conversation goes on after a silence, as the peer's wire shows it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{answers::payload, chunks, records, sctp};

/// DATA and I-DATA (RFC 9260, 3.3.1; RFC 8260, 2.1).
const DATA: [u8; 2] = [0, 64];

/// One association around the longest silence of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// How long the service was silent.
    pub outage: Duration,
    /// From the first packet of the service to the first of the peer that answers it.
    pub round_trip: Duration,
    /// From the first packet of the service to its first message.
    pub down: Duration,
    /// From the first packet of the service to the peer's first message.
    pub up: Duration,
    /// From the first packet of the service to the moment the peer's T3-rtx timer would have fired next, were each
    /// interval twice the one before (RFC 9260, 6.3.3, E2). None when the peer has not tried twice.
    pub timer: Option<Duration>,
    /// An ICMP message that asks for shorter packets was ahead of the first packet of the service.
    pub is_nudged_first: bool,
}

/// A packet of an association, or about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    when: SystemTime,
    what: What,
    /// Has DATA.
    message: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    OfService,
    OfPeer,
    Nudge,
}

/// Every association of the port that was silent after `from` and spoke again.
pub fn wakes(pcap: &[u8], port: u16, from: SystemTime) -> Vec<Wake> {
    // By the peer's port.
    let mut heard: BTreeMap<u16, Vec<Heard>> = BTreeMap::new();
    for (when, frame) in records(pcap).filter(|(when, _)| *when >= from) {
        let (what, association, message) = if let Some(packet) = sctp(frame) {
            let (_, _, source, dest) = packet.flow;
            let message = chunks(packet.chunks).iter().any(|k| DATA.contains(k));
            match () {
                () if source == port => (What::OfService, dest, message),
                () if dest == port => (What::OfPeer, source, message),
                () => continue,
            }
        } else if let Some((peer, service)) = nudge(frame) {
            if service != port {
                continue;
            }
            (What::Nudge, peer, false)
        } else {
            continue;
        };
        heard.entry(association).or_default().push(Heard {
            when,
            what,
            message,
        });
    }
    heard.values().filter_map(|h| wake(h)).collect()
}

/// The ports of the packet for which an ICMP message asks for shorter ones, source first.
fn nudge(frame: &[u8]) -> Option<(u16, u16)> {
    let (protocol, body) = payload(frame)?;
    let quoted = body.get(8..)?;
    let header = match (protocol, body.get(..2)?) {
        (1, [3, 4]) => usize::from(quoted.first()? & 15) * 4,
        (58, [2, 0]) => 40,
        _ => return None,
    };
    let half = |at: usize| {
        let bytes = quoted.get(header + at..header + at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    Some((half(0)?, half(2)?))
}

fn wake(heard: &[Heard]) -> Option<Wake> {
    let since = |later: SystemTime, earlier| later.duration_since(earlier).unwrap_or_default();
    let service: Vec<usize> = (0..heard.len())
        .filter(|i| heard.get(*i).is_some_and(|h| h.what == What::OfService))
        .collect();
    let (last, first) = service
        .windows(2)
        .filter_map(|w| Some((*w.first()?, *w.last()?)))
        .max_by_key(|(a, b)| Some(since(heard.get(*b)?.when, heard.get(*a)?.when)))?;
    let (silence, after) = (heard.get(last..first)?, heard.get(first..)?);
    let (fell, spoke) = (silence.first()?.when, after.first()?.when);
    let first = |what: What, message: bool| {
        let mut found = after.iter();
        found
            .find(|h| h.what == what && (h.message || !message))
            .map(|h| since(h.when, spoke))
    };
    let tries: Vec<SystemTime> = silence
        .iter()
        .filter(|h| h.what == What::OfPeer && h.message)
        .map(|h| h.when)
        .collect();
    // Intervals double, and a try may be of several packets: the longest interval was the last.
    let interval = tries
        .windows(2)
        .filter_map(|w| Some(since(*w.last()?, *w.first()?)))
        .max();
    let next = tries.last().zip(interval).map(|(last, i)| *last + 2 * i);
    Some(Wake {
        outage: since(spoke, fell),
        round_trip: first(What::OfPeer, false)?,
        down: first(What::OfService, true)?,
        up: first(What::OfPeer, true)?,
        timer: next.map(|n| since(n, spoke)),
        is_nudged_first: silence.iter().any(|h| h.what == What::Nudge),
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_wake_is_measured_from_the_first_packet_of_the_service() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let heard = [
            (0, What::OfService, true),
            (1000, What::OfPeer, true),
            (3000, What::OfPeer, true),
            (5000, What::Nudge, false),
            (5000, What::OfService, false),
            (5003, What::OfPeer, false),
            (5004, What::OfService, true),
            (5006, What::OfPeer, true),
        ]
        .map(|(when, what, message)| Heard {
            when: at(when),
            what,
            message,
        });
        let expect = Wake {
            outage: ms(5000),
            round_trip: ms(3),
            down: ms(4),
            up: ms(6),
            timer: Some(ms(2000)),
            is_nudged_first: true,
        };
        assert_eq!(wake(&heard), Some(expect));
        assert_eq!(wake(&heard[..6]), None);
        let mut late = heard;
        late.swap(3, 4);
        assert!(!wake(&late).is_some_and(|w| w.is_nudged_first));
    }

    #[test]
    fn a_message_that_asks_for_less_names_its_association() {
        let quoted = |header: usize| {
            let mut q = vec![0; header];
            q[0] = 0x45;
            q.extend([0x9c, 0x40, 0x8e, 0x3c]);
            q
        };
        let v4 = |kind: [u8; 2]| {
            let mut f = vec![0; 12];
            f.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1]);
            f.extend([0; 10]);
            f.extend(kind);
            f.extend([0; 6]);
            f.extend(quoted(20));
            f
        };
        assert_eq!(nudge(&v4([3, 4])), Some((40000, 36412)));
        assert_eq!(nudge(&v4([3, 3])), None);
        let mut v6 = vec![0; 12];
        v6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 58, 64]);
        v6.extend([0; 32]);
        v6.extend([2, 0, 0, 0, 0, 0, 0, 0]);
        v6.extend(quoted(40));
        assert_eq!(nudge(&v6), Some((40000, 36412)));
        assert_eq!(nudge(&v6[..100]), None);
    }
}
