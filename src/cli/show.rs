// SPDX-License-Identifier: GPL-2.0-only
//! `telecr show`: what the images of a checkpoint hold.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use telecr::image;
use telecr::proto::{record::Body, Header};
use telecr::sctp::addr;

use super::table::Table;

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
    if json {
        println!("{}", serde_json::to_string_pretty(&images)?);
        return Ok(());
    }
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
    for image in &images {
        rows(image, &mut table);
    }
    print!("{table}");
    if let Some(first) = images.first() {
        let h = &first.header;
        println!(
            "\nwritten by {} on Linux {}, repair mode version {}",
            h.tool, h.kernel, h.companion_version
        );
    }
    Ok(())
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
