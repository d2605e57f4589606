//! When each part of the start was done, for `viv run --timing` and those who make it faster.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use viv_proto::message::Mark;

use crate::boot;

static MARKS: Mutex<Vec<(&str, Duration)>> = Mutex::new(Vec::new());

fn with<T>(act: impl FnOnce(&mut Vec<(&'static str, Duration)>) -> T) -> T {
    act(&mut MARKS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// `part` is done.
pub fn mark(part: &'static str) {
    mark_at(part, boot::uptime());
}

/// `part` was done when the kernel had been up for so long.
pub fn mark_at(part: &'static str, uptime: Duration) {
    with(|marks| marks.push((part, uptime)));
}

/// The marks since the last time.
pub fn take() -> Vec<Mark> {
    let microseconds = |uptime: Duration| u64::try_from(uptime.as_micros()).unwrap_or(u64::MAX);
    with(std::mem::take)
        .into_iter()
        .map(|(part, uptime)| Mark { name: part.to_owned(), at_us: microseconds(uptime) })
        .collect()
}
