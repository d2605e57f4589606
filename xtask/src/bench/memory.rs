//! What a restored sandbox that does nothing holds of the host's memory, part by part.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::figures::Figure;
use super::restore;
use super::sandbox::Running;
use crate::processes;

/// All its processes together may hold less than this, under emulation, in MiB.
const LIMIT_MIB: f64 = 110.0;

/// The sandbox's memory.
pub const SHAPE: &[&str] = &["--memory", "512M"];

/// Between looks at whether it has settled.
const INTERVAL: Duration = Duration::from_millis(500);

/// It has settled once this many looks in a row differ by less than [`SETTLED_KIB`].
const STEADY_LOOKS: u32 = 4;

const SETTLED_KIB: u64 = 256;

/// Looks before giving up on that: half a minute.
const MOST_LOOKS: u32 = 60;

/// The processes, in the order of [`Running::processes`].
const PARTS: [&str; 4] = [
    "idle 512 MiB sandbox: client",
    "idle 512 MiB sandbox: monitor",
    "idle 512 MiB sandbox: file daemon",
    "idle 512 MiB sandbox: VMM",
];

/// Starts one and reads its memory.
pub fn idle(viv: &Path, directory: &Path) -> Result<Vec<Figure>> {
    eprintln!("memory of an idle sandbox");
    let sandbox = Running::start(viv, directory, SHAPE)?;
    restore::require_restored(&sandbox.machine()?)?;
    let processes = sandbox.processes()?;
    let read = || processes.iter().map(|process| processes::memory_kib(*process)).collect::<Result<Vec<u64>>>();
    let held = settled(read, || std::thread::sleep(INTERVAL))?;
    sandbox.stop()?;
    let mebibytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
    let mut figures: Vec<Figure> =
        PARTS.iter().zip(&held).map(|(name, held)| Figure::plain(name, mebibytes(*held), "MiB")).collect();
    figures.push(Figure::limited("idle 512 MiB sandbox: all of it", mebibytes(held.iter().sum()), LIMIT_MIB, "MiB"));
    Ok(figures)
}

/// Reads until the sum stays the same.
fn settled(read: impl Fn() -> Result<Vec<u64>>, pause: impl Fn()) -> Result<Vec<u64>> {
    let mut before = u64::MAX;
    let mut steady = 0;
    for _ in 0..MOST_LOOKS {
        let held = read()?;
        let sum = held.iter().sum::<u64>();
        steady = if sum.abs_diff(before) < SETTLED_KIB { steady + 1 } else { 0 };
        if steady == STEADY_LOOKS {
            return Ok(held);
        }
        before = sum;
        pause();
    }
    bail!("the memory of an idle sandbox does not settle: it is {before} KiB and changing");
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_has_settled_is_taken() {
        let readings = RefCell::new(vec![9000, 9001, 8000, 5000, 5000, 5100, 5050, 5060, 1].into_iter());
        let read = || Ok(vec![readings.borrow_mut().next().unwrap(), 7]);
        assert_eq!(settled(read, || {}).unwrap(), [5060, 7]);
    }

    #[test]
    fn what_never_settles_is_an_error() {
        let last = RefCell::new(0);
        let read = || {
            *last.borrow_mut() += SETTLED_KIB;
            Ok(vec![*last.borrow()])
        };
        assert!(settled(read, || {}).is_err());
    }
}
