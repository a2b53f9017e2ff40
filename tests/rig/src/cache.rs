// SPDX-License-Identifier: GPL-2.0-only
//! What is built once and kept: named by a hash of all that went into it, appearing whole or not at all.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// `$TELECR_CACHE`, else `telecr` in the user's cache folder.
pub fn dir() -> Result<PathBuf> {
    let dir = env::var_os("TELECR_CACHE")
        .map(PathBuf::from)
        .or_else(|| env::var_os("XDG_CACHE_HOME").map(|d| PathBuf::from(d).join("telecr")))
        .or_else(|| env::var_os("HOME").map(|d| PathBuf::from(d).join(".cache/telecr")))
        .context("no place for a cache: set TELECR_CACHE")?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// A short hash of some strings.
pub fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Returns the folder `kind-key` of the cache. If it is not there, `build` fills a temporary folder that is then given
/// this name; others of the same kind are removed, because a build is only replaced by a newer one.
pub fn build(kind: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = dir()?;
    let done = cache.join(format!("{kind}-{key}"));
    if done.exists() {
        return Ok(done);
    }
    let lock = File::create(cache.join(format!("{kind}.lock")))?;
    flock(&lock)?;
    if done.exists() {
        return Ok(done);
    }
    let temp = cache.join(format!("{kind}.tmp"));
    remove(&temp)?;
    fs::create_dir_all(&temp)?;
    build(&temp)?;
    for entry in fs::read_dir(&cache)?.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&format!("{kind}-"))
        {
            remove(&entry.path())?;
        }
    }
    fs::rename(&temp, &done)?;
    Ok(done)
}

/// Removes a folder that may not be there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Waits for an exclusive lock; it ends with the file.
fn flock(file: &File) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: no pointers are passed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot lock the cache");
    }
    Ok(())
}
