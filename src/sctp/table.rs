// SPDX-License-Identifier: GPL-2.0-only
//! Which field of the image is which netlink attribute.
//!
//! The message types generated from `proto/telecr.proto` are the plain data
//! between kernel and image. A new field of state is one line in the `.proto`
//! file and one line here; anything the kernel reports that has no line here
//! is refused, so that nothing is lost in silence.

use super::uapi::*;
use super::{Error, Result};
use crate::netlink::attr::{get_u16, get_u32, get_uint};
use crate::netlink::{Attrs, Writer};
use crate::proto::{
    Abandoned, Association, Chunk, Endpoint, Key, Path, Stats, StreamEntry, Streams,
};

/// A message with a counterpart among the kernel's attribute sets.
pub(crate) trait Carried: Sized + Default {
    /// Reads what the kernel sent.
    fn from_attrs(attrs: Attrs<'_>) -> Result<Self>;
    /// Writes what the kernel is to set.
    fn to_attrs(&self, out: &mut Writer) -> Result<()>;
}

/// Attribute numbers are small; bindgen makes them `u32`.
pub(super) const fn number(attr: u32) -> u16 {
    assert!(attr < 0x4000, "attribute number");
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    {
        attr as u16
    }
}

fn put_message(attr: u16, msg: &impl Carried, out: &mut Writer) -> Result<()> {
    let mut inner = Writer::new();
    msg.to_attrs(&mut inner)?;
    Ok(out.put_nest(attr, &inner)?)
}

macro_rules! read {
    (u16, $to:expr, $value:expr) => {
        $to = Some(u32::from(get_u16($value)?))
    };
    (u32, $to:expr, $value:expr) => {
        $to = Some(get_u32($value)?)
    };
    (uint, $to:expr, $value:expr) => {
        $to = Some(get_uint($value)?)
    };
    (bytes, $to:expr, $value:expr) => {
        $to = Some($value.to_vec())
    };
    (many, $to:expr, $value:expr) => {
        $to.push($value.to_vec())
    };
    (nest, $to:expr, $value:expr) => {
        $to = Some(Carried::from_attrs(Attrs::new($value))?)
    };
    (nests, $to:expr, $value:expr) => {
        $to.push(Carried::from_attrs(Attrs::new($value))?)
    };
}

macro_rules! write {
    (u16, $msg:ident, $from:expr, $attr:expr, $out:expr, $field:expr) => {
        if let Some(v) = $from {
            let v = u16::try_from(v).map_err(|_| Error::OutOfRange {
                of: stringify!($msg),
                field: $field,
            })?;
            $out.put_u16($attr, v)?;
        }
    };
    (u32, $msg:ident, $from:expr, $attr:expr, $out:expr, $field:expr) => {
        if let Some(v) = $from {
            $out.put_u32($attr, v)?;
        }
    };
    (uint, $msg:ident, $from:expr, $attr:expr, $out:expr, $field:expr) => {
        if let Some(v) = $from {
            $out.put_uint($attr, v)?;
        }
    };
    (bytes, $msg:ident, $from:expr, $attr:expr, $out:expr, $field:expr) => {
        if let Some(v) = &$from {
            $out.put($attr, v)?;
        }
    };
    (many, $msg:ident, $from:expr, $attr:expr, $out:expr, $field:expr) => {
        for v in &$from {
            $out.put($attr, v)?;
        }
    };
    (nest, $msg:ident, $from:expr, $attr:expr, $out:expr, $field:expr) => {
        if let Some(v) = &$from {
            put_message($attr, v, $out)?;
        }
    };
    (nests, $msg:ident, $from:expr, $attr:expr, $out:expr, $field:expr) => {
        for v in &$from {
            put_message($attr, v, $out)?;
        }
    };
}

/// `kind field = attribute`; kinds are `u16`, `u32`, `uint` (of up to 64 bits),
/// `bytes`, `many` (bytes, any number of times), `nest` (a message) and `nests`
/// (messages, any number of times). After `skip` stand attributes the kernel
/// reports and the image does not hold.
macro_rules! table {
    ($msg:ident { $($kind:ident $field:ident = $attr:ident,)* } $(skip { $($skip:ident,)* })?) => {
        impl Carried for $msg {
            fn from_attrs(attrs: Attrs<'_>) -> Result<Self> {
                $(const { number($attr) };)*
                let mut msg = Self::default();
                for attr in attrs {
                    let (kind, value) = attr?;
                    match u32::from(kind) {
                        $($attr => read!($kind, msg.$field, value),)*
                        $($($skip => {})*)?
                        _ => return Err(Error::UnknownAttribute { of: stringify!($msg), attr: kind }),
                    }
                }
                Ok(msg)
            }

            fn to_attrs(&self, out: &mut Writer) -> Result<()> {
                $(write!($kind, $msg, self.$field, number($attr), out, stringify!($field));)*
                Ok(())
            }
        }
    };
}

table! { Endpoint {
    u32 state = SCTP_REPAIR_A_SOCK_STATE,
    u32 r#type = SCTP_REPAIR_A_SOCK_TYPE,
    u32 backlog = SCTP_REPAIR_A_SOCK_BACKLOG,
    u32 shutdown = SCTP_REPAIR_A_SOCK_SHUTDOWN,
    u32 error = SCTP_REPAIR_A_SOCK_ERROR,
    bytes secret = SCTP_REPAIR_A_SOCK_SECRET,
    u16 port = SCTP_REPAIR_A_SOCK_PORT,
    many addrs = SCTP_REPAIR_A_SOCK_ADDR,
    u32 peeled_off = SCTP_REPAIR_A_SOCK_PEELED_OFF,
    bytes auth_hmacs = SCTP_REPAIR_A_SOCK_AUTH_HMACS,
    bytes auth_chunks = SCTP_REPAIR_A_SOCK_AUTH_CHUNKS,
    nests keys = SCTP_REPAIR_A_SOCK_KEY,
    u16 active_key = SCTP_REPAIR_A_SOCK_ACTIVE_KEY,
} skip {
    SCTP_REPAIR_A_SOCK_MODE,
    SCTP_REPAIR_A_SOCK_ASSOCS,
}}

table! { Key {
    u16 id = SCTP_REPAIR_A_KEY_ID,
    bytes data = SCTP_REPAIR_A_KEY_DATA,
    u32 deactivated = SCTP_REPAIR_A_KEY_DEACTIVATED,
}}

table! { Association {
    u32 id = SCTP_REPAIR_A_ASSOC_ID,
    u32 state = SCTP_REPAIR_A_ASSOC_STATE,
    u16 local_port = SCTP_REPAIR_A_ASSOC_LOCAL_PORT,
    u16 peer_port = SCTP_REPAIR_A_ASSOC_PEER_PORT,
    many local_addrs = SCTP_REPAIR_A_ASSOC_LOCAL_ADDR,
    nests paths = SCTP_REPAIR_A_ASSOC_PATH,
    u32 my_vtag = SCTP_REPAIR_A_ASSOC_MY_VTAG,
    u32 peer_vtag = SCTP_REPAIR_A_ASSOC_PEER_VTAG,
    u32 my_ttag = SCTP_REPAIR_A_ASSOC_MY_TTAG,
    u32 peer_ttag = SCTP_REPAIR_A_ASSOC_PEER_TTAG,
    u32 initial_tsn = SCTP_REPAIR_A_ASSOC_INITIAL_TSN,
    u32 peer_initial_tsn = SCTP_REPAIR_A_ASSOC_PEER_INITIAL_TSN,
    u32 next_tsn = SCTP_REPAIR_A_ASSOC_NEXT_TSN,
    u32 ctsn_ack_point = SCTP_REPAIR_A_ASSOC_CTSN_ACK_POINT,
    u32 adv_peer_ack_point = SCTP_REPAIR_A_ASSOC_ADV_PEER_ACK_POINT,
    u32 highest_sacked = SCTP_REPAIR_A_ASSOC_HIGHEST_SACKED,
    u32 peer_cum_tsn = SCTP_REPAIR_A_ASSOC_PEER_CUM_TSN,
    bytes peer_tsn_map = SCTP_REPAIR_A_ASSOC_PEER_TSN_MAP,
    u16 in_streams = SCTP_REPAIR_A_ASSOC_IN_STREAMS,
    u16 out_streams = SCTP_REPAIR_A_ASSOC_OUT_STREAMS,
    u16 init_in_streams = SCTP_REPAIR_A_ASSOC_INIT_IN_STREAMS,
    u16 init_out_streams = SCTP_REPAIR_A_ASSOC_INIT_OUT_STREAMS,
    u32 features = SCTP_REPAIR_A_ASSOC_FEATURES,
    u32 peer_rwnd = SCTP_REPAIR_A_ASSOC_PEER_RWND,
    u32 adaptation = SCTP_REPAIR_A_ASSOC_ADAPTATION,
    u32 peer_adaptation = SCTP_REPAIR_A_ASSOC_PEER_ADAPTATION,
    u32 overall_error_count = SCTP_REPAIR_A_ASSOC_OVERALL_ERROR_COUNT,
    u32 rto_initial = SCTP_REPAIR_A_ASSOC_RTO_INITIAL,
    u32 rto_min = SCTP_REPAIR_A_ASSOC_RTO_MIN,
    u32 rto_max = SCTP_REPAIR_A_ASSOC_RTO_MAX,
    u32 max_retrans = SCTP_REPAIR_A_ASSOC_MAX_RETRANS,
    u32 pathmaxrxt = SCTP_REPAIR_A_ASSOC_PATHMAXRXT,
    u32 pf_retrans = SCTP_REPAIR_A_ASSOC_PF_RETRANS,
    u32 ps_retrans = SCTP_REPAIR_A_ASSOC_PS_RETRANS,
    u32 pf_expose = SCTP_REPAIR_A_ASSOC_PF_EXPOSE,
    u32 hbinterval = SCTP_REPAIR_A_ASSOC_HBINTERVAL,
    u32 probe_interval = SCTP_REPAIR_A_ASSOC_PROBE_INTERVAL,
    u32 sackdelay = SCTP_REPAIR_A_ASSOC_SACKDELAY,
    u32 sackfreq = SCTP_REPAIR_A_ASSOC_SACKFREQ,
    u32 param_flags = SCTP_REPAIR_A_ASSOC_PARAM_FLAGS,
    u32 max_burst = SCTP_REPAIR_A_ASSOC_MAX_BURST,
    u32 cookie_life = SCTP_REPAIR_A_ASSOC_COOKIE_LIFE,
    u16 default_stream = SCTP_REPAIR_A_ASSOC_DEFAULT_STREAM,
    u16 default_flags = SCTP_REPAIR_A_ASSOC_DEFAULT_FLAGS,
    u32 default_ppid = SCTP_REPAIR_A_ASSOC_DEFAULT_PPID,
    u32 default_context = SCTP_REPAIR_A_ASSOC_DEFAULT_CONTEXT,
    u32 default_timetolive = SCTP_REPAIR_A_ASSOC_DEFAULT_TIMETOLIVE,
    u32 default_rcv_context = SCTP_REPAIR_A_ASSOC_DEFAULT_RCV_CONTEXT,
    u32 user_frag = SCTP_REPAIR_A_ASSOC_USER_FRAG,
    u32 subscribe = SCTP_REPAIR_A_ASSOC_SUBSCRIBE,
    u32 autoclose = SCTP_REPAIR_A_ASSOC_AUTOCLOSE,
    u32 flowlabel = SCTP_REPAIR_A_ASSOC_FLOWLABEL,
    u32 dscp = SCTP_REPAIR_A_ASSOC_DSCP,
    u32 addip_serial = SCTP_REPAIR_A_ASSOC_ADDIP_SERIAL,
    u32 peer_addip_serial = SCTP_REPAIR_A_ASSOC_PEER_ADDIP_SERIAL,
    u32 strreset_enable = SCTP_REPAIR_A_ASSOC_STRRESET_ENABLE,
    u32 strreset_outseq = SCTP_REPAIR_A_ASSOC_STRRESET_OUTSEQ,
    u32 strreset_inseq = SCTP_REPAIR_A_ASSOC_STRRESET_INSEQ,
    bytes strreset_result = SCTP_REPAIR_A_ASSOC_STRRESET_RESULT,
    u32 last_ecne_tsn = SCTP_REPAIR_A_ASSOC_LAST_ECNE_TSN,
    u32 last_cwr_tsn = SCTP_REPAIR_A_ASSOC_LAST_CWR_TSN,
    u32 need_ecne = SCTP_REPAIR_A_ASSOC_NEED_ECNE,
    u32 scheduler = SCTP_REPAIR_A_ASSOC_SCHEDULER,
    u32 pd_mode = SCTP_REPAIR_A_ASSOC_PD_MODE,
    u16 encap_port = SCTP_REPAIR_A_ASSOC_ENCAP_PORT,
    u32 accepted = SCTP_REPAIR_A_ASSOC_ACCEPTED,
    u32 init_retries = SCTP_REPAIR_A_ASSOC_INIT_RETRIES,
    u32 strreset_outstanding = SCTP_REPAIR_A_ASSOC_STRRESET_OUTSTANDING,
    u16 addip_disabled = SCTP_REPAIR_A_ASSOC_ADDIP_DISABLED,
    u16 udp_port = SCTP_REPAIR_A_ASSOC_UDP_PORT,
    u32 autoclose_left = SCTP_REPAIR_A_ASSOC_AUTOCLOSE_LEFT,
    bytes cookie = SCTP_REPAIR_A_ASSOC_COOKIE,
    bytes del_pending = SCTP_REPAIR_A_ASSOC_DEL_PENDING,
    many local_addrs_new = SCTP_REPAIR_A_ASSOC_LOCAL_ADDR_NEW,
    many local_addrs_del = SCTP_REPAIR_A_ASSOC_LOCAL_ADDR_DEL,
    bytes auth_random = SCTP_REPAIR_A_ASSOC_AUTH_RANDOM,
    bytes auth_hmacs = SCTP_REPAIR_A_ASSOC_AUTH_HMACS,
    bytes auth_chunks = SCTP_REPAIR_A_ASSOC_AUTH_CHUNKS,
    bytes peer_random = SCTP_REPAIR_A_ASSOC_PEER_RANDOM,
    bytes peer_hmacs = SCTP_REPAIR_A_ASSOC_PEER_HMACS,
    bytes peer_chunks = SCTP_REPAIR_A_ASSOC_PEER_CHUNKS,
    nests keys = SCTP_REPAIR_A_ASSOC_KEY,
    u16 active_key = SCTP_REPAIR_A_ASSOC_ACTIVE_KEY,
    u32 shutdown_left = SCTP_REPAIR_A_ASSOC_SHUTDOWN_LEFT,
    bytes label = SCTP_REPAIR_A_ASSOC_LABEL,
    bytes peer_label = SCTP_REPAIR_A_ASSOC_PEER_LABEL,
    nest stats = SCTP_REPAIR_A_ASSOC_STATS,
    nest abandoned = SCTP_REPAIR_A_ASSOC_ABANDONED,
    bytes dup_tsns = SCTP_REPAIR_A_ASSOC_DUP_TSNS,
}}

table! { Stats {
    u32 max_obs_rto = SCTP_REPAIR_A_STATS_MAX_OBS_RTO,
    bytes obs_rto_addr = SCTP_REPAIR_A_STATS_OBS_RTO_ADDR,
    uint isacks = SCTP_REPAIR_A_STATS_ISACKS,
    uint osacks = SCTP_REPAIR_A_STATS_OSACKS,
    uint opackets = SCTP_REPAIR_A_STATS_OPACKETS,
    uint ipackets = SCTP_REPAIR_A_STATS_IPACKETS,
    uint rtxchunks = SCTP_REPAIR_A_STATS_RTXCHUNKS,
    uint outofseqtsns = SCTP_REPAIR_A_STATS_OUTOFSEQTSNS,
    uint idupchunks = SCTP_REPAIR_A_STATS_IDUPCHUNKS,
    uint gapcnt = SCTP_REPAIR_A_STATS_GAPCNT,
    uint ouodchunks = SCTP_REPAIR_A_STATS_OUODCHUNKS,
    uint iuodchunks = SCTP_REPAIR_A_STATS_IUODCHUNKS,
    uint oodchunks = SCTP_REPAIR_A_STATS_OODCHUNKS,
    uint iodchunks = SCTP_REPAIR_A_STATS_IODCHUNKS,
    uint octrlchunks = SCTP_REPAIR_A_STATS_OCTRLCHUNKS,
    uint ictrlchunks = SCTP_REPAIR_A_STATS_ICTRLCHUNKS,
    uint t1_retries = SCTP_REPAIR_A_STATS_T1_RETRIES,
    uint t2_retries = SCTP_REPAIR_A_STATS_T2_RETRIES,
    uint t3_chunks = SCTP_REPAIR_A_STATS_T3_CHUNKS,
}}

table! { Abandoned {
    uint ttl_unsent = SCTP_REPAIR_A_ABANDONED_TTL_UNSENT,
    uint ttl_sent = SCTP_REPAIR_A_ABANDONED_TTL_SENT,
    uint rtx_unsent = SCTP_REPAIR_A_ABANDONED_RTX_UNSENT,
    uint rtx_sent = SCTP_REPAIR_A_ABANDONED_RTX_SENT,
    uint prio_unsent = SCTP_REPAIR_A_ABANDONED_PRIO_UNSENT,
    uint prio_sent = SCTP_REPAIR_A_ABANDONED_PRIO_SENT,
}}

table! { Path {
    bytes addr = SCTP_REPAIR_A_PATH_ADDR,
    bytes saddr = SCTP_REPAIR_A_PATH_SADDR,
    u32 state = SCTP_REPAIR_A_PATH_STATE,
    u32 flags = SCTP_REPAIR_A_PATH_FLAGS,
    u32 cwnd = SCTP_REPAIR_A_PATH_CWND,
    u32 ssthresh = SCTP_REPAIR_A_PATH_SSTHRESH,
    u32 partial_bytes_acked = SCTP_REPAIR_A_PATH_PARTIAL_BYTES_ACKED,
    u32 srtt = SCTP_REPAIR_A_PATH_SRTT,
    u32 rttvar = SCTP_REPAIR_A_PATH_RTTVAR,
    u32 rto = SCTP_REPAIR_A_PATH_RTO,
    u32 pathmtu = SCTP_REPAIR_A_PATH_PATHMTU,
    u32 error_count = SCTP_REPAIR_A_PATH_ERROR_COUNT,
    u32 hbinterval = SCTP_REPAIR_A_PATH_HBINTERVAL,
    u32 probe_interval = SCTP_REPAIR_A_PATH_PROBE_INTERVAL,
    u32 pathmaxrxt = SCTP_REPAIR_A_PATH_PATHMAXRXT,
    u32 pf_retrans = SCTP_REPAIR_A_PATH_PF_RETRANS,
    u32 ps_retrans = SCTP_REPAIR_A_PATH_PS_RETRANS,
    u32 sackdelay = SCTP_REPAIR_A_PATH_SACKDELAY,
    u32 sackfreq = SCTP_REPAIR_A_PATH_SACKFREQ,
    u32 param_flags = SCTP_REPAIR_A_PATH_PARAM_FLAGS,
    u32 flowlabel = SCTP_REPAIR_A_PATH_FLOWLABEL,
    u32 dscp = SCTP_REPAIR_A_PATH_DSCP,
    u16 encap_port = SCTP_REPAIR_A_PATH_ENCAP_PORT,
}}

table! { Streams {
    u32 assoc_id = SCTP_REPAIR_A_STREAM_ASSOC_ID,
    u32 direction = SCTP_REPAIR_A_STREAM_DIRECTION,
    nests entries = SCTP_REPAIR_A_STREAM_ENTRY,
}}

table! { StreamEntry {
    u16 sid = SCTP_REPAIR_A_STREAM_ENTRY_SID,
    u32 next = SCTP_REPAIR_A_STREAM_ENTRY_NEXT,
    u32 next_uo = SCTP_REPAIR_A_STREAM_ENTRY_NEXT_UO,
    u32 state = SCTP_REPAIR_A_STREAM_ENTRY_STATE,
    u32 weight = SCTP_REPAIR_A_STREAM_ENTRY_WEIGHT,
    u32 fsn = SCTP_REPAIR_A_STREAM_ENTRY_FSN,
    u32 fsn_uo = SCTP_REPAIR_A_STREAM_ENTRY_FSN_UO,
    u32 pd_mode = SCTP_REPAIR_A_STREAM_ENTRY_PD_MODE,
    u32 pd_mode_uo = SCTP_REPAIR_A_STREAM_ENTRY_PD_MODE_UO,
    nest abandoned = SCTP_REPAIR_A_STREAM_ENTRY_ABANDONED,
}}

table! { Chunk {
    u32 assoc_id = SCTP_REPAIR_A_CHUNK_ASSOC_ID,
    u32 queue = SCTP_REPAIR_A_CHUNK_QUEUE,
    u32 flags = SCTP_REPAIR_A_CHUNK_FLAGS,
    bytes data = SCTP_REPAIR_A_CHUNK_DATA,
    bytes sinfo = SCTP_REPAIR_A_CHUNK_SINFO,
    u32 sent_count = SCTP_REPAIR_A_CHUNK_SENT_COUNT,
    u32 lifetime = SCTP_REPAIR_A_CHUNK_LIFETIME,
    bytes src = SCTP_REPAIR_A_CHUNK_SRC,
    u16 sid = SCTP_REPAIR_A_CHUNK_SID,
    u32 ssn = SCTP_REPAIR_A_CHUNK_SSN,
    u32 ppid = SCTP_REPAIR_A_CHUNK_PPID,
    u32 fsn = SCTP_REPAIR_A_CHUNK_FSN,
    u32 tsn = SCTP_REPAIR_A_CHUNK_TSN,
    u32 cumtsn = SCTP_REPAIR_A_CHUNK_CUMTSN,
    u32 rcv_flags = SCTP_REPAIR_A_CHUNK_RCV_FLAGS,
    u32 msg_flags = SCTP_REPAIR_A_CHUNK_MSG_FLAGS,
    u16 key = SCTP_REPAIR_A_CHUNK_KEY,
}}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip<T: Carried + PartialEq + std::fmt::Debug>(msg: &T) {
        let mut out = Writer::new();
        msg.to_attrs(&mut out).unwrap();
        assert_eq!(&T::from_attrs(Attrs::new(out.bytes())).unwrap(), msg);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Association::from_attrs(Attrs::new(&bytes));
            let _ = Chunk::from_attrs(Attrs::new(&bytes));
            let _ = Streams::from_attrs(Attrs::new(&bytes));
            let _ = Endpoint::from_attrs(Attrs::new(&bytes));
        }

