// SPDX-License-Identifier: GPL-2.0-only
//! The QEMU rig: small guests on a network of its own, scenarios that end in one JSON line.
//!
//! Read `scenario/` first, then `lab`, which gives a scenario its three guests. `guest`, `switch` and `image` are the
//! machinery below; `agent` is the other end, in the guest.

pub mod accel;
pub mod agent;
pub mod artefacts;
pub mod cache;
pub mod capture;
pub mod container;
pub mod guest;
pub mod image;
pub mod initrd;
pub mod lab;
pub mod migrate;
pub mod narrate;
pub mod outcome;
pub mod packages;
pub mod proto;
pub mod readme;
pub mod scenario;
pub mod switch;
pub mod tool;
