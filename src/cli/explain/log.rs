// SPDX-License-Identifier: GPL-2.0-only
//! A CRIU log: where it is, what its lines are, what the first that matter mean.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use serde::Serialize;

use super::rules::Rules;

/// How deep below a directory a log is looked for: podman keeps it in `ID/userdata`.
const DEPTH: usize = 4;

/// Something that went wrong.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Line of the log, from 1.
    pub(super) line: usize,
    /// Its text.
    pub(super) text: String,
    /// What it means.
    pub(super) cause: String,
    /// What to do.
    pub(super) cure: String,
}

/// What a log says.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// CRIU's version.
    pub(super) criu: Option<String>,
    /// The kernel, as CRIU calls it.
    pub(super) kernel: Option<String>,
    /// Whether CRIU says that it succeeded.
    pub(super) finished: bool,
    /// Causes, the first one first.
    pub(super) findings: Vec<Finding>,
    /// Error lines that no rule explains.
    pub(super) unexplained: Vec<String>,
}

/// How a line begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warn,
    Other,
}

/// Reads a log.
pub(super) fn read(log: &str, rules: &Rules) -> Report {
    let mut report = Report {
        finished: log.contains("Dumping finished successfully")
            || log.contains("Restore finished successfully"),
        ..Report::default()
    };
    let mut before = "";
    for (number, line) in log.lines().enumerate() {
        let (level, text) = take_apart(line);
        let filled = |rest: &str| Some(rest.trim().to_owned());
        if let Some(version) = text.strip_prefix("Version: ") {
            report.criu = filled(version.split(' ').next().unwrap_or(version));
        } else if let Some((_, kernel)) = text
            .strip_prefix("Running on ")
            .and_then(|t| t.split_once(' '))
        {
            report.kernel = filled(kernel.split(" #").next().unwrap_or(kernel));
        }
        let found = match (level, text.strip_prefix("telecr: ")) {
            (Level::Error, Some(words)) => Some(ours(words)),
            (Level::Error, _) => rules.explain(before, text),
            (Level::Warn, _) if !report.finished => rules.explain(before, text),
            // CRIU says it before there is a log level.
            _ if text.contains("capability") => rules.explain("", text),
            _ => None,
        };
        match found {
            Some((cause, cure)) if !report.findings.iter().any(|f| f.cause == cause) => {
                report.findings.push(Finding {
                    line: number + 1,
                    text: line.trim().to_owned(),
                    cause,
                    cure,
                });
            }
            None if level == Level::Error && !rules.is_noise(text) => {
                report.unexplained.push(line.trim().to_owned());
            }
            _ => {}
        }
        before = text;
    }
    report
}

/// Level and text of a line such as `(00.123456)    335: Error (criu/files.c:12): text`.
fn take_apart(line: &str) -> (Level, &str) {
    let mut text = line;
    if let Some((_, rest)) = text.strip_prefix('(').and_then(|t| t.split_once(')')) {
        text = rest.trim_start();
    }
    if let Some((pid, rest)) = text.split_once(": ") {
        if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) {
            text = rest;
        }
    }
    let (level, rest) = if let Some(rest) = text.strip_prefix("Error ") {
        (Level::Error, rest)
    } else if let Some(rest) = text.strip_prefix("Warn ") {
        (Level::Warn, rest.trim_start())
    } else {
        (Level::Other, text)
    };
    if level == Level::Other {
        return (level, text);
    }
    match rest.strip_prefix('(').and_then(|t| t.split_once("): ")) {
        Some((_, text)) => (level, text),
        None => (level, rest),
    }
}

/// telecr's own errors have the cause first and the cure last.
fn ours(words: &str) -> (String, String) {
    let damaged = words.strip_suffix(", copy it again");
    if let Some(image) = damaged.or(words.ends_with("not a telecr image").then_some(words)) {
        let cure = "copy the image folder from the source again, then restore again";
        return (image.to_owned(), cure.to_owned());
    }
    match words.split_once("; ") {
        Some((cause, cure)) => (cause.to_owned(), cure.to_owned()),
        None if words.contains("not permitted") => (words.to_owned(), "run CRIU as root".into()),
        None => (
            words.to_owned(),
            "telecr check tells what this host lacks; if it lacks nothing, please report this log"
                .into(),
        ),
    }
}

/// The log itself, or the newest in a directory.
pub(super) fn find(place: &Path) -> anyhow::Result<PathBuf> {
    let kind = fs::metadata(place).with_context(|| format!("cannot read {}", place.display()))?;
    if !kind.is_dir() {
        return Ok(place.to_owned());
    }
    let mut newest = None;
    search(place, DEPTH, &mut newest);
    newest.map(|(_, path)| path).with_context(|| {
        format!(
            "no dump.log or restore.log in {}; CRIU writes one where -o names it, podman container checkpoint keeps it \
             with --keep",
            place.display()
        )
    })
}

fn search(dir: &Path, depth: usize, newest: &mut Option<(SystemTime, PathBuf)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && depth > 0 {
            search(&path, depth - 1, newest);
        }
        let name = entry.file_name();
        let is_log = [
            "dump.log",
            "restore.log",
            "criu-dump.log",
            "criu-restore.log",
        ]
        .iter()
        .any(|n| name == *n);
        let written = entry.metadata().and_then(|m| m.modified());
        if let (true, Ok(written)) = (kind.is_file() && is_log, written) {
            if newest.as_ref().is_none_or(|(then, _)| written > *then) {
                *newest = Some((written, path));
            }
        }
    }
}
