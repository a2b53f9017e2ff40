// SPDX-License-Identifier: GPL-2.0-only
//! The table of options, in the order in which they are set.
//!
//! Not here, because another option or the association carries it:
//! `SCTP_EVENT` (a type at a time what `SCTP_EVENTS` holds),
//! `SCTP_DEFAULT_SNDINFO` (part of `SCTP_DEFAULT_SEND_PARAM`),
//! `SCTP_PEER_ADDR_THLDS` (part of version 2), `SCTP_PRIMARY_ADDR` (a path's
//! flag), `SCTP_STREAM_SCHEDULER_VALUE` (the streams), `SCTP_AUTH_CHUNK`,
//! `SCTP_HMAC_IDENT` and the keys (the kernel companion reads them).

/// When an option is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before `bind`: most of them.
    Unbound,
    /// After `bind`, before there is an association.
    Bound,
}

/// How an option is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// As it was read.
    AsRead,
    /// A buffer size, with the option that may exceed the system's limit.
    Buffer { force: i32 },
    /// `struct sctp_sndrcvinfo`.
    SendParam,
    /// As it was read; with an association the kernel returns something else,
    /// and the association carries the value.
    Alone,
}

/// One option.
pub(super) struct Entry {
    pub(super) level: i32,
    pub(super) name: i32,
    pub(super) text: &'static str,
    /// Longest value.
    pub(super) len: usize,
    pub(super) stage: Stage,
    pub(super) how: How,
}

/// Flags `SCTP_DEFAULT_SEND_PARAM` takes: UNORDERED, ADDR_OVER, ABORT, EOF.
pub(super) const SETTABLE_SEND_FLAGS: u16 = 1 | 2 | 4 | 0x200;

const SOCKET: i32 = libc::SOL_SOCKET;
const SCTP: i32 = libc::IPPROTO_SCTP;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
/// `struct sctp_assoc_value`.
const ASSOC_VALUE: usize = 8;

const fn at(level: i32, name: i32, text: &'static str, len: usize) -> Entry {
    Entry {
        level,
        name,
        text,
        len,
        stage: Stage::Unbound,
        how: How::AsRead,
    }
}

const fn how(entry: Entry, how: How) -> Entry {
    Entry { how, ..entry }
}

const fn bound(entry: Entry) -> Entry {
    Entry {
        stage: Stage::Bound,
        ..entry
    }
}

