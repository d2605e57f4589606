//! The guest's wall clock: right when the guest is handed over, and after whatever stopped it.
//!
//! A guest counts time by itself. It falls behind while nobody lets it run: the host asleep, the VMM
//! stopped by a signal. And it is off when the host's own clock is set. The monitor looks for all of
//! these, which costs the guest nothing, and asks the guest for its clock only after one of them, and
//! once a minute for the drift that is left.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use viv_link::Link;
use viv_proto::CONTROL_PORT;
use viv_proto::message::{Clock, ClockReading, kind};

use crate::exec::ask;
use crate::{Error, ErrorKind, Result};

/// How often the host is looked at.
pub(super) const GLANCE: Duration = Duration::from_millis(500);

/// How often the guest is asked without a reason.
const ROUTINE: Duration = Duration::from_secs(60);

/// What a clock may be off by.
pub(super) const TOLERANCE: Duration = Duration::from_millis(5);

/// A difference between the host's clocks that is more than the jitter of reading them.
const JUMP: Duration = Duration::from_millis(5);

/// A look that comes so late means that nothing ran on the host meanwhile.
const PAUSE: Duration = Duration::from_secs(2);

/// For how long a reading is tried again that took too long to tell anything, as it does on a busy host,
const PATIENCE: Duration = Duration::from_secs(1);

/// and how long is waited before that.
const PAUSE_BETWEEN: Duration = Duration::from_millis(10);

/// The host's wall clock, since the Unix epoch.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The host's clocks at one moment.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    monotonic: Duration,
    /// Goes on while the host sleeps.
    boot: Duration,
    wall: Duration,
}

impl Clocks {
    fn read() -> Self {
        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        Self { monotonic: read(ClockId::Monotonic), boot: read(ClockId::Boottime), wall: now() }
    }

    /// Whether anything but time has passed since `before`.
    fn disturbed_since(self, before: Self) -> bool {
        let passed = self.monotonic.saturating_sub(before.monotonic);
        let off = |now: Duration, then: Duration| (then + passed).abs_diff(now) > JUMP;
        passed > PAUSE || off(self.boot, before.boot) || off(self.wall, before.wall)
    }
}

/// Watches for what puts a guest's clock wrong.
pub(super) struct Watch {
    vmm_pid: u32,
    clocks: Clocks,
    stopped: bool,
    due: bool,
    asked: Instant,
}

impl Watch {
    pub(super) fn new(vmm_pid: u32) -> Self {
        Self { vmm_pid, clocks: Clocks::read(), stopped: false, due: false, asked: Instant::now() }
    }

    /// Looks; whether the guest should be asked now. A VMM that stands still is asked when it runs.
    pub(super) fn look(&mut self) -> bool {
        let clocks = Clocks::read();
        let stopped = is_stopped(self.vmm_pid);
        self.due |= self.stopped || clocks.disturbed_since(self.clocks) || self.asked.elapsed() > ROUTINE;
        self.clocks = clocks;
        self.stopped = stopped;
        let ask = self.due && !stopped;
        if ask {
            self.due = false;
            self.asked = Instant::now();
        }
        ask
    }
}

/// Whether a process was stopped by a signal (proc(5): states T and t).
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, field 2, may hold anything, also parentheses; the fields after it may not.
    stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with(['T', 't']))
}

/// Makes the guest's clock right, to [`TOLERANCE`] if the guest answers quickly enough to tell; else it
/// is as right as could be told, and the next occasion will do.
pub(super) async fn set_right(link: &Link) -> Result<()> {
    let failed = |error| Error::new(ErrorKind::Guest, "the guest's control port cannot be reached").source(error);
    let mut stream = link.open(CONTROL_PORT).await.map_err(failed)?;
    let mut step = Clock::default();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let asked = now();
        let (answer, _) = ask(&mut stream, kind::CLOCK, &step).await?;
        let answered = now();
        let reading: ClockReading = answer
            .payload_as()
            .map_err(|error| Error::new(ErrorKind::Guest, "the guest broke the protocol").source(error))?;
        let Some(behind) = behind(asked, Duration::from_nanos(reading.wall_clock_ns), answered) else {
            return Ok(());
        };
        step = Clock { step_ns: behind };
        if behind == 0 {
            tokio::time::sleep(PAUSE_BETWEEN).await;
        }
    }
    Ok(())
}

/// How far a clock that was read between two moments is behind, in nanoseconds; `None` if it is
/// right as far as can be told and that is far enough.
fn behind(asked: Duration, read: Duration, answered: Duration) -> Option<i64> {
    let nanoseconds = |time: Duration| i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    let uncertain = nanoseconds(answered.saturating_sub(asked)) / 2;
    let behind = nanoseconds(asked) + uncertain - nanoseconds(read);
    let tolerance = nanoseconds(TOLERANCE);
    if behind.abs() + uncertain <= tolerance {
        return None;
    }
    // What is within the uncertainty may be right already: only a quicker reading can tell.
    let step = if behind.abs() <= uncertain { 0 } else { behind };
    Some(i64::try_from(step).unwrap_or(if step < 0 { i64::MIN } else { i64::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_clock_is_stepped_by_what_it_is_surely_wrong_by() {
        assert_eq!(behind(MS(1000), MS(1001), MS(1002)), None);
        assert_eq!(behind(MS(1000), MS(1004), MS(1004)), None, "2 ms off, 2 ms unsure");
        assert_eq!(behind(MS(1000), MS(900), MS(1002)), Some(101_000_000));
        assert_eq!(behind(MS(1000), MS(4601), MS(1002)), Some(-3_600_000_000));
        assert_eq!(behind(MS(1000), MS(1010), MS(1100)), Some(0), "too slow to tell: read again");
        assert_eq!(behind(MS(0), MS(0), MS(0)), None);
        assert_eq!(behind(Duration::MAX, MS(0), Duration::MAX), Some(i64::MAX));
    }

    #[test]
    fn sleep_a_set_clock_and_a_standstill_are_noticed_and_time_is_not() {
        let before = Clocks { monotonic: MS(1000), boot: MS(5000), wall: MS(70_000) };
        let after = |monotonic, boot, wall| Clocks { monotonic: MS(monotonic), boot: MS(boot), wall: MS(wall) };
        assert!(!after(1500, 5500, 70_501).disturbed_since(before));
        assert!(after(1500, 9500, 74_500).disturbed_since(before), "the host slept");
        assert!(after(1500, 5500, 73_500).disturbed_since(before), "its clock was put forward");
        assert!(after(1500, 5500, 60_500).disturbed_since(before), "its clock was put back");
        assert!(after(61_000, 65_000, 130_000).disturbed_since(before), "nothing ran for a minute");
    }

    #[test]
    fn a_stopped_process_is_told_from_a_running_one() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let mut watch = Watch::new(child.id());
        assert!(!watch.look());
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        while !is_stopped(child.id()) {
            std::thread::yield_now();
        }
        assert!(!watch.look(), "it cannot answer");
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        while is_stopped(child.id()) {
            std::thread::yield_now();
        }
        assert!(watch.look(), "it goes on");
        assert!(!watch.look(), "asked once");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
