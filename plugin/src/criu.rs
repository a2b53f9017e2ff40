// SPDX-License-Identifier: GPL-2.0-only
//! What we use of the CRIU that loaded us. It exports its symbols, but not all
//! versions have all of them: each is looked up.

use std::ffi::{c_char, c_int, c_void, CString};
use std::mem::transmute;
use std::os::fd::BorrowedFd;
use std::ptr::{null_mut, NonNull};

use telecr::criu::logger::symbol;
use telecr::criu::names::PLUGIN;

/// `opts.final_state`: tasks are to be left stopped.
const TASK_STOPPED: c_int = 3;
/// The first number of hooks that comes with a second argument to `RESTORE_EXT_FILE`.
const HOOKS_WITH_RETRY: usize = 15;

/// CRIU's image directory.
pub(crate) fn image_dir() -> Option<BorrowedFd<'static>> {
    let function = symbol(c"criu_get_image_dir")?;
    // SAFETY: the signature in criu-plugin.h, the same in all versions.
    let fd = unsafe { transmute::<*mut c_void, extern "C" fn() -> c_int>(function.as_ptr())() };
    (fd >= 0).then(|| borrow(fd))
}

/// A descriptor CRIU lends us for the length of a hook.
pub(crate) fn borrow(fd: c_int) -> BorrowedFd<'static> {
    // SAFETY: CRIU keeps the descriptors it passes open while the hook runs; -1 it never passes.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Whether CRIU means to leave the tasks stopped. A hint: a failing post-dump
/// script makes them run.
pub(crate) fn leaves_tasks_stopped() -> bool {
    // SAFETY: `final_state`, an int, has been the first member of `opts` since 3.17.
    symbol(c"opts").is_some_and(|opts| unsafe { opts.cast::<c_int>().read() } == TASK_STOPPED)
}

/// Makes the images name us, so that a restore without us fails at once.
pub(crate) fn add_inventory() {
    let (Some(function), Ok(name)) = (symbol(c"add_inventory_plugin"), CString::new(PLUGIN)) else {
        return;
    };
    // SAFETY: the signature since CRIU 4.1; CRIU copies the name.
    let add = unsafe {
        transmute::<*mut c_void, extern "C" fn(*const c_char) -> c_int>(function.as_ptr())
    };
    if add(name.as_ptr()) != 0 {
        log::warn!("the images will not say that they need telecr");
    }
}

/// Tells CRIU that the plugin the images ask for is here.
pub(crate) fn forget_inventory() {
    let (Some(function), Ok(name)) = (
        symbol(c"check_and_remove_inventory_plugin"),
        CString::new(PLUGIN),
    ) else {
        return;
    };
    type Check = extern "C" fn(*const c_char, usize) -> bool;
    // SAFETY: the signature since CRIU 4.1.
    let check = unsafe { transmute::<*mut c_void, Check>(function.as_ptr()) };
    check(name.as_ptr(), PLUGIN.len());
}

/// Whether `RESTORE_EXT_FILE` has its second argument.
pub(crate) fn restore_may_retry() -> bool {
    hooks().is_some_and(|n| n >= HOOKS_WITH_RETRY)
}

/// `struct Dl_info`'s companion, an ELF symbol.
#[repr(C)]
struct ElfSymbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

unsafe extern "C" {
    fn dladdr1(
        addr: *const c_void,
        info: *mut libc::Dl_info,
        extra: *mut *mut c_void,
        flags: c_int,
    ) -> c_int;
}

/// How many hooks this CRIU has: the size of its `cr_plugin_ctl`, a list head
/// for the plugins and one for each hook.
pub(crate) fn hooks() -> Option<usize> {
    const RTLD_DL_SYMENT: c_int = 1;
    const LIST_HEAD: u64 = 16;
    let table = symbol(c"cr_plugin_ctl")?;
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: null_mut(),
    };
    let mut found: *mut c_void = null_mut();
    // SAFETY: all pointers live across the call.
    let ret = unsafe {
        dladdr1(
            table.as_ptr(),
            &raw mut info,
            &raw mut found,
            RTLD_DL_SYMENT,
        )
    };
    let found = NonNull::new(found.cast::<ElfSymbol>()).filter(|_| ret != 0)?;
    // SAFETY: with this flag the loader answers a symbol of its own table.
    let size = unsafe { found.as_ref() }.size;
    usize::try_from(size / LIST_HEAD).ok()?.checked_sub(1)
}
