// SPDX-License-Identifier: GPL-2.0-only
//! Constants of the kernel companion, made by bindgen from its uapi header.

#![allow(
    missing_docs,
    dead_code,
    non_camel_case_types,
    clippy::all,
    clippy::pedantic,
    reason = "generated; documented in kernel-patches/sctp_repair.yaml"
)]

include!(concat!(env!("OUT_DIR"), "/sctp_repair.rs"));
