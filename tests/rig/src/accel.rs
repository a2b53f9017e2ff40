// SPDX-License-Identifier: GPL-2.0-only
//! How fast guests run here: KVM if a probe shows that it works, else TCG.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::{
    cache,
    guest::{Guest, Setup},
    image::Image,
};

/// An accelerator and what to expect of it.
#[derive(Clone, Copy, Debug)]
pub struct Accel {
    /// Is it KVM?
    pub kvm: bool,
    /// Limits are multiplied by this.
    pub slowdown: f64,
}

impl Accel {
    /// Options for QEMU. With QEMU 7.2, multi-threaded TCG killed one boot in twelve, and
    /// cmpxchg16b now and then leaves part of a pointer in the flags: once the kernel's allocator
    /// (SLUB) stepped through itself, with a WARNING in exc_debug_kernel(). Without cx16 SLUB takes
    /// its other way.
    pub fn options(self) -> [&'static str; 4] {
        if self.kvm {
            ["-accel", "kvm", "-cpu", "host"]
        } else {
            ["-accel", "tcg,thread=single", "-cpu", "max,cx16=off"]
        }
    }

    /// A time limit, scaled.
    pub fn limit(self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.slowdown)
    }
}

/// Finds out, once for each boot of this machine.
pub fn find(image: &Image, agent: &Path, say: &dyn Fn(&str)) -> Result<Accel> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let file = cache::dir()?.join("kvm-probe");
    let wanted = std::env::var("TELECR_RIG_ACCEL").unwrap_or_default();
    let known = fs::read_to_string(&file).unwrap_or_default();
    let kvm = match (wanted.as_str(), known.strip_prefix(&boot)) {
        ("kvm", _) => true,
        ("tcg", _) => false,
        (_, Some(result)) => result.trim() == "works",
        _ => {
            say("probing KVM");
            let works = probe(image, agent);
            fs::write(
                &file,
                format!("{boot}{}", if works { "works" } else { "fails" }),
            )?;
            works
        }
    };
    Ok(Accel {
        kvm,
        slowdown: slowdown() * if kvm { 1.0 } else { 2.0 },
    })
}

/// Opening /dev/kvm proves nothing: it may hang the guest in its first instructions. So boot one.
fn probe(image: &Image, agent: &Path) -> bool {
    let accessible = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    let Ok(dir) = cache::dir().map(|d| d.join(format!("probe-{}", std::process::id()))) else {
        return false;
    };
    let works = accessible && fs::create_dir_all(&dir).is_ok() && {
        let setup = Setup {
            name: "probe",
            number: 0,
            dir: &dir,
            image,
            initrd: agent,
            port: None,
            accel: Accel {
                kvm: true,
                slowdown: slowdown(),
            },
            memory_mib: 640,
            boot: "",
            boot_seconds: 6.0,
        };
        Guest::boot(&setup).is_ok()
    };
    let _ = cache::remove(&dir);
    works
}

/// This machine's speed now, against the one the limits were found on: at least 1, at most 8.
fn slowdown() -> f64 {
    let began = Instant::now();
    let mut hash = Sha256::new();
    let block = vec![0u8; 1 << 20];
    for _ in 0..16 {
        hash.update(&block);
    }
    std::hint::black_box(hash.finalize());
    (began.elapsed().as_secs_f64() / 0.05).clamp(1.0, 8.0)
}
