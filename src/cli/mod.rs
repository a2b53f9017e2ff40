// SPDX-License-Identifier: GPL-2.0-only
//! The command line: what each subcommand takes, and who carries it out.

mod check;
mod explain;
mod generate;
mod gtp;
mod lock;
mod netavark;
mod output;
mod progress;
mod sctp;
mod show;
mod table;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Exit code of a command that ran and found or met something wrong.
const FAILED: u8 = 1;

/// Move running mobile-core functions between hosts.
///
/// telecr carries what CRIU cannot: SCTP sockets with their associations, GTP
/// links with their tunnels. CRIU finds the plugin by itself; this command checks a host, looks into images,
/// and does by hand what the plugin does.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Exit codes:
  0  done
  1  it failed, or a requirement is not met
  2  the command line is wrong
  Subcommands that have more codes name them.

Examples:
  telecr check
  telecr explain img/dump.log
  telecr sctp list
  telecr show /var/lib/checkpoint/mme
  telecr lock 192.0.2.10"
)]
pub(crate) struct Cli {
    /// Say more on standard error; twice for every netlink exchange
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this host lacks for dump and restore, and the command that mends it
    #[command(
        after_help = "Exit code 1 when something required is missing.\n\nExample:\n  telecr check --json | jq '.[] | select(.ok == false)'"
    )]
    Check(Json),
    /// Say what went wrong in a dump or restore, and what to do about it
    ///
    /// Reads the log that CRIU wrote, finds the line that names the cause among those that only
    /// follow from it, and says what it means. Knows telecr's own errors and the commonest of CRIU's.
    #[command(after_help = "\
Exit codes:
  0  the cause was found
  1  the log cannot be read
  3  the log has errors, and none is known; they are printed
  4  the log has no error

Examples:
  telecr explain img/dump.log
  telecr explain /var/lib/checkpoint/mme    # the newest log in there
  telecr explain --json img | jq -r '.findings[0].cure'")]
    Explain {
        /// The log, a directory to look for the newest one in, or `-` for standard input
        #[arg(value_name = "LOG")]
        place: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// Print the telecr images in a CRIU image directory
    #[command(after_help = "Example:\n  telecr show /var/lib/checkpoint/mme --json")]
    Show {
        /// The directory given to `criu dump -D`
        #[arg(value_name = "IMG_DIR")]
        dir: PathBuf,
        #[command(flatten)]
        json: Json,
    },
    /// List, dump and restore SCTP sockets without CRIU
    #[command(subcommand)]
    Sctp(Sctp),
    /// List, dump, restore and compare GTP links and their tunnels without CRIU
    #[command(subcommand)]
    Gtp(gtp::Gtp),
    /// Drop SCTP and GTP packets to these addresses, or all packets to a network namespace
    ///
    /// Run it on the destination before the address comes up there: a packet for an
    /// association that is not there yet would draw an ABORT, which ends it at the peer.
    /// The restore lifts the lock when it is complete.
    #[command(
        after_help = "Examples:\n  telecr lock 192.0.2.10 2001:db8::10\n  telecr lock --netns /run/netns/mme"
    )]
    Lock {
        /// Local addresses
        #[arg(required_unless_present = "netns", value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// In this network namespace; as a whole when no address is given
        #[arg(long, value_name = "FILE")]
        netns: Option<PathBuf>,
        /// Seconds after which the lock goes by itself
        #[arg(long, value_name = "SECONDS", default_value_t = telecr::lock::LIMIT.as_secs(),
            value_parser = clap::value_parser!(u64).range(1..))]
        expire: u64,
    },
    /// Let packets through again
    #[command(after_help = "Example:\n  telecr unlock --all")]
    Unlock {
        /// Local addresses
        #[arg(required_unless_present = "all", value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// In this network namespace
        #[arg(long, value_name = "FILE")]
        netns: Option<PathBuf>,
        /// Remove the whole lock, here and in all named network namespaces
        #[arg(long, conflicts_with = "addresses")]
        all: bool,
    },
    /// List what is locked, here and in all named network namespaces
    #[command(after_help = "Example:\n  telecr status --json | jq -r '.[].address'")]
    Status(Json),
    /// Write the man pages or the shell completions
    #[command(hide = true, subcommand)]
    Generate(Generate),
}

