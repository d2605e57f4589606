//! `viv ps`, `viv stop`, `viv kill`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use viv_sandbox::{Paths, Record};

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
    let records = viv_sandbox::list(&paths)?;
    if arguments.json {
        print_json(&records)?;
    } else {
        print(&render(&records, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))?;
    }
    Ok(0)
}

/// The table; `now` is the time since the Unix epoch.
fn render(records: &[Record], now: Duration) -> String {
    if records.is_empty() {
        return "no sandbox is running\n".to_owned();
    }
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            let age = now.saturating_sub(Duration::from_millis(record.started_at_unix_ms));
            vec![
                record.id.clone(),
                record.name.clone().unwrap_or_else(|| "-".to_owned()),
                name_of(&record.state),
                age_of(age),
                record.cpus.to_string(),
                Size(record.memory_mib << 20).to_string(),
                name_of(&record.accel),
                record.workspace.to_string_lossy().into_owned(),
                command_line(&record.command),
            ]
        })
        .collect();
    table(&["ID", "NAME", "STATE", "AGE", "CPUS", "MEMORY", "ACCEL", "WORKSPACE", "COMMAND"], &rows)
}

/// Time since the start, in whole seconds at the finest.
fn age_of(age: Duration) -> String {
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
    fn commands_are_shortened() {
        assert_eq!(command_line(&[]), "(shell)");
        assert_eq!(command_line(&["make".into(), "test".into()]), "make test");
        assert_eq!(command_line(&["ü".repeat(100)]).chars().count(), 60);
    }
}
