//! Ending: orderly, at the wish of the host or of someone inside, or because going on makes no
//! sense. Either way the machine goes off; PID 1 never exits.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::system::RebootCommand;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::Guest;
use crate::{boot, console, kept, reaper, sys};

/// How long processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_millis(300);

/// How long killed processes may take to be gone.
const GONE_DEADLINE: Duration = Duration::from_secs(2);

/// How long the last flush of a guest that cannot go on may take.
const SYNC_DEADLINE: Duration = Duration::from_secs(2);

/// How long a guest that failed to boot waits to be asked why.
const FAILURE_DEADLINE: Duration = Duration::from_secs(10);

/// Powers the machine off, now. Shares must have been flushed; nothing else has to survive.
///
/// Anything but PID 1, such as a test, only exits.
pub fn off() -> ! {
    if !crate::is_init() {
        std::process::exit(1);
    }
    // A kernel without ACPI cannot power off and would halt for ever; every host takes a reset of
    // such a machine for its end.
    let ways = if Path::new("/sys/firmware/acpi").exists() {
        [RebootCommand::PowerOff, RebootCommand::Restart]
    } else {
        [RebootCommand::Restart, RebootCommand::PowerOff]
    };
    for way in ways {
        // Returns only if it does not work.
        let _ = rustix::system::reboot(way);
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Says why on the console, flushes, and powers off.
pub fn fatal(reason: &str) -> ! {
    console::say(&format!("fatal: {reason}"));
    if crate::is_init() {
        // What programs wrote to shares is the host's; a share that hangs must not hold this up.
        let (done, synced) = std::sync::mpsc::channel();
        let _ = std::thread::Builder::new().spawn(move || {
            rustix::fs::sync();
            let _ = done.send(());
        });
        let _ = synced.recv_timeout(SYNC_DEADLINE);
    }
    off()
}

/// From now on a panic of any thread powers the machine off.
pub fn power_off_on_panic() {
    std::panic::set_hook(Box::new(|panic| fatal(&format!("internal error: {panic}"))));
}

/// Powers off in a while: time enough to be asked what went wrong.
pub fn off_after_failure() {
    tokio::spawn(async {
        tokio::time::sleep(FAILURE_DEADLINE).await;
        off();
    });
}

/// Signals from inside (`poweroff` and its kin send SIGPWR) power off in good order.
///
/// # Errors
/// If the signals cannot be watched.
pub fn obey_signals(guest: &Arc<Guest>) -> io::Result<()> {
    let kinds = [libc::SIGPWR, libc::SIGTERM, libc::SIGINT];
    for kind in kinds {
        let mut asked = signal(SignalKind::from_raw(kind))?;
        let guest = Arc::clone(guest);
        tokio::spawn(async move {
            if asked.recv().await.is_some() {
                guest.go_off();
                quiesce(&guest).await;
                off();
            }
        });
    }
    Ok(())
}

/// Ends every process and brings the shares up to date, and the disk if it is kept.
pub async fn quiesce(guest: &Guest) {
    end_processes().await;
    guest.flush_shares().await;
    if crate::is_init() && boot::disk_is_kept() {
        kept::settle();
    }
}

async fn end_processes() {
    if !crate::is_init() || !reaper::reap() {
        // Every process of the machine descends from PID 1: no child, no process.
        return;
    }
    for (number, patience) in [(libc::SIGTERM, GRACE), (libc::SIGKILL, GONE_DEADLINE)] {
        let deadline = Instant::now() + patience;
        // A stopped process obeys only once it is continued.
        let _ = sys::kill(-1, number);
        let _ = sys::kill(-1, libc::SIGCONT);
        while Instant::now() < deadline {
            if !reaper::reap() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
