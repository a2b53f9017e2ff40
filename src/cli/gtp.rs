// SPDX-License-Identifier: GPL-2.0-only
//! `telecr gtp`: GTP links and their tunnels by hand, without CRIU.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{bail, Context as _};
use clap::{Args, Subcommand};
use nix::sched::{setns, CloneFlags};
use telecr::gtp::diff::{self, Difference, Only};
use telecr::gtp::pdp::{Pdp, Tunnel};
use telecr::gtp::restore::{self, OwnedSockets, Survey};
use telecr::gtp::{self, dump};
use telecr::image::Reader;
use telecr::lock;
use telecr::proto::GtpLink;
use telecr::{criu, holders};

use super::{output, progress::Progress, table::Table, Json, FAILED};

/// Where the links are.
#[derive(Args)]
pub(super) struct Place {
    /// Network namespace made by `ip netns`, or the path of one
    #[arg(long, value_name = "NAME|PATH")]
    netns: Option<PathBuf>,
    /// Network namespace of this process
    #[arg(long, conflicts_with = "netns")]
    pid: Option<i32>,
}

#[derive(Subcommand)]
pub(super) enum Gtp {
    /// List tunnels, or write them as JSON
    #[command(
        after_help = "Examples:\n  telecr gtp list --ms 10.60.0.7\n  telecr gtp list --netns spgw --json"
    )]
    List {
        #[command(flatten)]
        place: Place,
        /// Only tunnels with this TEID, in either direction (decimal or 0x...)
        #[arg(long, value_parser = number)]
        teid: Option<u32>,
        /// Only tunnels of this mobile station
        #[arg(long, value_name = "ADDRESS")]
        ms: Option<IpAddr>,
        /// Only tunnels to this GSN peer
        #[arg(long, value_name = "ADDRESS")]
        peer: Option<IpAddr>,
        #[command(flatten)]
        json: Json,
    },
    /// Write the GTP links, their tunnels, addresses, routes and rules to a file
    ///
    /// Nothing is changed. A table that changes meanwhile is read again.
    #[command(after_help = "Example:\n  telecr gtp dump --pid 4711 /tmp/gtp.img")]
    Dump {
        #[command(flatten)]
        place: Place,
        /// Say what is carried, and why, and write no file
        #[arg(long)]
        explain: bool,
        /// Image to write
        #[arg(required_unless_present = "explain")]
        file: Option<PathBuf>,
    },
    /// Make the links of an image anew, with everything it holds, or nothing
    ///
    /// The links receive on the UDP sockets that the process given by --pid has on
    /// their ports; no process is needed where the kernel made the sockets itself. Lifts the
    /// packet lock where they receive: of all addresses, if they are bound to any.
    #[command(after_help = "Example:\n  telecr gtp restore --pid 4711 /tmp/gtp.img")]
    Restore {
        #[command(flatten)]
        place: Place,
        /// Image to read
        file: PathBuf,
    },
    /// Say what differs between two images, or an image and this host
    ///
    /// Lines begin with - for what only the first one has, and + for the second one.
    #[command(
        after_help = "Exit codes:\n  0  no difference\n  1  they differ, or it failed\n\nExample:\n  telecr gtp diff /tmp/gtp.img live"
    )]
    Diff {
        #[command(flatten)]
        place: Place,
        /// An image, or the word `live` for this host
        first: PathBuf,
        /// An image, or the word `live` for this host
        second: PathBuf,
        #[command(flatten)]
        json: Json,
    },
}

fn number(text: &str) -> Result<u32, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