        #[test]
        fn associations_round_trip(id: u32, vtag: u32, port: u16, cwnd: u32, addr: [u8; 16], packets: u64) {
            round_trip(&Association {
                id: Some(id),
                my_vtag: Some(vtag),
                local_port: Some(port.into()),
                local_addrs: vec![addr.to_vec(), vec![1; 28]],
                paths: vec![Path { addr: Some(addr.to_vec()), cwnd: Some(cwnd), ..Path::default() }],
                stats: Some(Stats { opackets: Some(packets), ..Stats::default() }),
                ..Association::default()
            });
        }

        #[test]
        fn chunks_round_trip(queue: u32, data in proptest::collection::vec(any::<u8>(), 0..2000), tsn: u32, sid: u16) {
            round_trip(&Chunk {
                queue: Some(queue),
                data: Some(data),
                tsn: Some(tsn),
                sid: Some(sid.into()),
                ..Chunk::default()
            });
        }
    }

    #[test]
    fn an_attribute_from_a_newer_kernel_is_refused() {
        let mut out = Writer::new();
        out.put_u32(1000, 1).unwrap();
        let e = Association::from_attrs(Attrs::new(out.bytes())).unwrap_err();
        assert!(
            e.to_string().contains("attribute 1000 of Association"),
            "{e}"
        );
    }

    #[test]
    fn a_port_beyond_16_bits_is_refused() {
        let a = Association {
            peer_port: Some(70000),
            ..Association::default()
        };
        let e = a.to_attrs(&mut Writer::new()).unwrap_err();
        assert!(e.to_string().contains("peer_port of Association"), "{e}");
    }
}
