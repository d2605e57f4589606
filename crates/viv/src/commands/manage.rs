//! `viv ps`, `viv stop`, `viv kill`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use viv_sandbox::{MemoryUse, Paths, Record};

use super::block_on;
use crate::cli::PsArguments;
use crate::error::Failure;
use crate::output::{Printer, human_duration, name_of, print, print_json, table};
use crate::settings::values::{Size, human_bytes};

/// Lists running sandboxes.
///
/// # Errors
/// A state directory that cannot be read.
pub fn ps(arguments: &PsArguments) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let running: Vec<Running> = viv_sandbox::list(&paths)?
        .into_iter()
        .map(|record| Running { memory: Memory { pss_bytes: record.memory_use() }, record })
        .collect();
    if arguments.json {
        print_json(&running)?;
    } else {
        print(&render(&running, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))?;
    }
    Ok(0)
}

/// A sandbox as `--json` prints it.
#[derive(Serialize)]
struct Running {
    #[serde(flatten)]
    record: Record,
    memory: Memory,
}

/// What it takes of the host's memory.
#[derive(Serialize)]
struct Memory {
    /// Bytes, pages that several processes use counted in equal parts to each.
    pss_bytes: MemoryUse,
}

/// The table; `now` is the time since the Unix epoch.
fn render(running: &[Running], now: Duration) -> String {
    if running.is_empty() {
        return "no sandbox is running\n".to_owned();
    }
    let rows: Vec<Vec<String>> = running
        .iter()
        .map(|Running { record, memory }| {
            let age = now.saturating_sub(Duration::from_millis(record.started_at_unix_ms));
            vec![
                record.id.clone(),
                record.name.clone().unwrap_or_else(|| "-".to_owned()),
                name_of(&record.state),
                age_of(age),
                record.cpus.to_string(),
                Size(record.memory_mib << 20).to_string(),
                memory.pss_bytes.total.map_or_else(|| "?".to_owned(), human_bytes),
                name_of(&record.accel),
                record.workspace.to_string_lossy().into_owned(),
                command_line(&record.command),
            ]
        })
        .collect();
    table(&["ID", "NAME", "STATE", "AGE", "CPUS", "MEMORY", "MEMORY USED", "ACCEL", "WORKSPACE", "COMMAND"], &rows)
}

/// Time since something happened, in whole seconds at the finest.
pub fn age_of(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        _ => human_duration(age),
    }
}

/// A command for a table: short.
fn command_line(command: &[String]) -> String {
    const LONGEST: usize = 60;
    if command.is_empty() {
        return "(shell)".to_owned();
    }
    let whole = command.join(" ");
    if whole.chars().count() <= LONGEST { whole } else { whole.chars().take(LONGEST - 1).chain(['…']).collect() }
}

/// Whether a sandbox is asked to stop, or made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Shares are flushed first.
    Stop,
    /// At once.
    Kill,
}

/// Ends sandboxes. All are tried; the first failure is returned.
///
/// # Errors
/// A name that fits no sandbox or several, a sandbox that does not end.
pub fn end(names: &[String], all: bool, ending: Ending, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let records = if all {
        viv_sandbox::list(&paths)?
    } else {
        names.iter().map(|name| viv_sandbox::find(&paths, name)).collect::<Result<_, _>>()?
    };
    block_on(async {
        let mut first_failure = None;
        for record in &records {
            let ended = match ending {
                Ending::Stop => viv_sandbox::stop(&paths, record).await,
                Ending::Kill => viv_sandbox::kill(&paths, record).await,
            };
            match ended {
                Ok(()) => {
                    printer.detail(&format!("{} is gone, {} are free", record.id, human_bytes(record.memory_mib << 20)))
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    if first_failure.is_some() {
                        printer.failure(&failure);
                    } else {
                        first_failure = Some(failure);
                    }
                }
            }
        }
        first_failure.map_or(Ok(0), Err)
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(
            [0, 59, 61, 7200].map(|age| age_of(Duration::from_secs(age))),
            ["0 s", "59 s", "1 min 1 s", "2 h 0 min"]
        );
    }

    #[test]
    fn the_list_reads_well() {
        let record = serde_json::json!({
            "id": "3f2a91c0", "name": "review", "labels": {}, "command": ["make", "test"], "state": "running",
            "workspace": "/home/u/project", "cpus": 2, "memory_mib": 2048, "accel": "tcg",
            "started_at_unix_ms": 1_000_000, "network": "filtered", "published": [], "monitor_pid": 100, "vmm_pid": 101, "processes": [],
            "file_daemon_pid": 102,
        });
        let running = |total| {
            let pss_bytes = MemoryUse { monitor: Some(3 << 20), vmm: total, file_daemon: None, total };
            let record = serde_json::from_value(record.clone()).unwrap();
            Running { record, memory: Memory { pss_bytes } }
        };
        let all = [running(Some(104 << 20)), running(None)];
        insta::assert_snapshot!(render(&all, Duration::from_secs(1090)));
        insta::assert_json_snapshot!(&all[1]);
    }

    #[test]
    fn commands_are_shortened() {
        assert_eq!(command_line(&[]), "(shell)");
        assert_eq!(command_line(&["make".into(), "test".into()]), "make test");
        assert_eq!(command_line(&["ü".repeat(100)]).chars().count(), 60);
    }
}
