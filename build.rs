// SPDX-License-Identifier: GPL-2.0-only
//! Makes Rust of the kernel companion's uapi header and of the image format.
//!
//! Both are made at build time rather than checked in, so that neither can
//! drift from the file it comes from.

use std::env;
use std::error::Error;
use std::path::PathBuf;

const UAPI: &str = "kernel-patches/uapi/sctp_repair.h";
const PROTO: &str = "proto/telecr.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={UAPI}");
    println!("cargo::rerun-if-changed={PROTO}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    bindgen::Builder::default()
        .header(UAPI)
        .allowlist_item("(__)?(SCTP_REPAIR|sctp_repair)_.*")
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate_comments(false)
        .generate()?
        .write_to_file(out.join("sctp_repair.rs"))?;

    let mut proto = prost_build::Config::new();
    proto.type_attribute(".", "#[derive(serde::Serialize)]");
    for bytes in [
        "Option.value",
        "Association.peer_tsn_map",
        "Association.strreset_result",
        "Association.cookie",
        "Association.auth_random",
        "Association.auth_hmacs",
        "Association.auth_chunks",
        "Association.peer_random",
        "Association.peer_hmacs",
        "Association.peer_chunks",
        "Endpoint.auth_hmacs",
        "Endpoint.auth_chunks",
        "Chunk.data",
        "Chunk.sinfo",
        "Rtnetlink.message",
        "NatRule.expressions",
        "NatRule.userdata",
        "Flows.flows",
        "GtpTunnels.ms",
        "GtpTunnels.peer",
    ] {
        proto.field_attribute(
            format!("telecr.{bytes}"),
            "#[serde(serialize_with = \"crate::image::json::hex\")]",
        );
    }
    for addr in [
        "Endpoint.addrs",
        "Association.local_addrs",
        "Association.local_addrs_new",
        "Association.local_addrs_del",
        "Association.del_pending",
        "Path.addr",
        "Path.saddr",
        "Chunk.src",
    ] {
        proto.field_attribute(
            format!("telecr.{addr}"),
            "#[serde(serialize_with = \"crate::image::json::addr\")]",
        );
    }
    for ip in ["GtpLink.local", "GtpSocket.addr"] {
        proto.field_attribute(
            format!("telecr.{ip}"),
            "#[serde(serialize_with = \"crate::image::json::ip\")]",
        );
    }
    for secret in ["Endpoint.secret", "Key.data"] {
        proto.field_attribute(
            format!("telecr.{secret}"),
            "#[serde(serialize_with = \"crate::image::json::secret\")]",
        );
    }
    proto.compile_fds(protox::compile([PROTO], ["proto"])?)?;
    Ok(())
}
