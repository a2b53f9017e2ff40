// SPDX-License-Identifier: GPL-2.0-only
//! The SCTP sockets of this host.