#[derive(Subcommand)]
enum Sctp {
    /// List SCTP sockets and associations of a process or of the whole host
    #[command(after_help = "Example:\n  telecr sctp list --pid 4711")]
    List {
        /// Only what this process holds, in its network namespace
        #[arg(long)]
        pid: Option<i32>,
        #[command(flatten)]
        json: Json,
    },
    /// Write one SCTP socket of a process to a file
    ///
    /// The socket is in repair mode while it is read and goes on afterwards as if nothing
    /// had happened. With --kill it stays in repair mode until the process has been killed,
    /// so that its associations end without a packet and can be restored elsewhere. Lock its
    /// addresses first (`telecr lock`), or this host answers for them with an ABORT.
    #[command(after_help = "Example:\n  telecr sctp dump --pid 4711 --fd 7 /tmp/s.img")]
    Dump {
        /// The process
        #[arg(long)]
        pid: i32,
        /// Its file descriptor
        #[arg(long)]
        fd: i32,
        /// Kill the process (SIGKILL) once the socket is written
        #[arg(long)]
        kill: bool,
        /// Image to write
        file: PathBuf,
    },
    /// Bring a dumped socket to life and run a command that inherits it
    ///
    /// The command finds the socket at the file descriptor named in TELECR_FD. Lifts the packet
    /// lock of the addresses the socket is bound to: of all, if it is bound to any.
    #[command(after_help = "Example:\n  telecr sctp restore /tmp/s.img -- ./server --inherit")]
    Restore {
        /// Image to read
        file: PathBuf,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}

#[derive(Subcommand)]
enum Generate {
    /// Man pages, into DIR
    Man {
        /// Directory to write to
        dir: PathBuf,
    },
    /// Completions for bash, zsh and fish, below the share directory DIR
    Completions {
        /// Directory to write to
        dir: PathBuf,
    },
}

/// Output for people or for machines.
#[derive(Args, Clone, Copy)]
struct Json {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Run the command line this process was given.
pub(crate) fn run() -> ExitCode {
    let called = std::env::args_os().next().map(PathBuf::from);
    if called.is_some_and(|path| path.ends_with(netavark::NAME)) {
        return netavark::run();
    }
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => "warn",
        1 => "info",
        _ => "trace",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format_timestamp(None)
        .init();
    match carry_out(cli.command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("telecr: {e:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    let done = ExitCode::SUCCESS;
    match command {
        Command::Check(Json { json }) => return check::check(json),
        Command::Explain { place, json } => return explain::explain(&place, json.json),
        Command::Show { dir, json } => show::show(&dir, json.json)?,
        Command::Sctp(Sctp::List { pid, json }) => sctp::list(pid, json.json)?,
        Command::Sctp(Sctp::Dump {
            pid,
            fd,
            kill,
            file,
        }) => sctp::dump(pid, fd, kill, &file)?,
        Command::Sctp(Sctp::Restore { file, command }) => sctp::restore(&file, &command)?,
        Command::Gtp(command) => return gtp::run(command),
        Command::Lock {
            addresses,
            netns,
            expire,
        } => lock::lock(netns.as_deref(), &addresses, Duration::from_secs(expire))?,
        Command::Unlock {
            addresses,
            netns,
            all,
        } => lock::unlock(netns.as_deref(), &addresses, all)?,
        Command::Status(Json { json }) => lock::status(json)?,
        Command::Generate(Generate::Man { dir }) => generate::man(&dir)?,
        Command::Generate(Generate::Completions { dir }) => generate::completions(&dir)?,
    }
    Ok(done)
}
