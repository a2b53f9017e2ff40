// SPDX-License-Identifier: GPL-2.0-only
//! The one symbol CRIU looks for.

use std::ffi::{c_char, c_int, c_uint};
use std::ptr::null;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Hooks up to `CHECKPOINT_DEVICES`, the last one used.
const MAX_HOOKS: u32 = 12;
const HOOKS: usize = MAX_HOOKS as usize;
/// The plugin interface, 0.2.0, of all CRIU versions since 1.6.
const VERSION: c_uint = 2 << 8;

const DUMP_EXT_FILE: usize = 2;
const RESTORE_EXT_FILE: usize = 3;
const DUMP_EXT_LINK: usize = 6;
const RESUME_DEVICES_LATE: usize = 9;
const CHECKPOINT_DEVICES: usize = 11;

/// `cr_plugin_desc_t`.
#[repr(C)]
pub struct Descriptor {
    name: *const c_char,
    init: unsafe extern "C" fn(c_int) -> c_int,
    exit: unsafe extern "C" fn(c_int, c_int),
    version: c_uint,
    /// CRIU refuses a plugin with more hooks than it has.
    max_hooks: AtomicU32,
    hooks: [*const (); HOOKS],
}

// SAFETY: the pointers are to code and constants; nothing else is shared.
unsafe impl Sync for Descriptor {}

/// What CRIU reads when it loads the plugin.
#[unsafe(no_mangle)]
pub static CR_PLUGIN_DESC: Descriptor = Descriptor {
    name: c"telecr".as_ptr(),
    init: crate::init,
    exit: crate::exit,
    version: VERSION,
    max_hooks: AtomicU32::new(MAX_HOOKS),
    hooks: {
        let mut hooks = [null(); HOOKS];
        hooks[DUMP_EXT_FILE] = crate::dump_ext_file as *const ();
        hooks[RESTORE_EXT_FILE] = crate::restore_ext_file as *const ();
        hooks[DUMP_EXT_LINK] = crate::dump_ext_link as *const ();
        hooks[RESUME_DEVICES_LATE] = crate::resume_devices_late as *const ();
        hooks[CHECKPOINT_DEVICES] = crate::checkpoint_devices as *const ();
        hooks
    },
};

/// Runs when the object is loaded, before CRIU looks: an older CRIU with fewer
/// hooks would fail every dump over our number.
extern "C" fn fit_hooks() {
    let theirs = crate::criu::hooks().and_then(|n| u32::try_from(n).ok());
    if let Some(theirs) = theirs.filter(|n| *n > 0) {
        CR_PLUGIN_DESC.max_hooks.fetch_min(theirs, Relaxed);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static FIT_HOOKS: extern "C" fn() = fit_hooks;
