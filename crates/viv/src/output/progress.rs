//! Progress of what takes its time: a bar where someone watches, else lines for what is slow.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use viv_image::{Progress, ProgressEvent};

use super::clean::clean;
use super::{JsonEvent, Printer, human_duration};

/// What takes longer than this gets a line of its own where no bar can be drawn.
const WORTH_A_LINE: Duration = Duration::from_secs(1);

/// Shows the progress of image building.
pub struct ProgressReporter<'a> {
    printer: &'a Printer,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    bar: Option<ProgressBar>,
    what: String,
    since: Option<Instant>,
    /// The last line printed without a bar: not twice in a row.
    said: String,
}

impl<'a> ProgressReporter<'a> {
    /// A reporter that says as much as the printer would.
    #[must_use]
    pub fn new(printer: &'a Printer) -> Self {
        Self { printer, current: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, current: &mut Current, message: &str) {
        if current.said == message {
            return;
        }
        message.clone_into(&mut current.said);
        if self.printer.is_json() {
            self.printer.event(&JsonEvent::Preparing { message });
        } else if let Some(bar) = &current.bar {
            bar.set_message(clean(message).into_owned());
        } else {
            self.printer.note(message);
        }
    }
}

impl Progress for ProgressReporter<'_> {
    fn event(&self, event: ProgressEvent) {
        let current = &mut *self.lock();
        match event {
            ProgressEvent::Started { what } => {
                if self.printer.draws_progress() {
                    current.bar = Some(spinner(&format!("making {what}")));
                }
                current.since = Some(Instant::now());
                what.clone_into(&mut current.what);
                self.say(current, &format!("making {what}"));
            }
            ProgressEvent::Step { message } => {
                // Steps are for whoever watches a bar, or wants to know everything.
                if current.bar.is_some() || self.printer.is_json() {
                    let message = format!("making {}: {message}", current.what);
                    self.say(current, &message);
                } else {
                    self.printer.detail(&message);
                }
            }
            ProgressEvent::Fraction { done, total } => {
                if let Some(bar) = &current.bar {
                    if bar.length() != Some(total) {
                        bar.set_length(total);
                        bar.set_style(style("{spinner:.cyan} [{bar:24.cyan}] {percent:>3}% {wide_msg}"));
                    }
                    bar.set_position(done.min(total));
                }
            }
            ProgressEvent::Waiting { what } => {
                let message = format!("another viv is making {what}; waiting for it");
                self.say(current, &message);
            }
            ProgressEvent::Finished => {
                let took = current.since.take().map(|since| since.elapsed()).unwrap_or_default();
                let bar = current.bar.take();
                if let Some(bar) = &bar {
                    bar.finish_and_clear();
                }
                if took >= WORTH_A_LINE {
                    let what = std::mem::take(&mut current.what);
                    self.say(current, &format!("made {what} in {}", human_duration(took)));
                }
                current.said.clear();
            }
            _ => {}
        }
    }
}

/// A line that moves while something is waited for, where someone watches; gone once that is over.
pub struct Waiting(Option<ProgressBar>);

impl Waiting {
    /// It is waited for what `what` says, such as `starting web`.
    #[must_use]
    pub fn begin(printer: &Printer, what: &str) -> Self {
        Self(printer.draws_progress().then(|| spinner(what)))
    }

    /// It has come.
    pub fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.end();
    }
}

/// What varies in length comes last, and is cut at the terminal's edge.
fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_style(style("{spinner:.cyan} {elapsed:>4} {wide_msg}"));
    bar.set_message(clean(what).into_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
