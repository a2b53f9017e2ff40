// SPDX-License-Identifier: GPL-2.0-only
//! What differs between two images, or an image and the kernel.
//!
//! The size of the hash tables is no difference: it is for speed only, and a
//! restore may choose another. Nor are tracked connections.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;

use super::columns;
use super::dump;
use super::pdp::Pdp;
use super::{nat, network, Error, Result};
use crate::holders;
use crate::image::{Reader, KIND_GTP};
use crate::proto::record::Body;
use crate::proto::GtpLink;

/// Where something is that the other side lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Only {
    /// Only on the first side.
    First,
    /// Only on the second side.
    Second,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Difference {
    /// Which side has it.
    pub only: Only,
    /// Name of the link.
    pub link: String,
    /// What it is, in words.
    pub what: String,
}

/// What the kernel has in this network namespace, as an image in memory.
///
/// # Errors
/// Those of [`dump`].
pub fn live() -> Result<Vec<u8>> {
    let mut genl = super::connect()?;
    let links: Vec<GtpLink> = dump::find(&mut genl, &holders::scan(None))?
        .into_iter()
        .map(|f| f.link)
        .collect();
    let (bytes, _) = dump::dump(&mut genl, &links, || Ok(Vec::new()), |_| ())?;
    Ok(bytes)
}

/// Everything of one side but the tunnels.
#[derive(Default)]
struct Facts {
    /// Name of the link, then what is said of it.
    told: BTreeSet<(String, String)>,
    names: HashMap<u32, String>,
}

impl Facts {
    /// Takes a record in; hands tunnels on.
    fn take(&mut self, body: Body, mut tunnel: impl FnMut(&str, Pdp)) -> Result<()> {
        match body {
            Body::GtpLink(link) => {
                self.told
                    .extend(attributes(&link).map(|a| (link.name.clone(), a)));
                self.names.insert(link.ifindex, link.name);
            }
            Body::GtpTunnels(t) => {
                let name = self
                    .names
                    .get(&t.ifindex)
                    .ok_or(Error::BadImage("a tunnel has no link"))?;
                for pdp in columns::tunnels(&t)? {
                    tunnel(name, pdp?);
                }
            }
            Body::Sysctl(s) => {
                let owner = self.names.values().find(|n| {
                    let mut parts = s.name.split('/');
                    parts.any(|p| p == n.as_str())
                });
                let said = format!("setting {} = {}", s.name, s.value);
                self.told.insert((owner.cloned().unwrap_or_default(), said));
            }
            Body::Rtnetlink(entry) => {
                self.told.insert((String::new(), network::normal(&entry)));
            }
            Body::NatRule(rule) => {
                self.told.insert((String::new(), nat::normal(&rule)));
            }
            // They come and go with each packet.
            Body::Flows(_) => {}
            _ => return Err(Error::BadImage("it has a record that belongs elsewhere")),
        }
        Ok(())
    }
}

/// What there is to say about a link that is not speed.
fn attributes(link: &GtpLink) -> impl Iterator<Item = String> {
    let role = if link.role == 0 { "GGSN" } else { "SGSN" };
    let mut all = vec![
        format!("index {}", link.ifindex),
        format!("MTU {}", link.mtu),
        format!("flags {:#x}", link.flags),
        format!("role {role}"),
        format!("restart count {}", link.restart_count),
        format!("queue length {}", link.tx_queue_len),
        format!("group {}", link.group),
    ];
    all.extend(link.alias.iter().map(|a| format!("alias {a}")));
    let ip = |bytes: &[u8]| crate::netlink::ip(bytes).map(|ip| ip.to_string());
    if link.kernel_sockets {
        let local = link.local.as_deref().and_then(ip);
        all.push(format!(
            "sockets of the kernel's, bound to {}",
            local.unwrap_or_else(|| "any address".to_owned())
        ));
    }
    // Who holds them may differ: a process has another id after its move.
    all.extend(link.sockets.iter().map(|s| {
        let local = ip(&s.addr).unwrap_or_default();
        format!("GTPv{} socket bound to {local} port {}", s.version, s.port)
    }));
    all.into_iter()
}

