// SPDX-License-Identifier: GPL-2.0-only
//! Any bytes as the kernel's answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| telecr::fuzzing::netlink(bytes));
