//! How far a copy is, once it takes more than a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use viv_sandbox::Carried;

use crate::output::Printer;

/// What is over sooner needs no progress.
const WORTH_SHOWING: Duration = Duration::from_secs(1);

/// Shows how far something is.
#[derive(Clone)]
pub struct Progress {
    draws: bool,
    since: Instant,
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Progress {
    /// Nothing is shown yet.
    #[must_use]
    pub fn new(printer: &Printer) -> Self {
        Self { draws: printer.draws_progress(), since: Instant::now(), bar: Arc::default() }
    }

    /// It is this far.
    pub fn show(&self, carried: &Carried) {
        if !self.draws || self.since.elapsed() < WORTH_SHOWING {
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner:.cyan} {elapsed:>4} {wide_msg}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        bar.set_message(format!("{} files, {}", carried.entries, HumanBytes(carried.bytes)));
        bar.tick();
    }

    /// It is done.
    pub fn clear(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}
