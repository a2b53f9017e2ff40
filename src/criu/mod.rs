// SPDX-License-Identifier: GPL-2.0-only
//! telecr's side of CRIU: what the plugin's hooks call.
//!
//! CRIU refuses SCTP sockets before it asks any plugin, but offers plugins
//! every file of a kind it does not know. So while the processes stand still
//! each SCTP socket is exchanged for a placeholder of such a kind
//! ([`dump::Dump::checkpoint`]), CRIU then asks us to dump the placeholder
//! ([`dump::Dump::file`]), and at the end the sockets go back
//! ([`dump::Dump::finish`]).
//!
//! | module | idea |
//! |---|---|
//! | `scan` | which sockets, held where, watched by which epoll sets |
//! | `handover` | the exchange, there and back |
//! | `epoll` | moving watches of epoll sets |
//! | `inject`, `ptrace`, `arch` | system calls run by a stopped thread |
//! | `journal` | what the guard must know when CRIU dies at this very moment |
//! | `guard`, `rescue` | the process that mends things when CRIU is gone |
//! | `tether` | CRIU's end waits for the guard |
//! | `departed` | what left must not be answered for here |
//! | `snapshot` | undoing what CRIU's own code was doing in a task |
//! | `dump`, `restore` | the hooks' work, in the order CRIU calls them |
//! | `reminder` | peers that have missed what wakes them |
//! | [`door`] | lifting the packet lock |
//! | [`gtp`], `keeper` | GTP links of the tree, and what becomes of them |
//! | `netns` | work in another network namespace |
//! | `proc`, `sys`, `sockets` | what the kernel says, and how it is asked |

mod arch;
mod departed;
pub mod door;
pub mod dump;
mod epoll;
mod error;
pub mod gtp;
mod guard;
mod handover;
mod inject;
mod journal;
mod keeper;
pub mod logger;
pub mod names;
mod netimages;
mod netns;
mod proc;
mod ptrace;
mod reminder;
mod rescue;
pub mod restore;
mod scan;
mod snapshot;
mod sockets;
mod sys;
mod tether;

pub use gtp::udp_socket;

pub use error::{Error, Result};

/// A descriptor of another process, for our own use.
///
/// # Errors
/// No such process or descriptor, or no right to trace the process.
pub fn fd_of(pid: i32, fd: i32) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd as _;
    sys::pidfd_getfd(sys::pidfd_open(pid)?.as_fd(), fd)
}

#[cfg(test)]
mod tests;
