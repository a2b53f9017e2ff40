// SPDX-License-Identifier: GPL-2.0-only
//! How far long work is: a bar in a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// Shown on standard error once work has lasted a while.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Work of known size.
    pub(super) fn of(what: &'static str, total: u64) -> Self {
        Self::new(
            ProgressBar::new(total),
            "{msg} {human_pos} of {human_len} [{bar:30}] {eta}",
            what,
        )
    }

    /// Work of which nobody knows how much there is.
    pub(super) fn counting(what: &'static str) -> Self {
        Self::new(ProgressBar::no_length(), "{msg} {human_pos}", what)
    }

    fn new(bar: ProgressBar, template: &str, what: &'static str) -> Self {
        // A template that cannot be read would leave the usual bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("#- "));
        }
        bar.set_message(what);
        Self(bar)
    }

    /// So much is done.
    pub(super) fn at(&self, done: u64) {
        self.0.set_position(done);
    }

    /// It is over, well or not: the bar goes.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
