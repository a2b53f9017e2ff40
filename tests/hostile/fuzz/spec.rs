// SPDX-License-Identifier: GPL-2.0-only
//! The attributes of the family, out of its spec: what is added there is tried here.

use std::collections::HashMap;

const SPEC: &str = include_str!("../../../kernel-patches/sctp_repair.yaml");

/// What an attribute holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    U16,
    U32,
    /// Of four bytes or eight.
    Uint,
    Binary,
    Nest(String),
}

/// The attributes of each set, from number 1 on.
pub type Sets = HashMap<String, Vec<Kind>>;

/// Reads the spec, as far as its own indentation goes.
pub fn sets() -> Sets {
    let mut sets: Sets = HashMap::new();
    let (mut set, mut inside) = (String::new(), false);
    for line in SPEC.lines() {
        if !line.starts_with(' ') {
            inside = line == "attribute-sets:";
        }
        if !inside {
            continue;
        }
        if let Some(name) = line.strip_prefix("    name: ") {
            set = name.to_string();
        } else if let Some(kind) = line.strip_prefix("        type: ") {
            sets.entry(set.clone()).or_default().push(match kind {
                "u16" => Kind::U16,
                "u32" => Kind::U32,
                "uint" => Kind::Uint,
                "binary" => Kind::Binary,
                "nest" => Kind::Nest(String::new()),
                other => panic!("{other} is new to the fuzzer"),
            });
        } else if let Some(nested) = line.strip_prefix("        nested-attributes: ") {
            let last = sets.get_mut(&set).and_then(|s| s.last_mut());
            *last.expect("behind its type") = Kind::Nest(nested.to_string());
        }
    }
    for name in [
        "sock",
        "assoc",
        "stream",
        "chunk",
        "path",
        "key",
        "stream-entry",
        "stats",
        "abandoned",
    ] {
        assert!(sets.contains_key(name), "no set {name} in the spec");
    }
    sets
}
