// SPDX-License-Identifier: GPL-2.0-only
//! One PDP context, and how netlink says it (`gtp_genl_fill_info()` and
//! `gtp_genl_new_pdp()` in `drivers/net/gtp.c`).

use std::fmt;
use std::net::IpAddr;

use super::attribute as a;
use crate::netlink::attr::{get_u16, get_u32, get_u64};
use crate::netlink::{ip, Attrs, Error, Result, Writer};

/// What tells a tunnel's packets from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(untagged)]
pub enum Tunnel {
    /// GTPv0 (GSM TS 09.60).
    V0 {
        /// Tunnel identifier.
        tid: u64,
        /// Flow label.
        flow: u16,
    },
    /// GTPv1-U (3GPP TS 29.281).
    V1 {
        /// TEID of packets that come in.
        i_tei: u32,
        /// TEID of packets that go out.
        o_tei: u32,
    },
}

impl Tunnel {
    /// `enum gtp_version`.
    #[must_use]
    pub fn version(&self) -> u32 {
        match self {
            Self::V0 { .. } => 0,
            Self::V1 { .. } => 1,
        }
    }
}

/// A PDP context: a mobile station, its tunnel, and the GSN at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Pdp {
    /// Interface index of its link.
    #[serde(skip)]
    pub link: u32,
    /// The tunnel.
    #[serde(flatten)]
    pub tunnel: Tunnel,
    /// Address of the mobile station; an IPv6 one is a /64.
    pub ms: IpAddr,
    /// Address of the GSN peer.
    pub peer: IpAddr,
}

impl fmt::Display for Pdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tunnel {
            Tunnel::V0 { tid, flow } => write!(f, "tunnel GTPv0 TID {tid:#018x} flow {flow}")?,
            Tunnel::V1 { i_tei, o_tei } => {
                write!(f, "tunnel TEID {i_tei:#010x}/{o_tei:#010x}")?;
            }
        }
        write!(f, " MS {} peer {}", self.ms, self.peer)
    }
}

impl Pdp {
    /// Whether it needs a kernel that knows IPv6 tunnels.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.ms.is_ipv6() || self.peer.is_ipv6()
    }

    /// Reads what the kernel reports.
    ///
    /// # Errors
    /// An attribute is missing or has another length than it should.
    pub fn read(attrs: Attrs<'_>) -> Result<Self> {
        let (mut link, mut version, mut ms, mut peer) = (None, None, None, None);
        let (mut tid, mut flow, mut i_tei, mut o_tei) = (None, None, None, None);
        // One walk over the attributes: there may be a million of us.
        for attr in attrs {
            let (kind, value) = attr?;
            match kind {
                a::LINK => link = Some(get_u32(value)?),
                a::VERSION => version = Some(get_u32(value)?),
                a::MS_ADDRESS | a::MS_ADDR6 => ms = ip(value),
                a::PEER_ADDRESS | a::PEER_ADDR6 => peer = ip(value),
                a::I_TEI => i_tei = Some(get_u32(value)?),
                a::O_TEI => o_tei = Some(get_u32(value)?),
                a::TID => tid = Some(get_u64(value)?),
                a::FLOW => flow = Some(get_u16(value)?),
                _ => {}
            }
        }
        let tunnel = match (version, i_tei, o_tei, tid, flow) {
            (Some(1), Some(i_tei), Some(o_tei), _, _) => Tunnel::V1 { i_tei, o_tei },
            (Some(0), _, _, Some(tid), Some(flow)) => Tunnel::V0 { tid, flow },
            _ => return Err(Error::Malformed("PDP context without its tunnel")),
        };
        match (link, ms, peer) {
            (Some(link), Some(ms), Some(peer)) => Ok(Self {
                link,
                tunnel,
                ms,
                peer,
            }),
            _ => Err(Error::Malformed("PDP context without its addresses")),
        }
    }

    /// Writes it as the kernel wants it.
    ///
    /// # Errors
    /// Never: all values are short.
    pub fn write(&self, w: &mut Writer) -> Result<()> {
        w.put_u32(a::LINK, self.link)?;
        w.put_u32(a::VERSION, self.tunnel.version())?;
        match self.tunnel {
            Tunnel::V0 { tid, flow } => {
                w.put(a::TID, &tid.to_ne_bytes())?;
                w.put_u16(a::FLOW, flow)?;
            }
            Tunnel::V1 { i_tei, o_tei } => {
                w.put_u32(a::I_TEI, i_tei)?;
                w.put_u32(a::O_TEI, o_tei)?;
            }
        }
        match self.peer {
            IpAddr::V4(p) => w.put(a::PEER_ADDRESS, &p.octets())?,
            IpAddr::V6(p) => w.put(a::PEER_ADDR6, &p.octets())?,
        }
        // Kernels before IPv6 tunnels do not know the family: IPv4 needs none.
        match self.ms {
            IpAddr::V4(ms) => w.put(a::MS_ADDRESS, &ms.octets()),
            IpAddr::V6(ms) => {
                w.put(a::FAMILY, &[FAMILY6])?;
                w.put(a::MS_ADDR6, &ms.octets())
            }
        }
    }

    /// Writes what names it among the others of its link.
    ///
    /// # Errors
    /// Never: all values are short.
    pub fn write_key(&self, w: &mut Writer) -> Result<()> {
        w.put_u32(a::LINK, self.link)?;
        w.put_u32(a::VERSION, self.tunnel.version())?;
        if self.ms.is_ipv6() {
            w.put(a::FAMILY, &[FAMILY6])?;
        }
        match self.tunnel {
            Tunnel::V0 { tid, .. } => w.put(a::TID, &tid.to_ne_bytes()),
            Tunnel::V1 { i_tei, .. } => w.put_u32(a::I_TEI, i_tei),
        }
    }
}

/// `AF_INET6` as `GTPA_FAMILY` wants it.
const FAMILY6: u8 = 10;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any PDP context of a link.
    pub(crate) fn any_pdp(link: u32) -> impl Strategy<Value = Pdp> {
        let tunnel = prop_oneof![
            (any::<u64>(), any::<u16>()).prop_map(|(tid, flow)| Tunnel::V0 { tid, flow }),
            (any::<u32>(), any::<u32>()).prop_map(|(i_tei, o_tei)| Tunnel::V1 { i_tei, o_tei }),
        ];
        let ms = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 8]>().prop_map(|half| {
                let mut all = [0; 16];
                all[..8].copy_from_slice(&half);
                IpAddr::from(all)
            }),
        ];
        let peer = prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ];
        (tunnel, ms, peer).prop_map(move |(tunnel, ms, peer)| Pdp {
            link,
            tunnel,
            ms,
            peer,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pdp in any_pdp(7)) {
            let mut w = Writer::new();
            pdp.write(&mut w).unwrap();
            prop_assert_eq!(Pdp::read(Attrs::new(w.bytes())).unwrap(), pdp);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pdp::read(Attrs::new(&bytes));
        }
    }
}
