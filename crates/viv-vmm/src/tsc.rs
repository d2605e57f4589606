//! The rate of the host's time-stamp counter.
//!
//! Under emulation the guest's counter is the host's, and a microvm has no timer to calibrate it
//! by: unless the kernel is told the true rate it hangs in about half of all boots, and a wrong
//! rate makes its clock run wrong.

use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::sys::time_stamp;
use crate::{Error, ErrorKind, Result};

/// How long the counter is watched: two readings are each right to some 100 ns.
const WATCHED: Duration = Duration::from_millis(25);

/// The rate in kHz. Measured once per boot of the host and remembered in `remembered`.
///
/// # Errors
/// If the counter does not advance.
pub(crate) fn frequency_khz(remembered: &Path) -> Result<u32> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if let Ok(text) = std::fs::read_to_string(remembered)
        && let Some((boot, khz)) = text.split_once(' ')
        && boot == boot_id.trim()
        && let Ok(khz @ 100_000..=20_000_000) = khz.trim().parse()
    {
        return Ok(khz);
    }
    let khz = measure()?;
    // Only a shortcut: without it the next start measures again. Written whole or not at all.
    let partial = remembered.with_extension(format!("{}.partial", std::process::id()));
    let _ = std::fs::write(&partial, format!("{} {khz}\n", boot_id.trim()))
        .and_then(|()| std::fs::rename(&partial, remembered));
    Ok(khz)
}

fn measure() -> Result<u32> {
    let (begin_ns, begin_ticks) = simultaneous();
    std::thread::sleep(WATCHED);
    let (end_ns, end_ticks) = simultaneous();
    let (ns, ticks) = (end_ns.saturating_sub(begin_ns), end_ticks.saturating_sub(begin_ticks));
    let khz = u128::from(ticks) * 1_000_000 / u128::from(ns.max(1));
    u32::try_from(khz)
        .ok()
        .filter(|khz| *khz > 0)
        .ok_or_else(|| Error::new(ErrorKind::UnsupportedHost, "the processor's time-stamp counter does not advance"))
}

/// Clock and counter read as close together as a busy machine allows: the tightest of many pairs.
fn simultaneous() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..32 {
        let before = time_stamp();
        let now = clock_gettime(ClockId::Monotonic);
        let after = time_stamp();
        let width = after.saturating_sub(before);
        if width < best.0 {
            let ns = now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned();
            best = (width, ns, before + width / 2);
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_alike_twice_and_remembers() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tsc");
        let first = frequency_khz(&file).unwrap();
        let again = measure().unwrap();
        // 100 ppm: ten times what was seen on a loaded machine.
        assert!(first.abs_diff(again) < first / 10_000, "{first} and {again} kHz");
        assert_eq!(frequency_khz(&file).unwrap(), first);
        std::fs::write(&file, "another-boot 1234567").unwrap();
        assert_ne!(frequency_khz(&file).unwrap(), 1_234_567);
    }
}
