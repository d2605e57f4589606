//! Who descends from whom, and how much memory each holds: read from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};

/// Adds to `known` every process that descends from one of them. Processes stay known when their
/// parent ends, so sampling often enough keeps a whole family in sight.
pub fn add_descendants(known: &mut BTreeSet<u32>) {
    let parents: BTreeMap<u32, u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, parent_of(process)?)))
        .collect();
    loop {
        let before = known.len();
        let children: Vec<u32> =
            parents.iter().filter(|(_, parent)| known.contains(parent)).map(|(process, _)| *process).collect();
        known.extend(children);
        if known.len() == before {
            break;
        }
    }
}

fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may hold spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What a process holds, in KiB: its share of every mapping, except those of the guest's memory.
pub fn memory_beyond_the_guest_kib(process: u32) -> u64 {
    fs::read_to_string(format!("/proc/{process}/smaps")).map_or(0, |smaps| sum_without_guest_memory(&smaps))
}

/// What a process holds, in KiB: its share of every mapping.
///
/// # Errors
/// If there is no such process, or it is another user's.
pub fn memory_kib(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let size = line.and_then(|size| size.trim().trim_end_matches(" kB").parse().ok());
    size.with_context(|| format!("{path} has no Pss"))
}

fn sum_without_guest_memory(smaps: &str) -> u64 {
    let mut is_guest = false;
    let mut sum = 0;
    for line in smaps.lines() {
        if let Some(size) = line.strip_prefix("Pss:") {
            if !is_guest {
                sum += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
            }
        } else if line.split_once(' ').is_some_and(|(range, _)| range.contains('-') && !range.contains(':')) {
            is_guest = line.contains("/memfd:");
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_is_not_counted() {
        let smaps = "\
55d0-55d1 r-xp 00000000 fe:00 131  /usr/bin/qemu-system-x86_64
Size:                  4 kB
Pss:                 100 kB
Pss_Dirty:            50 kB
7f00-7f80 rw-s 00000000 00:01 2056  /memfd:memory-backend-memfd (deleted)
Pss:              524288 kB
7f90-7f91 rw-p 00000000 00:00 0
Pss:                  23 kB
VmFlags: rd wr mr mw
";
        assert_eq!(sum_without_guest_memory(smaps), 123);
    }

    #[test]
    fn a_process_sees_its_own_family_and_memory() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut known = BTreeSet::from([std::process::id()]);
        add_descendants(&mut known);
        assert!(known.contains(&child.id()));
        assert!(memory_beyond_the_guest_kib(std::process::id()) > 0);
        assert!(memory_kib(std::process::id()).unwrap() > 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
