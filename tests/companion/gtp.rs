// SPDX-License-Identifier: GPL-2.0-only
//! GTP links against the kernel's driver, each test in a network namespace of
//! its own.

use std::io::Cursor;

use telecr::gtp::pdp::{Pdp, Tunnel};
use telecr::gtp::restore::{self, OwnedSockets};
use telecr::gtp::table::Filler;
use telecr::gtp::{self, diff, dump, link, Error};
use telecr::holders;
use telecr::image::{self, Reader};
use telecr::proto::record::Body;
use telecr::proto::{GtpLink, GtpTunnels};

use crate::pair::{alone, kernel, sh};

const LINK: u32 = 77;

fn gtp0() -> GtpLink {
    GtpLink {
        ifindex: LINK,
        name: "gtp0".into(),
        mtu: 1452,
        flags: 1,
        hash_size: 1024,
        restart_count: 3,
        kernel_sockets: true,
        tx_queue_len: 1000,
        alias: Some("bearers".into()),
        ..GtpLink::default()
    }
}

/// Tunnels with these TEIDs, and MS addresses that end alike.
fn tunnels(teids: &[u32]) -> GtpTunnels {
    GtpTunnels {
        ifindex: LINK,
        version: 1,
        ms_family: 2,
        peer_family: 2,
        i_tei: teids.to_vec(),
        o_tei: teids.to_vec(),
        ms: teids
            .iter()
            .flat_map(|t| (0x0b00_0000 + t).to_be_bytes())
            .collect(),
        peer: teids.iter().flat_map(|_| [192, 0, 2, 1]).collect(),
        ..GtpTunnels::default()
    }
}

fn image_of(records: impl IntoIterator<Item = Body>) -> Vec<u8> {
    let mut w = image::Writer::new(Vec::new(), image::gtp_header()).unwrap();
    for body in records {
        w.write(body).unwrap();
    }
    w.finish().unwrap()
}

fn good() -> Vec<u8> {
    image_of([Body::GtpLink(gtp0()), Body::GtpTunnels(tunnels(&[1, 2, 3]))])
}

fn open(image: &[u8]) -> Reader<Cursor<Vec<u8>>> {
    Reader::new(Cursor::new(image.to_vec())).unwrap()
}

fn restored(image: &[u8]) -> gtp::Result<dump::Summary> {
    let survey = restore::survey(&mut open(image))?;
    restore::restore(
        &mut open(image),
        &survey,
        |_| Ok(OwnedSockets::default()),
        |_| (),
    )
}

