// SPDX-License-Identifier: GPL-2.0-only
//! A service moves: what an operator would type, step by step, with a stopwatch.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{ensure, Context, Result};

use crate::{
    guest::{Guest, Output},
    lab::{Lab, IMAGES, PEER6},
    narrate::Narrator,
    outcome::Outcome,
};

const TRANSFER_PORT: u16 = 9000;
/// Folders of earlier dumps, below that of the last.
const EARLIER: &str = "pre[0-9]";

/// What moves.
#[derive(Debug)]
pub struct Move<'a> {
    /// The process.
    pub pid: i32,
    /// Addresses with their prefix lengths.
    pub addresses: &'a [&'a str],
    /// Files it needs on the destination beside CRIU's images, from the root on.
    pub files: &'a [&'a str],
    /// Does the kernel serve on after the dump? Then the addresses leave only when the images are there.
    pub serves_on: bool,
}

/// When the move began and ended.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Just before the dump.
    pub began: SystemTime,
    /// Just after the restore.
    pub ended: SystemTime,
}

/// Moves it from the source to the destination and notes the figures.
pub fn migrate(
    lab: &mut Lab,
    what: &Move<'_>,
    outcome: &mut Outcome,
    tell: &Narrator,
) -> Result<Window> {
    lab.dest()?.sh(&format!("rm -rf {IMAGES}"))?;
    migrate_rest(lab, what, &[], outcome, tell)
}

/// The same with options for the dump, when the destination has part of the images already. Those of earlier dumps lie
/// in folders named `pre` and a digit.
pub fn migrate_rest(
    lab: &mut Lab,
    what: &Move<'_>,
    options: &[&str],
    outcome: &mut Outcome,
    tell: &Narrator,
) -> Result<Window> {
    let (source, dest) = (lab.source.name.clone(), lab.dest()?.name.clone());
    let wide = source.len().max(dest.len()) + 1;
    let tell_of =
        |host: &str, words: &str| tell.step(&format!("{:wide$} {words}", format!("{host}:")));
    lab.dest()?.sh(&lock(what.addresses))?;
    tell_of(
        &dest,
        "telecr lock, so that no packet finds the address before the associations are there",
    );

    let began = SystemTime::now();
    let out = dump(&mut lab.source, what.pid, options)?;
    must(&lab.source.name, "criu dump", &out)?;
    outcome.figure("dump_ms", out.elapsed_ms);
    tell_of(
        &source,
        &format!(
            "criu dump, {} ms; the process is gone from here",
            out.elapsed_ms
        ),
    );

    let bytes = lab
        .source
        .sh(&format!("du -sb --exclude='{EARLIER}' {IMAGES} | cut -f 1"))?;
    outcome.figure(
        "image_bytes",
        bytes
            .trim()
            .parse::<u64>()
            .context("du answered with no number")?,
    );
    if !what.serves_on {
        leave(lab, what, tell)?;
    }
    let transfer_ms = copy(
        lab,
        &[&[&format!("--exclude={EARLIER}"), IMAGES], what.files].concat(),
    )?;
    outcome.figure("transfer_ms", transfer_ms);
    tell.step(&format!("images copied to {dest}, {transfer_ms} ms"));
    if what.serves_on {
        leave(lab, what, tell)?;
    }

    own(lab.dest()?, what.addresses)?;
    tell_of(&dest, "the address is added and announced");
    let out = restore(lab.dest()?)?;
    must(&dest, "criu restore", &out)?;
    outcome.figure("restore_ms", out.elapsed_ms);
    tell_of(
        &dest,
        &format!("criu restore, {} ms; the process runs on", out.elapsed_ms),
    );
    Ok(Window {
        began,
        ended: SystemTime::now(),
    })
}

fn leave(lab: &mut Lab, what: &Move<'_>, tell: &Narrator) -> Result<()> {
    lab.source.sh(&addresses("del", what.addresses))?;
    tell.step(&format!("{}: the address is removed", lab.source.name));
    Ok(())
}

/// Gives a host the addresses and tells the peer where they are now.
///
/// A ping over IPv6 asks for the peer's link address in the name of the new address, and so tells its own.
pub fn own(guest: &mut Guest, what: &[&str]) -> Result<()> {
    guest.sh(&addresses("add", what))?;
    for address in what {
        let bare = address.split('/').next().unwrap_or(address);
        let words = if bare.contains(':') {
            // Who knows the peer already would not make itself known.
            guest.sh("ip -6 neigh flush dev eth0")?;
            format!("ping -q -c 1 -W 1 -I {bare} {PEER6}")
        } else {
            format!("arping -q -U -c 2 -I eth0 {bare}")
        };
        let argv: Vec<&str> = words.split(' ').collect();
        guest.spawn(&argv, "/dev/null")?;
    }
    Ok(())
}

