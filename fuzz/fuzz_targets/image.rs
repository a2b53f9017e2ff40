// SPDX-License-Identifier: GPL-2.0-only
//! Any bytes as an image, and as a record of one.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| telecr::fuzzing::image(bytes));