/// Fails as it should, leaves nothing, and the correct image works after `mended`.
fn refused(image: &[u8], words: &[&str], mended: &str) {
    let e = restored(image).unwrap_err().to_string();
    for word in words {
        assert!(e.contains(word), "{word:?} is not in {e:?}");
    }
    assert!(link::list().unwrap().is_empty(), "a link is left behind");
    if !mended.is_empty() {
        sh(mended);
    }
    assert_eq!(restored(&good()).unwrap().tunnels, 3);
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn a_restored_link_is_dumped_the_same() {
    alone(&[("ipv4.ip_forward", "1")]);
    assert_eq!(restored(&good()).unwrap().links, 1);
    sh(
        "ip address add 11.0.0.1/32 dev gtp0; ip route add 11.0.0.0/16 dev gtp0; \
        ip route add 11.1.0.0/16 dev gtp0 table 100; ip rule add to 11.1.0.0/16 lookup 100",
    );
    let mut genl = gtp::connect().unwrap();
    let links: Vec<GtpLink> = dump::find(&mut genl, &holders::scan(None))
        .unwrap()
        .into_iter()
        .map(|f| f.link)
        .collect();
    assert!(links[0].kernel_sockets);
    let (image, summary) = dump::dump(&mut genl, &links, || Ok(Vec::new()), |_| ()).unwrap();
    assert_eq!((summary.links, summary.tunnels), (1, 3));
    link::delete(LINK).unwrap();
    sh("ip rule delete lookup 100; sysctl -qw net.ipv4.ip_forward=0");
    restored(&image).unwrap();
    let now = diff::live().unwrap();
    let mut differences = Vec::new();
    diff::diff(&mut open(&image), &mut open(&now), |d| {
        differences.push(d);
        Ok(())
    })
    .unwrap();
    assert_eq!(differences, []);
    sh("ip rule | grep -q 11.1.0.0/16; test $(cat /proc/sys/net/ipv4/ip_forward) = 1");
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn two_links_of_both_roles_with_their_masquerade() {
    alone(&[]);
    let other = GtpLink {
        ifindex: LINK + 1,
        name: "gtp1".into(),
        role: 1,
        local: Some(vec![10, 1, 0, 2]),
        ..gtp0()
    };
    let first = GtpLink {
        local: Some(vec![10, 1, 0, 1]),
        ..gtp0()
    };
    let mut of_other = tunnels(&[1, 2]);
    of_other.ifindex = LINK + 1;
    let made = restored(&image_of([
        Body::GtpLink(first),
        Body::GtpLink(other),
        Body::GtpTunnels(tunnels(&[1, 2, 3])),
        Body::GtpTunnels(of_other),
    ]));
    // The kernel's sockets are bound to one address from Linux 6.10 on.
    if kernel() < (6, 10) {
        assert!(matches!(made, Err(Error::InTheWay(_))));
        return;
    }
    assert_eq!(made.unwrap().tunnels, 5);
    sh(
        "ip route add 11.0.0.0/16 dev gtp0; ip route add 12.0.0.0/16 dev gtp1; \
        ip route add 12.69.0.0/16 dev gtp1; \
        iptables-nft -t nat -A POSTROUTING -s 11.0.0.0/16 -j MASQUERADE; \
        iptables-nft -t nat -A POSTROUTING -s 13.0.0.0/16 -j MASQUERADE; \
        nft 'add table ip sgi; add chain ip sgi out { type nat hook postrouting priority 90; }'; \
        nft add rule ip sgi out ip saddr 12.0.0.0/17 masquerade; \
        nft add rule ip sgi out ip saddr 12.64.0.0/10 masquerade",
    );
    let image = diff::live().unwrap();
    sh("ip link delete gtp0; ip link delete gtp1; nft flush ruleset");
    let summary = restored(&image).unwrap();
    assert_eq!((summary.links, summary.tunnels), (2, 5));
    sh(
        "iptables-nft -t nat -S POSTROUTING | grep -q -e '-s 11.0.0.0/16 -j MASQUERADE'; \
        ! iptables-nft -t nat -S | grep -q 13.0.0.0; \
        nft list chain ip sgi out | grep -q 'ip saddr 12.0.0.0/17 masquerade'; \
        nft list chain ip sgi out | grep -q 'ip saddr 12.64.0.0/10 masquerade'",
    );
    let now = diff::live().unwrap();
    let count = diff::diff(&mut open(&image), &mut open(&now), |d| panic!("{d:?}"));
    assert_eq!(count.unwrap(), 0);

    sh("nft add chain ip sgi more; nft add rule ip sgi out ip saddr 11.0.0.0/16 jump more");
    let e = diff::live().unwrap_err().to_string();
    assert!(e.contains("leads packets of subscribers"), "{e}");
    sh("nft flush ruleset; ip link add vrf7 type vrf table 77; ip link set gtp0 master vrf7");
    let e = diff::live().unwrap_err().to_string();
    assert!(e.contains("ip link set gtp0 nomaster"), "{e}");
    sh("ip link delete vrf7");
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn a_link_on_ipv6_sockets_keeps_its_mtu() {
    alone(&[]);
    if kernel() < (6, 10) {
        return;
    }
    let link = GtpLink {
        // The driver gives one 1432.
        mtu: 1400,
        local: Some(vec![0; 16]),
        ..gtp0()
    };
    let image = image_of([Body::GtpLink(link)]);
    restored(&image).unwrap();
    sh("ip link show gtp0 | grep -q -e 'mtu 1400'; ip link show gtp0 | grep -q 'alias bearers'");
    let now = diff::live().unwrap();
    let mut links = restore::survey(&mut open(&now)).unwrap().links;
    let link = links.remove(0);
    assert_eq!((link.mtu, link.local), (1400, Some(vec![0; 16])));
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn a_tunnel_twice_is_named() {
    alone(&[]);
    let twice = image_of([Body::GtpLink(gtp0()), Body::GtpTunnels(tunnels(&[1, 2, 1]))]);
    refused(&twice, &["TEID 0x00000001", "in the table already"], "");
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn what_is_in_the_way_is_named() {
    alone(&[]);
    sh("ip link add gtp0 type dummy");
    refused(
        &good(),
        &["gtp0", "of this name is here"],
        "ip link delete gtp0",
    );
    alone(&[]);
    sh(&format!("ip link add other index {LINK} type dummy"));
    refused(
        &good(),
        &["index 77 belongs to other"],
        "ip link delete other",
    );
    alone(&[]);
    let squatter = std::net::UdpSocket::bind("0.0.0.0:2152").unwrap();
    let e = restored(&good()).unwrap_err().to_string();
    assert!(e.contains("UDP port 2152 or 3386 is bound already"), "{e}");
    drop(squatter);
    assert_eq!(restored(&good()).unwrap().tunnels, 3);
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn a_truncated_image_changes_nothing() {
    alone(&[]);
    let whole = good();
    for len in [whole.len() - 1, whole.len() - 20, whole.len() / 2] {
        let cut = &whole[..len];
        let found = Reader::new(Cursor::new(cut.to_vec()))
            .map_err(Error::from)
            .and_then(|mut r| restore::survey(&mut r));
        assert!(matches!(found, Err(Error::Image(_))), "{len}: {found:?}");
    }
    assert!(link::list().unwrap().is_empty());
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn settings_go_back_when_a_restore_fails() {
    alone(&[]);
    let forward = telecr::proto::Sysctl {
        name: "net/ipv4/ip_forward".into(),
        value: "1".into(),
    };
    let image = image_of([
        Body::Sysctl(forward),
        Body::GtpLink(gtp0()),
        Body::GtpTunnels(tunnels(&[9, 9])),
    ]);
    refused(&image, &["TEID 0x00000009"], "");
    sh("test $(cat /proc/sys/net/ipv4/ip_forward) = 0");
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn another_number_of_the_family_is_refused() {
    let genl = gtp::connect().unwrap();
    let here = u32::from(genl.id());
    let of = |number| GtpLink {
        netlink_family: Some(number),
        ..gtp0()
    };
    restore::check_family(&genl, &of(here)).unwrap();
    restore::check_family(&genl, &gtp0()).unwrap();
    let e = restore::check_family(&genl, &of(here + 2)).unwrap_err();
    assert!(e.to_string().contains("2 of them make it"), "{e}");
    let e = restore::check_family(&genl, &of(here - 1)).unwrap_err();
    assert!(e.to_string().contains("reboot"), "{e}");
}

/// Adds tunnel `n` as another program would.
fn add(n: u32) {
    let pdp = Pdp {
        link: LINK,
        tunnel: Tunnel::V1 { i_tei: n, o_tei: n },
        ms: (0x0b00_0000 + n).to_be_bytes().into(),
        peer: [192, 0, 2, 1].into(),
    };
    let mut filler = Filler::new("gtp0").unwrap();
    filler.add(pdp).unwrap();
    filler.flush().unwrap();
}

#[test]
#[ignore = "needs root and the GTP driver"]
fn a_table_that_changes_is_read_again_or_refused() {
    alone(&[]);
    restored(&good()).unwrap();
    let mut genl = gtp::connect().unwrap();
    let links = [gtp0()];
    let mut changes = 0;
    let (image, summary) = dump::dump(
        &mut genl,
        &links,
        || Ok(Vec::new()),
        |_| {
            if changes < 2 {
                changes += 1;
                add(100 + changes);
            }
        },
    )
    .unwrap();
    assert_eq!((changes, summary.tunnels), (2, 5));
    link::delete(LINK).unwrap();
    assert_eq!(restored(&image).unwrap().tunnels, 5);

    let e = dump::dump(
        &mut genl,
        &links,
        || Ok(Vec::new()),
        |_| {
            changes += 1;
            add(100 + changes);
        },
    );
    assert!(matches!(e, Err(Error::Unsteady(_))), "{e:?}");
}