/// `criu dump`, as packaged; the plugin is found in CRIU's own folder.
pub fn dump(guest: &mut Guest, pid: i32, more: &[&str]) -> Result<Output> {
    let argv = dump_command(pid, more);
    guest.run(&argv.iter().map(String::as_str).collect::<Vec<_>>())
}

/// `criu dump` with these options besides.
pub fn dump_command(pid: i32, more: &[&str]) -> Vec<String> {
    let pid = pid.to_string();
    let usual = [
        "criu", "dump", "-t", &pid, "-D", IMAGES, "-v4", "-o", "dump.log",
    ];
    usual
        .iter()
        .chain(more)
        .map(|&word| word.to_owned())
        .collect()
}

/// `criu dump --leave-running` that is killed after a while; it may only have
/// ended before when its work was done.
pub fn killed_dump(guest: &mut Guest, pid: i32, after_ms: u64) -> Result<()> {
    let pid = pid.to_string();
    let argv = [
        "criu",
        "dump",
        "--leave-running",
        "-t",
        &pid,
        "-D",
        IMAGES,
        "-v4",
        "-o",
        "killed.log",
    ];
    let criu = guest.spawn(&argv, "/var/tmp/killed-criu.log")?;
    thread::sleep(Duration::from_millis(after_ms));
    let signalled = guest.signal(criu, libc::SIGKILL);
    let code = guest.wait(criu, 10.0)?;
    let said = guest.get("/var/tmp/killed-criu.log").unwrap_or_default();
    ensure!(
        signalled.is_ok() || code == 0,
        "{}: CRIU ended with {code} before it was killed: {}",
        guest.name,
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

/// `criu restore`, as packaged.
pub fn restore(guest: &mut Guest) -> Result<Output> {
    guest.run(&[
        "criu",
        "restore",
        "-d",
        "-D",
        IMAGES,
        "-v4",
        "-o",
        "restore.log",
    ])
}

/// `telecr lock` for addresses with or without their prefix lengths.
pub fn lock(addresses: &[&str]) -> String {
    let bare: Vec<&str> = addresses
        .iter()
        .map(|a| a.split('/').next().unwrap_or(a))
        .collect();
    format!("telecr lock {}", bare.join(" "))
}

/// Adds or deletes addresses.
pub fn addresses(verb: &str, addresses: &[&str]) -> String {
    let one = |a: &&str| {
        let nodad = if a.contains(':') && verb == "add" {
            " nodad"
        } else {
            ""
        };
        format!("ip address {verb} {a} dev eth0{nodad}")
    };
    addresses.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Fails with a program's own words, and the end of CRIU's log.
pub fn must(guest: &str, what: &str, out: &Output) -> Result<()> {
    ensure!(
        out.code == 0,
        "{guest}: {what} ended with {}: {}{}",
        out.code,
        out.stdout.trim(),
        out.stderr.trim()
    );
    Ok(())
}

/// Copies the images over the network, and nothing else is in their folder then.
pub fn transfer(lab: &mut Lab, files: &[&str]) -> Result<u64> {
    lab.dest()?.sh(&format!("rm -rf {IMAGES}"))?;
    copy(lab, &[&[IMAGES], files].concat())
}

/// Copies folders and files over the network, as `tar` through a TCP connection; options go to the sending `tar`.
pub fn copy(lab: &mut Lab, paths: &[&str]) -> Result<u64> {
    let receive = format!("socat -u TCP-LISTEN:{TRANSFER_PORT},reuseaddr STDOUT | tar -x -C /");
    let receiver = lab
        .dest()?
        .spawn(&["sh", "-ec", &receive], "/var/tmp/transfer.log")?;
    lab.dest()?.until("the receiver to listen", 10.0, |g| {
        Ok(g.sh("ss -Htln")?.contains(&TRANSFER_PORT.to_string()))
    })?;
    let to = lab.dest()?.address();
    let began = Instant::now();
    let paths: Vec<&str> = paths.iter().map(|p| p.trim_start_matches('/')).collect();
    lab.source.sh(&format!(
        "tar -c -C / {} | socat -u STDIN TCP:{to}:{TRANSFER_PORT}",
        paths.join(" ")
    ))?;
    let code = lab.dest()?.wait(receiver, 60.0)?;
    ensure!(code == 0, "dest: receiving the images ended with {code}");
    Ok(u64::try_from(began.elapsed().as_millis())?)
}
