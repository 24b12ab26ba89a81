//! How far it has come, on a terminal alone.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two pictures of what turns while a call is under way.
const TICK: Duration = Duration::from_millis(100);
/// What a line of it has: how far, how long, and in words.
const TEMPLATE: &str = "{spinner} [{bar:30}] {percent}% {elapsed} {wide_msg}";

/// A line of standard error that is written over and over. Where that is no terminal there is none.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Of so many steps.
    pub fn of(&self, steps: u64) {
        self.0.set_length(steps);
    }

    /// So many steps are done, in words too.
    pub fn at(&self, step: u64, words: String) {
        self.0.set_position(step);
        self.0.set_message(words);
    }

    /// Writes something else meanwhile.
    pub fn apart<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}