/// Hands each difference to `found`; answers how many there are.
///
/// # Errors
/// An image is damaged, or the first error of `found`.
pub fn diff<A: Read, B: Read>(
    first: &mut Reader<A>,
    second: &mut Reader<B>,
    mut found: impl FnMut(Difference) -> Result<()>,
) -> Result<u64> {
    first.expect(KIND_GTP)?;
    second.expect(KIND_GTP)?;
    let (mut a, mut b) = (Facts::default(), Facts::default());
    // One side in memory, sorted, the other one streamed past it. A link is
    // known by its name: its number there stands for it in the tunnels.
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut number = |name: &str| {
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        match numbers.get(name) {
            Some(n) => *n,
            None => *numbers.entry(name.to_owned()).or_insert(next),
        }
    };
    let mut tunnels: Vec<Pdp> = Vec::new();
    while let Some(body) = first.next_record()? {
        a.take(body, |name, pdp| {
            let link = number(name);
            tunnels.push(Pdp { link, ..pdp });
        })?;
    }
    tunnels.sort_unstable();
    let mut seen = vec![false; tunnels.len()];
    let mut surplus: Vec<Pdp> = Vec::new();
    let mut count = 0;
    while let Some(body) = second.next_record()? {
        b.take(body, |name, pdp| {
            let link = number(name);
            let pdp = Pdp { link, ..pdp };
            match tunnels
                .binary_search(&pdp)
                .ok()
                .and_then(|n| seen.get_mut(n))
            {
                Some(seen) => *seen = true,
                None => surplus.push(pdp),
            }
        })?;
    }
    let mut tell = |only: Only, link: &str, what: String| {
        count += 1;
        let link = link.to_owned();
        found(Difference { only, link, what })
    };
    for (mine, others, only) in [(&a, &b, Only::First), (&b, &a, Only::Second)] {
        for (link, what) in mine.told.difference(&others.told) {
            tell(only, link, what.clone())?;
        }
    }
    let names: HashMap<u32, &str> = numbers.iter().map(|(n, i)| (*i, n.as_str())).collect();
    let name = |pdp: &Pdp| names.get(&pdp.link).copied().unwrap_or_default();
    for (pdp, _) in tunnels.iter().zip(&seen).filter(|(_, seen)| !**seen) {
        tell(Only::First, name(pdp), pdp.to_string())?;
    }
    for pdp in &surplus {
        tell(Only::Second, name(pdp), pdp.to_string())?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::columns::Filling;
    use super::super::pdp::Tunnel;
    use super::*;
    use crate::image;

    fn image(mtu: u32, teids: std::ops::Range<u32>) -> Reader<Cursor<Vec<u8>>> {
        let mut w = image::Writer::new(Vec::new(), image::gtp_header()).unwrap();
        let name = "gtp0".to_owned();
        let link = GtpLink {
            ifindex: 5,
            name,
            mtu,
            ..GtpLink::default()
        };
        w.write(Body::GtpLink(link)).unwrap();
        let mut filling = Filling::default();
        for n in teids {
            let tunnel = Tunnel::V1 { i_tei: n, o_tei: n };
            let ms = std::net::IpAddr::from(n.to_be_bytes());
            let pdp = Pdp {
                link: 5,
                tunnel,
                ms,
                peer: ms,
            };
            if let Some(full) = filling.add(&pdp) {
                w.write(Body::GtpTunnels(full)).unwrap();
            }
        }
        for rest in filling.rest() {
            w.write(Body::GtpTunnels(rest)).unwrap();
        }
        Reader::new(Cursor::new(w.finish().unwrap())).unwrap()
    }

    fn differences(
        mut a: Reader<Cursor<Vec<u8>>>,
        mut b: Reader<Cursor<Vec<u8>>>,
    ) -> Vec<Difference> {
        let mut all = Vec::new();
        let n = diff(&mut a, &mut b, |d| {
            all.push(d);
            Ok(())
        });
        assert_eq!(n.unwrap(), all.len() as u64);
        all
    }

    #[test]
    fn the_same_does_not_differ() {
        assert_eq!(differences(image(1452, 0..9000), image(1452, 0..9000)), []);
    }

    #[test]
    fn each_difference_is_told_once() {
        let all = differences(image(1452, 0..9), image(1400, 1..10));
        let told: Vec<(Only, &str)> = all.iter().map(|d| (d.only, d.what.as_str())).collect();
        assert_eq!(
            told,
            [
                (Only::First, "MTU 1452"),
                (Only::Second, "MTU 1400"),
                (
                    Only::First,
                    "tunnel TEID 0x00000000/0x00000000 MS 0.0.0.0 peer 0.0.0.0"
                ),
                (
                    Only::Second,
                    "tunnel TEID 0x00000009/0x00000009 MS 0.0.0.9 peer 0.0.0.9"
                ),
            ]
        );
    }
}
