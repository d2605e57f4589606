//! When each part of the start was done, for those who make it faster: the kernel command line's
//! `viv.trace` has it said on the console.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::{boot, console};

type Marks = Option<Vec<(&'static str, f64)>>;

static MARKS: Mutex<Marks> = Mutex::new(None);

fn with(act: impl FnOnce(&mut Marks)) {
    act(&mut MARKS.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Takes marks from now on; the first one is when this program started.
pub fn enable(started: Duration) {
    with(|marks| *marks = Some(vec![("start", milliseconds(started))]));
}

fn milliseconds(uptime: Duration) -> f64 {
    uptime.as_secs_f64() * 1000.0
}

/// `part` is done.
pub fn mark(part: &'static str) {
    with(|marks| {
        if let Some(marks) = marks {
            marks.push((part, milliseconds(boot::uptime())));
        }
    });
}

/// Says the marks since the last time, in milliseconds since the kernel started.
pub fn tell() {
    with(|marks| {
        if let Some(marks) = marks {
            let line: Vec<_> = marks.drain(..).map(|(part, at)| format!("{part} {at:.1}")).collect();
            console::say(&format!("ms: {}", line.join(", ")));
        }
    });
}
