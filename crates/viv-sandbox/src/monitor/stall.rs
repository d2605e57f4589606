//! Whether a machine that boots still does anything.
//!
//! Under QEMU's emulation a local APIC was seen with an interrupt in service whose handler had ended, and
//! the next ones waiting behind it for good: the processor sleeps, and nothing wakes it. What tells such a
//! guest from one that a busy host keeps waiting is that it does not even ask for a processor.

use std::time::Duration;

use crate::{Error, ErrorKind};

/// How often is looked.
const GLANCE: Duration = Duration::from_secs(5);

/// For how many glances in a row a guest must have slept to be taken for stuck. A boot asks for a processor
/// nearly all the time, and waits for a disk for some milliseconds.
const GLANCES: u32 = 4;

/// What a guest that sleeps may use of a glance: its kernel's housekeeping, on the processor that still has
/// its timer.
const ASLEEP: Duration = Duration::from_millis(500);

/// Counts the glances at which a guest was asleep.
#[derive(Default)]
struct Sleep {
    wanted: Option<Duration>,
    glances: u32,
}

impl Sleep {
    /// Takes how long the processors have run or waited to run so far; `None` if that is not known.
    /// Whether they are stuck.
    fn is_for_good(&mut self, wanted: Option<Duration>) -> bool {
        let asleep = match (self.wanted, wanted) {
            (Some(before), Some(now)) => now.saturating_sub(before) < ASLEEP,
            _ => false,
        };
        self.glances = if asleep { self.glances + 1 } else { 0 };
        self.wanted = wanted;
        self.glances >= GLANCES
    }
}

/// Resolves when the VMM's guest has slept for so long that it will not wake up, to what to say of it.
pub(crate) async fn stuck(vmm: u32) -> Error {
    let mut sleep = Sleep::default();
    while !sleep.is_for_good(wanted(vmm)) {
        tokio::time::sleep(GLANCE).await;
    }
    let seconds = (GLANCE * GLANCES).as_secs();
    Error::new(ErrorKind::GuestStuck, format!("the guest did nothing at all for {seconds} seconds while it booted"))
}

/// How long the threads of a VMM have run, or waited for the host to let them run. Without the first
/// thread, which wakes up for the machine's clocks whether the guest does anything or not.
fn wanted(vmm: u32) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    for entry in std::fs::read_dir(format!("/proc/{vmm}/task")).ok()?.flatten() {
        if entry.file_name().to_str() != Some(&vmm.to_string()) {
            // A kernel without these statistics leaves the question open; a thread may just have ended.
            sum += ran_and_waited(&std::fs::read_to_string(entry.path().join("schedstat")).ok()?)?;
        }
    }
    Some(sum)
}

/// Reads `/proc/PID/schedstat`: nanoseconds run, nanoseconds waited, how often it was put on a processor.
fn ran_and_waited(text: &str) -> Option<Duration> {
    let mut numbers = text.split_ascii_whitespace().map_while(|word| word.parse().ok());
    Some(Duration::from_nanos(numbers.next()?) + Duration::from_nanos(numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(milliseconds: &[u64]) -> Vec<bool> {
        let mut sleep = Sleep::default();
        milliseconds.iter().map(|&wanted| sleep.is_for_good(Some(Duration::from_millis(wanted)))).collect()
    }

    #[test]
    fn a_guest_is_stuck_once_it_has_slept_for_long_and_in_one_go() {
        assert_eq!(judged(&[900, 910, 930, 1020, 1030]), [false, false, false, false, true]);
        assert!(!judged(&[900, 910, 920, 930, 1430, 1440, 1450, 1460]).contains(&true), "it woke up meanwhile");
        assert!(!judged(&[0, 500, 1000, 1500, 2000, 2500]).contains(&true), "starved, but awake");
    }

    #[test]
    fn what_is_not_known_proves_nothing() {
        let mut sleep = Sleep::default();
        assert!((0..10).all(|_| !sleep.is_for_good(None)));
        assert_eq!(wanted(0), None);
        assert!(wanted(std::process::id()).is_some(), "a test's own thread is not the first one");
    }

    #[test]
    fn waiting_for_a_processor_counts_like_having_one() {
        assert_eq!(ran_and_waited("1000000 2000000 7\n"), Some(Duration::from_millis(3)));
        assert_eq!(ran_and_waited("1000000"), None);
        assert_eq!(ran_and_waited("0 0 0"), Some(Duration::ZERO));
    }
}
