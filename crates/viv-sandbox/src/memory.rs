//! What a sandbox takes of the host's memory, and what the host has left.

use std::fs::File;
use std::io::Read;

use serde::Serialize;

use crate::Record;
use crate::process::ProcessName;

/// What the host's processes of a sandbox take, in bytes: their proportional set size (proc(5)), which
/// counts a page that several processes use in equal parts to each of them. `None` for a process that
/// is not there, or that the kernel does not let us look into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// The process that owns the sandbox.
    pub monitor: Option<u64>,
    /// The VMM, with the guest's memory as far as it was ever touched.
    pub vmm: Option<u64>,
    /// The file daemon.
    pub file_daemon: Option<u64>,
    /// All of them; `None` if one that is there is unknown.
    pub total: Option<u64>,
}

impl Record {
    /// What its processes take of the host's memory now.
    #[must_use]
    pub fn memory_use(&self) -> MemoryUse {
        let of = |pid: Option<u32>| {
            let process = self.processes.iter().find(|process| Some(process.pid) == pid)?;
            Some(proportional_bytes(*process))
        };
        add_up(of(Some(self.monitor_pid)), of(self.vmm_pid), of(self.file_daemon_pid))
    }
}

/// Outer `None`: there is no such process. Inner `None`: there is, and it is unknown.
fn add_up(monitor: Option<Option<u64>>, vmm: Option<Option<u64>>, file_daemon: Option<Option<u64>>) -> MemoryUse {
    let total = [monitor, vmm, file_daemon].into_iter().flatten().sum();
    MemoryUse { monitor: monitor.flatten(), vmm: vmm.flatten(), file_daemon: file_daemon.flatten(), total }
}

fn proportional_bytes(process: ProcessName) -> Option<u64> {
    // Open, it stays that process's: reading it fails once that is gone, whoever has its pid then.
    let mut file = File::open(format!("/proc/{}/smaps_rollup", process.pid)).ok()?;
    if !process.is_alive() {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    bytes_of(&text, "Pss:")
}

/// What the host could give to a new process without taking it from others, in bytes; `None` if the
/// kernel does not say.
pub(crate) fn available() -> Option<u64> {
    bytes_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The value of a line such as `Pss:   123 kB`, as smaps and meminfo have them.
pub(crate) fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let rollup = "559b 7ffd ---p 0 00:00 0  [rollup]\nRss:   9000 kB\nPss:   1234 kB\nPss_Dirty:  7 kB\n";
        assert_eq!(bytes_of(rollup, "Pss:"), Some(1234 * 1024));
        assert_eq!(bytes_of(rollup, "Swap:"), None);
        assert_eq!(bytes_of("Pss: many kB\n", "Pss:"), None);
        assert_eq!(bytes_of("Pss: 18446744073709551615 kB\n", "Pss:"), None);
        assert!(available().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn a_process_is_weighed_as_long_as_it_lives() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessName::of(child.id()).unwrap();
        assert!(proportional_bytes(process).is_some_and(|bytes| bytes > 0));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(proportional_bytes(process), None);
    }

    #[test]
    fn a_total_is_that_of_all_or_none() {
        let whole = add_up(Some(Some(1)), Some(Some(20)), Some(Some(300)));
        assert_eq!(whole.total, Some(321));
        let starting = add_up(Some(Some(1)), None, None);
        assert_eq!((starting.vmm, starting.total), (None, Some(1)));
        let unreadable = add_up(Some(Some(1)), Some(Some(20)), Some(None));
        assert_eq!((unreadable.vmm, unreadable.file_daemon, unreadable.total), (Some(20), None, None));
    }
}
