// SPDX-License-Identifier: GPL-2.0-only
//! `telecr show`: what the images of a checkpoint hold.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use telecr::image;
use telecr::proto::{record::Body, GtpLink, Header};
use telecr::sctp::addr;

use super::{output, table::Table};

/// One image file.
#[derive(Serialize)]
struct Image {
    file: String,
    header: Header,
    records: Vec<Body>,
}

/// Print every telecr image of a directory.
pub(super) fn show(dir: &Path, json: bool) -> anyhow::Result<()> {
    let paths = images(dir)?;
    anyhow::ensure!(
        !paths.is_empty(),
        "{} holds no telecr image; give the directory of `criu dump -D`",
        dir.display()
    );
    let images = paths
        .iter()
        .map(|p| read(p).with_context(|| p.display().to_string()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut out = output::open();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&images)?)?;
        return Ok(out.flush()?);
    }
    let (gtp, sctp): (Vec<&Image>, Vec<&Image>) = images
        .iter()
        .partition(|i| i.header.kind == image::KIND_GTP);
    if !sctp.is_empty() {
        let mut table = Table::new(&[
            "IMAGE",
            "LOCAL",
            "PEER",
            "STATE",
            "ID",
            "STREAMS IN/OUT",
            "UNREAD",
            "UNSENT",
        ]);
        for image in &sctp {
            rows(image, &mut table);
        }
        writeln!(out, "{table}")?;
    }
    if !gtp.is_empty() {
        let mut table = Table::new(&["IMAGE", "LINK", "INDEX", "RECEIVES AT", "TUNNELS"]);
        for image in &gtp {
            links(image, &mut table);
        }
        writeln!(out, "{table}")?;
        let flows: usize = gtp.iter().copied().map(flows).sum();
        writeln!(out, "{flows} tracked connections of subscribers\n")?;
    }
    if let Some(any) = sctp.first().or(gtp.first()) {
        let h = &any.header;
        write!(out, "written by {} on Linux {}", h.tool, h.kernel)?;
        if !sctp.is_empty() {
            write!(out, ", repair mode version {}", h.companion_version)?;
        }
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

fn images(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            let name = p
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            name.starts_with("telecr-") && name.ends_with(".img")
        })
        .collect();
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> anyhow::Result<Image> {
    let mut reader = image::open(fs::File::open(path)?)?;
    let mut records = Vec::new();
    while let Some(body) = reader.next_record()? {
        records.push(body);
    }
    Ok(Image {
        file: path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
        header: reader.header().clone(),
        records,
    })
}

/// A line for the socket, and one for each association.
fn rows(image: &Image, table: &mut Table) {
    // Chunks that wait in either direction, for each association; queues 0 and 1 go out.
    let mut waiting: HashMap<Option<u32>, (u32, u32)> = HashMap::new();
    for record in &image.records {
        if let Body::Chunk(c) = record {
            let (incoming, outgoing) = waiting.entry(c.assoc_id).or_default();
            match c.queue {
                Some(0 | 1) => *outgoing += 1,
                _ => *incoming += 1,
            }
        }
    }
    for record in &image.records {
        match record {
            Body::Endpoint(e) => {
                let mut cells = vec![image.file.clone(), places(&e.addrs), String::new()];
                cells.push(
                    match e.state {
                        Some(10) => "LISTEN",
                        Some(1) => "CONNECTED",
                        Some(8) => "CLOSING",
                        _ => "CLOSED",
                    }
                    .into(),
                );
                table.row(cells);
            }
            Body::Association(a) => {
                let peers: Vec<Vec<u8>> = a.paths.iter().filter_map(|p| p.addr.clone()).collect();
                let number = |n: Option<u32>| n.unwrap_or(0).to_string();
                let (incoming, outgoing) = waiting.get(&a.id).copied().unwrap_or_default();
                table.row(vec![
                    String::new(),
                    places(&a.local_addrs),
                    places(&peers),
                    state(a.state).into(),
                    number(a.id),
                    format!("{}/{}", number(a.in_streams), number(a.out_streams)),
                    incoming.to_string(),
                    outgoing.to_string(),
                ]);
            }
            _ => {}
        }
    }
}

/// A line for each GTP link.
fn links(image: &Image, table: &mut Table) {
    let mut tunnels: HashMap<u32, usize> = HashMap::new();
    for record in &image.records {
        if let Body::GtpTunnels(t) = record {
            *tunnels.entry(t.ifindex).or_default() += t.i_tei.len() + t.tid.len();
        }
    }
    for record in &image.records {
        if let Body::GtpLink(link) = record {
            table.row(vec![
                image.file.clone(),
                link.name.clone(),
                link.ifindex.to_string(),
                receives_at(link),
                tunnels
                    .get(&link.ifindex)
                    .copied()
                    .unwrap_or_default()
                    .to_string(),
            ]);
        }
    }
}

/// How many connections of subscribers an image has.
fn flows(image: &Image) -> usize {
    let count = |record: &Body| match record {
        Body::Flows(some) => some.flows.len(),
        _ => 0,
    };
    image.records.iter().map(count).sum()
}

/// Where the sockets of a link are bound.
fn receives_at(link: &GtpLink) -> String {
    let text =
        |bytes: &[u8]| telecr::netlink::ip(bytes).map_or("?".to_owned(), |ip| ip.to_string());
    if link.kernel_sockets {
        let local = link.local.as_deref().map_or("any address".to_owned(), text);
        return format!("{local} (the kernel)");
    }
    let sockets = link.sockets.iter().map(|s| {
        let ip = telecr::netlink::ip(&s.addr);
        let port = u16::try_from(s.port).unwrap_or_default();
        ip.map_or("?".to_owned(), |ip| SocketAddr::new(ip, port).to_string())
    });
    sockets.collect::<Vec<_>>().join(",")
}

/// `enum sctp_sstat_state`, as in `SCTP_STATUS`.
fn state(number: Option<u32>) -> &'static str {
    match number {
        Some(1) => "CLOSED",
        Some(2) => "COOKIE-WAIT",
        Some(3) => "COOKIE-ECHOED",
        Some(4) => "ESTABLISHED",
        Some(5) => "SHUTDOWN-PENDING",
        Some(6) => "SHUTDOWN-SENT",
        Some(7) => "SHUTDOWN-RECEIVED",
        Some(8) => "SHUTDOWN-ACK-SENT",
        _ => "?",
    }
}

fn places(addrs: &[Vec<u8>]) -> String {
    let all: Vec<String> = addrs
        .iter()
        .map(|a| addr::parse(a).map_or_else(|| "?".to_owned(), |a| a.to_string()))
        .collect();
    all.join(",")
}
