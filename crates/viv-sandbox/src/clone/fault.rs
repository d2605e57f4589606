//! Places where a test ends the process, as `kill -9` does.

/// A step begins or was done. In a test's child that is to die at this many steps, it dies here.
#[cfg(not(test))]
pub(super) fn point() {}

#[cfg(test)]
pub(super) fn point() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Some(last) = std::env::var(VARIABLE).ok().and_then(|last| last.parse::<u32>().ok()) else { return };
    if PASSED.fetch_add(1, Ordering::SeqCst) == last {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// The number of the step at which a test's child dies, from zero.
#[cfg(test)]
pub(super) const VARIABLE: &str = "VIV_CLONE_TEST_DIES_AT";
