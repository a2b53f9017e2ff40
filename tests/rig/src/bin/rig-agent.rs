// SPDX-License-Identifier: GPL-2.0-only
//! The guest's PID 1, linked statically and put into the initrd as `/init`.

fn main() {
    if std::process::id() != 1 {
        eprintln!("rig-agent: only runs as a guest's first process; see `cargo rig --help`");
        std::process::exit(2);
    }
    let Err(e) = telecr_rig::agent::run() else {
        return;
    };
    eprintln!("rig-agent: {e}");
    telecr_rig::agent::power_off();
}
