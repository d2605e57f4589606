//! What the guest knows of its health.

use std::fs;

use viv_proto::message::GuestStatus;

/// Memory and scratch disk now; `running` programs were started by exec.
#[must_use]
pub fn status(running: u32) -> GuestStatus {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (scratch_total, scratch_free) = scratch();
    GuestStatus {
        running,
        memory_total: field(&memory, "MemTotal:").saturating_mul(1024),
        memory_available: field(&memory, "MemAvailable:").saturating_mul(1024),
        scratch_total,
        scratch_free,
    }
}

/// Whether less than one percent of the scratch disk is left.
#[must_use]
pub fn scratch_full() -> bool {
    let (total, free) = scratch();
    total > 0 && free < total / 100
}

/// Processes the kernel has killed for want of memory since it started.
#[must_use]
pub fn out_of_memory_kills() -> u64 {
    field(&fs::read_to_string("/proc/vmstat").unwrap_or_default(), "oom_kill")
}

/// Size and free space, bytes. The root is an overlay and reports the disk it writes to.
fn scratch() -> (u64, u64) {
    match rustix::fs::statvfs("/") {
        Ok(facts) => (facts.f_blocks.saturating_mul(facts.f_frsize), facts.f_bavail.saturating_mul(facts.f_frsize)),
        Err(_) => (0, 0),
    }
}

/// The number after a name, in the kernel's `name number` lines; 0 if it is not there.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotal:     507320 kB\nMemFree: 12 kB\noom_kill_disable 9\noom_kill 3\n";
        assert_eq!(field(text, "MemTotal:"), 507_320);
        assert_eq!(field(text, "oom_kill"), 3);
        assert_eq!(field(text, "oom"), 0);
    }

    #[test]
    fn this_machine_has_memory_and_a_root() {
        let status = status(2);
        assert_eq!(status.running, 2);
        assert!(status.memory_total >= status.memory_available && status.memory_available > 0);
        assert!(status.scratch_total > 0);
    }
}
