// SPDX-License-Identifier: GPL-2.0-only
//! `telecr lock`, `unlock` and `status`: the packet lock by hand.

use std::net::IpAddr;

use telecr::lock;

/// Lock addresses.
pub(super) fn lock(addresses: &[IpAddr]) -> anyhow::Result<()> {
    Ok(lock::lock(addresses)?)
}

/// Unlock addresses, or all of them.
pub(super) fn unlock(addresses: &[IpAddr], all: bool) -> anyhow::Result<()> {
    if all {
        lock::unlock_all()?;
    } else {
        lock::unlock(addresses)?;
    }
    Ok(())
}

/// Print what is locked.
pub(super) fn status(json: bool) -> anyhow::Result<()> {
    let locked = lock::status()?;
    if json {
        println!("{}", serde_json::to_string(&locked)?);
    } else if locked.is_empty() {
        println!("nothing is locked");
    } else {
        locked.iter().for_each(|a| println!("{a}"));
    }
    Ok(())
}
