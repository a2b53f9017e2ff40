// SPDX-License-Identifier: GPL-2.0-only
//! How soon a conversation goes on after a silence, as the peer's wire shows it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{chunks, records, sctp};

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
}

/// Every association of the port that was silent after `from` and spoke again.
pub fn wakes(pcap: &[u8], port: u16, from: SystemTime) -> Vec<Wake> {
    // By the peer's port: who spoke when, and was it a message?
    let mut heard: BTreeMap<u16, Vec<(SystemTime, bool, bool)>> = BTreeMap::new();
    for (when, frame) in records(pcap).filter(|(when, _)| *when >= from) {
        let Some(packet) = sctp(frame) else { continue };
        let (_, _, source, dest) = packet.flow;
        let service = source == port;
        if service || dest == port {
            let message = chunks(packet.chunks).iter().any(|k| DATA.contains(k));
            let association = if service { dest } else { source };
            heard
                .entry(association)
                .or_default()
                .push((when, service, message));
        }
    }
    heard.values().filter_map(|h| wake(h)).collect()
}

fn wake(heard: &[(SystemTime, bool, bool)]) -> Option<Wake> {
    let since = |later: SystemTime, earlier| later.duration_since(earlier).unwrap_or_default();
    let service: Vec<SystemTime> = heard.iter().filter(|h| h.1).map(|h| h.0).collect();
    let (fell, spoke) = service
        .windows(2)
        .filter_map(|w| Some((*w.first()?, *w.last()?)))
        .max_by_key(|(a, b)| since(*b, *a))?;
    let first = |of_service: bool, message: bool| {
        heard
            .iter()
            .find(|(when, s, m)| *when >= spoke && *s == of_service && (*m || !message))
            .map(|h| since(h.0, spoke))
    };
    let tries: Vec<SystemTime> = heard
        .iter()
        .filter(|(when, s, m)| *when > fell && *when < spoke && !*s && *m)
        .map(|h| h.0)
        .collect();
    // Intervals double, and a try may be of several packets: the longest interval was the last.
    let interval = tries
        .windows(2)
        .filter_map(|w| Some(since(*w.last()?, *w.first()?)))
        .max();
    let next = tries.last().zip(interval).map(|(last, i)| *last + 2 * i);
    Some(Wake {
        outage: since(spoke, fell),
        round_trip: first(false, false)?,
        down: first(true, true)?,
        up: first(false, true)?,
        timer: next.map(|n| since(n, spoke)),
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
            (at(0), true, true),
            (at(1000), false, true),
            (at(3000), false, true),
            (at(5000), true, false),
            (at(5003), false, false),
            (at(5004), true, true),
            (at(5006), false, true),
        ];
        let expect = Wake {
            outage: ms(5000),
            round_trip: ms(3),
            down: ms(4),
            up: ms(6),
            timer: Some(ms(2000)),
        };
        assert_eq!(wake(&heard), Some(expect));
        assert_eq!(wake(&heard[..5]), None);
    }
}
