// SPDX-License-Identifier: GPL-2.0-only
//! The shared object CRIU loads: hooks only, each a few lines that call the library.