pub(super) const TABLE: &[Entry] = &[
    // Which addresses and ports may be shared and seen: before all else.
    at(SOCKET, libc::SO_REUSEADDR, "SO_REUSEADDR", 4),
    at(SOCKET, libc::SO_REUSEPORT, "SO_REUSEPORT", 4),
    at(
        SOCKET,
        libc::SO_BINDTODEVICE,
        "SO_BINDTODEVICE",
        libc::IFNAMSIZ,
    ),
    at(SCTP, 36, "SCTP_REUSE_PORT", 4),
    at(IPV6, libc::IPV6_V6ONLY, "IPV6_V6ONLY", 4),
    at(IP, libc::IP_FREEBIND, "IP_FREEBIND", 4),
    at(IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT", 4),
    at(IPV6, 78, "IPV6_FREEBIND", 4),
    at(IPV6, libc::IPV6_TRANSPARENT, "IPV6_TRANSPARENT", 4),
    // Buffers; SO_BUF_LOCK tells which of them the application has set itself.
    how(
        at(SOCKET, libc::SO_RCVBUF, "SO_RCVBUF", 4),
        How::Buffer {
            force: libc::SO_RCVBUFFORCE,
        },
    ),
    how(
        at(SOCKET, libc::SO_SNDBUF, "SO_SNDBUF", 4),
        How::Buffer {
            force: libc::SO_SNDBUFFORCE,
        },
    ),
    at(SOCKET, 72, "SO_BUF_LOCK", 4),
    at(SOCKET, libc::SO_RCVLOWAT, "SO_RCVLOWAT", 4),
    at(SOCKET, libc::SO_RCVTIMEO, "SO_RCVTIMEO", 16),
    at(SOCKET, libc::SO_SNDTIMEO, "SO_SNDTIMEO", 16),
    at(SOCKET, libc::SO_LINGER, "SO_LINGER", 8),
    at(SOCKET, libc::SO_KEEPALIVE, "SO_KEEPALIVE", 4),
    at(SOCKET, libc::SO_OOBINLINE, "SO_OOBINLINE", 4),
    at(SOCKET, libc::SO_BROADCAST, "SO_BROADCAST", 4),
    at(SOCKET, libc::SO_DONTROUTE, "SO_DONTROUTE", 4),
    at(SOCKET, libc::SO_MARK, "SO_MARK", 4),
    // Setting one to 0 clears the others: they are set only where they differ.
    at(SOCKET, libc::SO_TIMESTAMP, "SO_TIMESTAMP", 4),
    at(SOCKET, libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS", 4),
    at(SOCKET, 63, "SO_TIMESTAMP_NEW", 4),
    at(SOCKET, 64, "SO_TIMESTAMPNS_NEW", 4),
    at(SOCKET, libc::SO_TIMESTAMPING, "SO_TIMESTAMPING", 8),
    at(SOCKET, 65, "SO_TIMESTAMPING_NEW", 8),
    at(SOCKET, libc::SO_RXQ_OVFL, "SO_RXQ_OVFL", 4),
    at(SOCKET, 75, "SO_RCVMARK", 4),
    // IP; the type of service sets the priority too.
    at(IP, libc::IP_TOS, "IP_TOS", 4),
    at(IP, libc::IP_TTL, "IP_TTL", 4),
    at(IP, libc::IP_MINTTL, "IP_MINTTL", 4),
    at(IP, libc::IP_MTU_DISCOVER, "IP_MTU_DISCOVER", 4),
    at(IP, libc::IP_RECVERR, "IP_RECVERR", 4),
    at(IP, libc::IP_PKTINFO, "IP_PKTINFO", 4),
    at(IPV6, libc::IPV6_TCLASS, "IPV6_TCLASS", 4),
    at(IPV6, libc::IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS", 4),
    at(IPV6, libc::IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER", 4),
    at(IPV6, libc::IPV6_RECVERR, "IPV6_RECVERR", 4),
    at(IPV6, libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO", 4),
    at(IPV6, libc::IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT", 4),
    at(IPV6, libc::IPV6_RECVTCLASS, "IPV6_RECVTCLASS", 4),
    at(IPV6, 70, "IPV6_AUTOFLOWLABEL", 4),
    at(
        IPV6,
        libc::IPV6_ADDR_PREFERENCES,
        "IPV6_ADDR_PREFERENCES",
        4,
    ),
    at(SOCKET, libc::SO_PRIORITY, "SO_PRIORITY", 4),
    // SCTP: what every association of the socket starts with.
    at(SCTP, 0, "SCTP_RTOINFO", 16),
    at(SCTP, 1, "SCTP_ASSOCINFO", 20),
    at(SCTP, 2, "SCTP_INITMSG", 8),
    at(SCTP, 3, "SCTP_NODELAY", 4),
    at(SCTP, 4, "SCTP_AUTOCLOSE", 4),
    at(SCTP, 7, "SCTP_ADAPTATION_LAYER", 4),
    at(SCTP, 8, "SCTP_DISABLE_FRAGMENTS", 4),
    at(SCTP, 9, "SCTP_PEER_ADDR_PARAMS", 156),
    at(SCTP, 37, "SCTP_PEER_ADDR_THLDS_V2", 144),
    at(SCTP, 16, "SCTP_DELAYED_SACK", 12),
    at(SCTP, 132, "SCTP_REMOTE_UDP_ENCAPS_PORT", 144),
    at(SCTP, 133, "SCTP_PLPMTUD_PROBE_INTERVAL", 144),
    how(at(SCTP, 10, "SCTP_DEFAULT_SEND_PARAM", 32), How::SendParam),
    at(SCTP, 114, "SCTP_DEFAULT_PRINFO", 12),
    // Longer than any kernel's struct sctp_event_subscribe.
    at(SCTP, 11, "SCTP_EVENTS", 64),
    at(SCTP, 12, "SCTP_I_WANT_MAPPED_V4_ADDR", 4),
    how(at(SCTP, 13, "SCTP_MAXSEG", ASSOC_VALUE), How::Alone),
    at(SCTP, 17, "SCTP_CONTEXT", ASSOC_VALUE),
    at(SCTP, 18, "SCTP_FRAGMENT_INTERLEAVE", 4),
    at(SCTP, 19, "SCTP_PARTIAL_DELIVERY_POINT", 4),
    at(SCTP, 20, "SCTP_MAX_BURST", ASSOC_VALUE),
    at(SCTP, 32, "SCTP_RECVRCVINFO", 4),
    at(SCTP, 33, "SCTP_RECVNXTINFO", 4),
    at(SCTP, 113, "SCTP_PR_SUPPORTED", ASSOC_VALUE),
    at(SCTP, 117, "SCTP_RECONFIG_SUPPORTED", ASSOC_VALUE),
    at(SCTP, 118, "SCTP_ENABLE_STREAM_RESET", ASSOC_VALUE),
    at(SCTP, 123, "SCTP_STREAM_SCHEDULER", ASSOC_VALUE),
    at(SCTP, 125, "SCTP_INTERLEAVING_SUPPORTED", ASSOC_VALUE),
    // Before the one that may depend on it (RFC 5061, 4.2.7).
    at(SCTP, 129, "SCTP_AUTH_SUPPORTED", ASSOC_VALUE),
    at(SCTP, 128, "SCTP_ASCONF_SUPPORTED", ASSOC_VALUE),
    at(SCTP, 130, "SCTP_ECN_SUPPORTED", ASSOC_VALUE),
    at(
        SCTP,
        131,
        "SCTP_EXPOSE_POTENTIALLY_FAILED_STATE",
        ASSOC_VALUE,
    ),
    // Asks that the socket be bound to any address.
    bound(at(SCTP, 30, "SCTP_AUTO_ASCONF", 4)),
];
