// SPDX-License-Identifier: GPL-2.0-only
//! `telecr explain`: what a CRIU log says went wrong, and what to do about it.

mod log;
mod rules;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use super::output;
use log::Report;
use rules::Rules;

/// The log has errors, and no rule explains them.
const UNKNOWN: u8 = 3;
/// The log has no error.
const NO_ERROR: u8 = 4;

/// How many lines that nothing explains are printed.
const LINES: usize = 10;

#[derive(Serialize)]
struct Answer<'a> {
    log: String,
    #[serde(flatten)]
    report: &'a Report,
}

/// Explain a log, the newest log below a directory, or standard input (`-`).
pub(super) fn explain(place: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (name, bytes) = if place == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        ("standard input".to_owned(), bytes)
    } else {
        let path = log::find(place)?;
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        (path.display().to_string(), bytes)
    };
    let report = log::read(&String::from_utf8_lossy(&bytes), &Rules::new()?);
    let mut out = output::open();
    if json {
        let answer = Answer {
            log: name,
            report: &report,
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&answer)?)?;
    } else {
        print(&mut out, &name, &report)?;
    }
    out.flush()?;
    Ok(ExitCode::from(code(&report)))
}

fn code(report: &Report) -> u8 {
    if !report.findings.is_empty() {
        0
    } else if !report.unexplained.is_empty() {
        UNKNOWN
    } else {
        NO_ERROR
    }
}

fn print(out: &mut impl Write, name: &str, report: &Report) -> io::Result<()> {
    let who = [
        report.criu.as_ref().map(|v| format!("CRIU {v}")),
        report.kernel.clone(),
    ];
    let who: Vec<String> = who.into_iter().flatten().collect();
    let dash = if who.is_empty() { "" } else { ": " };
    writeln!(out, "{name}{dash}{}", who.join(", "))?;
    for finding in &report.findings {
        writeln!(
            out,
            "\nline {}: {}\ncause: {}\ncure:  {}",
            finding.line, finding.text, finding.cause, finding.cure
        )?;
    }
    match code(report) {
        UNKNOWN => {
            writeln!(out, "\nno known cause; the errors, the first of which matters most:")?;
            for line in report.unexplained.iter().take(LINES) {
                writeln!(out, "    {line}")?;
            }
            Ok(())
        }
        NO_ERROR if report.finished => writeln!(out, "\nno error: CRIU has finished"),
        NO_ERROR => writeln!(
            out,
            "\nno error, and no word that CRIU has finished: it was killed, or its log level is too low (-v4)"
        ),
        _ => Ok(()),
    }
}
