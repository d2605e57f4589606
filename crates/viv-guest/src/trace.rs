//! When each part of the start was done, for those who make it faster: the kernel command line's
//! `viv.trace` has it said on the console.

use std::sync::{Mutex, PoisonError};

use crate::{boot, console};

type Marks = Option<Vec<(&'static str, f64)>>;

static MARKS: Mutex<Marks> = Mutex::new(None);

fn with(act: impl FnOnce(&mut Marks)) {
    act(&mut MARKS.lock().unwrap_or_else(PoisonError::into_inner));
}

fn milliseconds() -> f64 {
    boot::uptime().as_secs_f64() * 1000.0
}

/// Takes marks from now on.
pub fn enable() {
    with(|marks| *marks = Some(Vec::with_capacity(32)));
}

/// `part` is done.
pub fn mark(part: &'static str) {
    with(|marks| {
        if let Some(marks) = marks {
            marks.push((part, milliseconds()));
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