pub(super) fn run(command: Gtp) -> anyhow::Result<ExitCode> {
    match command {
        Gtp::List {
            place,
            teid,
            ms,
            peer,
            json,
        } => {
            place.enter()?;
            let wanted = |pdp: &Pdp| {
                let of_teid = |teid| matches!(pdp.tunnel, Tunnel::V1 { i_tei, o_tei } if i_tei == teid || o_tei == teid);
                teid.is_none_or(of_teid)
                    && ms.is_none_or(|ip| ip == pdp.ms)
                    && peer.is_none_or(|ip| ip == pdp.peer)
            };
            list(wanted, json.json)?;
        }
        Gtp::Dump {
            place,
            explain,
            file,
        } => {
            place.enter()?;
            match file {
                Some(file) if !explain => write(&file)?,
                _ => self::explain()?,
            }
        }
        Gtp::Restore { place, file } => {
            let pid = place.pid;
            place.enter()?;
            make(&file, pid)?;
        }
        Gtp::Diff {
            place,
            first,
            second,
            json,
        } => {
            place.enter()?;
            return compare(&first, &second, json.json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Place {
    /// Goes there; this process has but one thread.
    fn enter(&self) -> anyhow::Result<()> {
        let path = match (&self.netns, self.pid) {
            (Some(name), _) if name.components().count() == 1 => Path::new("/run/netns").join(name),
            (Some(path), _) => path.clone(),
            (None, Some(pid)) => format!("/proc/{pid}/ns/net").into(),
            (None, None) => return Ok(()),
        };
        let file = File::open(&path)
            .with_context(|| format!("no network namespace {}", path.display()))?;
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", path.display()))
    }
}

/// A tunnel under the name of its link.
#[derive(serde::Serialize)]
struct Row<'a> {
    link: &'a str,
    version: u32,
    #[serde(flatten)]
    pdp: Pdp,
}

fn list(wanted: impl Fn(&Pdp) -> bool, json: bool) -> anyhow::Result<()> {
    let links = gtp::link::list()?;
    let mut out = output::open();
    let name = |pdp: &Pdp| {
        let link = links.iter().find(|l| l.ifindex == pdp.link);
        link.map_or("?", |l| l.name.as_str())
    };
    let mut rows = Vec::new();
    if !links.is_empty() {
        let mut genl = gtp::connect()?;
        gtp::table::read(&mut genl, |pdp| {
            if wanted(&pdp) {
                rows.push(pdp);
            }
            Ok(())
        })?;
    }
    rows.sort_unstable();
    if json {
        let rows = rows.iter().map(|pdp| Row {
            link: name(pdp),
            version: pdp.tunnel.version(),
            pdp: *pdp,
        });
        let rows: Vec<Row<'_>> = rows.collect();
        serde_json::to_writer_pretty(&mut out, &rows)?;
        writeln!(out)?;
    } else if rows.is_empty() {
        eprintln!("no tunnels in {} GTP links", links.len());
    } else {
        let mut table = Table::new(&["LINK", "IN", "OUT", "MS", "PEER"]);
        for pdp in &rows {
            let (i, o) = match pdp.tunnel {
                Tunnel::V0 { tid, flow } => (format!("TID {tid:#018x}"), format!("flow {flow}")),
                Tunnel::V1 { i_tei, o_tei } => (format!("{i_tei:#010x}"), format!("{o_tei:#010x}")),
            };
            table.row(vec![
                name(pdp).to_owned(),
                i,
                o,
                pdp.ms.to_string(),
                pdp.peer.to_string(),
            ]);
        }
        write!(out, "{table}")?;
    }
    Ok(out.flush()?)
}

/// The links of this namespace.
fn found() -> anyhow::Result<Vec<GtpLink>> {
    let mut genl = gtp::connect()?;
    let found = dump::find(&mut genl, &holders::scan(None))?;
    if found.is_empty() {
        bail!("no GTP link in this network namespace; --pid or --netns names another");
    }
    Ok(found.into_iter().map(|f| f.link).collect())
}

fn write(file: &Path) -> anyhow::Result<()> {
    let links = found()?;
    let mut genl = gtp::connect()?;
    let temporary = with_suffix(file, ".tmp");
    let progress = Progress::counting("tunnels read");
    let open = || File::create(&temporary).map(BufWriter::new);
    let written = dump::dump(&mut genl, &links, open, |n| progress.at(n));
    let finished = written
        .map_err(anyhow::Error::from)
        .and_then(|(out, summary)| {
            out.into_inner()?.sync_all()?;
            fs::rename(&temporary, file)?;
            Ok(summary)
        });
    progress.end();
    if finished.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    let summary = finished.with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!(
        "dumped: {} links, {} tunnels, {} connections",
        summary.links, summary.tunnels, summary.flows
    );
    Ok(())
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn explain() -> anyhow::Result<()> {
    let links = found()?;
    let mut out = output::open();
    let mut network = Vec::new();
    for link in &links {
        let sockets: Vec<String> = link
            .sockets
            .iter()
            .map(|s| format!("GTPv{} in process {} fd {}", s.version, s.pid, s.fd))
            .collect();
        let sockets = match (link.kernel_sockets, sockets.is_empty()) {
            (true, _) => "made by the kernel".to_owned(),
            (_, true) => "none: the process that had them has ended".to_owned(),
            _ => sockets.join(", "),
        };
        writeln!(
            out,
            "link {}, index {}, sockets: {sockets}",
            link.name, link.ifindex
        )?;
        let entries = gtp::network::read(link)?;
        for entry in &entries {
            writeln!(
                out,
                "  {}, through or on the link",
                gtp::network::describe(entry)
            )?;
        }
        network.extend(entries);
        writeln!(
            out,
            "  {} settings in /proc/sys/net",
            gtp::sysctl::of_link(link)?.len()
        )?;
    }
    let prefixes = gtp::network::destinations(&network);
    let who = gtp::nat::Subscribers {
        links: &links,
        prefixes: &prefixes,
    };
    for rule in gtp::nat::read(&who)? {
        writeln!(
            out,
            "{}, translates addresses of subscribers or names the link",
            gtp::nat::describe(&rule)
        )?;
    }
    let flows = gtp::flow::read(&who, &mut HashSet::new(), |_| Ok(()))?;
    writeln!(out, "{flows} tracked connections of subscribers")?;
    for setting in gtp::sysctl::forwarding() {
        writeln!(
            out,
            "setting {} = {}, turned on where it is off",
            setting.name, setting.value
        )?;
    }
    Ok(out.flush()?)
}

fn open(file: &Path) -> anyhow::Result<Reader<BufReader<File>>> {
    let input = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    Reader::new(BufReader::new(input)).with_context(|| file.display().to_string())
}

fn survey(file: &Path) -> anyhow::Result<Survey> {
    restore::survey(&mut open(file)?).with_context(|| file.display().to_string())
}

fn make(file: &Path, pid: Option<i32>) -> anyhow::Result<()> {
    let survey = survey(file)?;
    let progress = Progress::of("tunnels added", survey.total());
    let sockets = |link: &GtpLink| -> gtp::Result<OwnedSockets> {
        match pid {
            Some(pid) => sockets_of(link, pid),
            None => Err(gtp::Error::Unsupported(format!(
                "link {} receives on the sockets of a process; name it with --pid",
                link.name
            ))),
        }
    };
    let summary = restore::restore(&mut open(file)?, &survey, sockets, |n| progress.at(n));
    progress.end();
    let summary = summary.with_context(|| format!("cannot restore {}", file.display()))?;
    let outside = survey.receives().chain(summary.outer.iter().copied());
    lock::unlock(&lock::reached(outside.collect())?)?;
    eprintln!(
        "restored: {} links, {} tunnels, {} connections",
        summary.links, summary.tunnels, summary.flows
    );
    Ok(())
}

/// The sockets a process has where the image says the link's were bound.
fn sockets_of(link: &GtpLink, pid: i32) -> gtp::Result<OwnedSockets> {
    let mut found = OwnedSockets::default();
    for wanted in &link.sockets {
        let socket = criu::udp_socket(pid, wanted)?;
        if wanted.version == 0 {
            found.v0 = Some(socket);
        } else {
            found.v1 = Some(socket);
        }
    }
    Ok(found)
}

fn compare(first: &Path, second: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let mut all = Vec::new();
    let mut out = output::open();
    let tell = |d: Difference| -> gtp::Result<()> {
        if json {
            all.push(d);
            return Ok(());
        }
        let sign = if d.only == Only::First { '-' } else { '+' };
        let link = if d.link.is_empty() { "" } else { " " };
        writeln!(out, "{sign} {}{link}{}", d.link, d.what).map_err(|source| gtp::Error::Sys {
            what: "cannot write".into(),
            source,
        })
    };
    let count = diff::diff(&mut side(first)?, &mut side(second)?, tell)?;
    if json {
        serde_json::to_writer_pretty(&mut out, &all)?;
        writeln!(out)?;
    }
    out.flush()?;
    Ok(if count == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

/// One side of a comparison.
fn side(what: &Path) -> anyhow::Result<Reader<Box<dyn Read>>> {
    let input: Box<dyn Read> = if what == Path::new("live") {
        Box::new(io::Cursor::new(diff::live()?))
    } else {
        let file = File::open(what).with_context(|| format!("cannot read {}", what.display()))?;
        Box::new(BufReader::new(file))
    };
    Reader::new(input).with_context(|| what.display().to_string())
}
