//! `viv ps`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Map, Value};
use viv_sandbox::named::Named;
use viv_sandbox::{MemoryUse, Paths, Record};

use super::life::everything;
use crate::cli::PsArguments;
use crate::error::Failure;
use crate::output::{human_duration, name_of, print, print_json, table};
use crate::settings::values::{Size, human_bytes};

/// Lists sandboxes: those that run, or all of them.
///
/// # Errors
/// A state directory that cannot be read.
pub fn ps(arguments: &PsArguments) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let (named, others) = everything(&paths)?;
    let named = named.into_iter().filter(|named| arguments.all || !named.state.is_at_rest());
    let listed: Vec<Listed> = named.map(Listed::of_named).chain(others.into_iter().map(Listed::of_run)).collect();
    if arguments.json {
        print_json(&listed.iter().map(Listed::to_json).collect::<Vec<_>>())?;
    } else {
        print(&render(&listed, arguments.all, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))?;
    }
    Ok(0)
}

/// A sandbox and what there is to say about it.
pub struct Listed {
    /// What stays of it.
    named: Option<Named>,
    /// Its machine, if it has one.
    record: Option<Record>,
    memory: Option<Memory>,
}

/// What it takes of the host's memory.
#[derive(Serialize)]
struct Memory {
    /// Bytes, pages that several processes use counted in equal parts to each.
    pss_bytes: MemoryUse,
}

impl Listed {
    /// One that stays.
    #[must_use]
    pub fn of_named(mut named: Named) -> Self {
        let record = named.record.take();
        Self { memory: record.as_ref().map(memory_of), named: Some(named), record }
    }

    /// That of a `viv run`.
    #[must_use]
    pub fn of_run(record: Record) -> Self {
        Self { memory: Some(memory_of(&record)), named: None, record: Some(record) }
    }

    /// All that is known of it, as one object: what `viv ps --json` has always said of one that runs, and what
    /// stays of one that does.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut all = Map::from_iter([("id".to_owned(), Value::Null)]);
        all.extend(self.record.as_ref().map(fields).unwrap_or_default());
        all.extend(self.memory.as_ref().map(|memory| ("memory".to_owned(), json(memory))));
        if let Some(named) = &self.named {
            let mut of_named = fields(named);
            of_named.remove("record");
            all.extend(of_named);
        }
        all.insert("named".to_owned(), Value::Bool(self.named.is_some()));
        Value::Object(all)
    }

    fn row(&self, now: Duration) -> Vec<String> {
        let none = || "-".to_owned();
        let since = |unix_ms: u64| age_of(now.saturating_sub(Duration::from_millis(unix_ms)));
        let Self { named, record, memory } = self;
        let of_record = |text: &dyn Fn(&Record) -> String| record.as_ref().map_or_else(none, text);
        let name = match (named, record) {
            (Some(named), _) => named.name.clone(),
            (None, record) => record.as_ref().and_then(|record| record.name.clone()).unwrap_or_else(none),
        };
        let ended = named.as_ref().and_then(|named| named.ended.as_ref());
        let age = match (record, ended) {
            (Some(record), _) => since(record.started_at_unix_ms),
            (None, Some(ended)) => since(ended.at_unix_ms),
            (None, None) => none(),
        };
        let workspace =
            named.as_ref().map(|named| &named.workspace).or(record.as_ref().map(|record| &record.workspace));
        vec![
            of_record(&|record| record.id.clone()),
            name,
            match (named, record) {
                (Some(named), _) => named.state.to_string(),
                (None, record) => record.as_ref().map_or_else(none, |record| name_of(&record.state)),
            },
            age,
            of_record(&|record| record.cpus.to_string()),
            of_record(&|record| Size(record.memory_mib << 20).to_string()),
            memory
                .as_ref()
                .map_or_else(none, |memory| memory.pss_bytes.total.map_or_else(|| "?".to_owned(), human_bytes)),
            of_record(&|record| name_of(&record.accel)),
            workspace.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
            if named.is_some() { none() } else { of_record(&|record| command_line(&record.command)) },
        ]
    }
}

fn memory_of(record: &Record) -> Memory {
    Memory { pss_bytes: record.memory_use() }
}

fn json(value: &impl Serialize) -> Value {
    // What viv made itself has no keys that are not text.
    serde_json::to_value(value).unwrap_or_default()
}

fn fields(value: &impl Serialize) -> Map<String, Value> {
    match json(value) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The table; `now` is the time since the Unix epoch.
fn render(listed: &[Listed], all: bool, now: Duration) -> String {
    if listed.is_empty() {
        return if all { "there is no sandbox\n" } else { "no sandbox is running\n" }.to_owned();
    }
    let rows: Vec<Vec<String>> = listed.iter().map(|listed| listed.row(now)).collect();
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

#[cfg(test)]
mod tests {
    use viv_sandbox::named::{EndReason, Ending, State};

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
            "started_at_unix_ms": 1_000_000, "monitor_pid": 100, "vmm_pid": 101, "processes": [],
            "file_daemon_pid": 102,
        });
        let running = |total| {
            let pss_bytes = MemoryUse { monitor: Some(3 << 20), vmm: total, file_daemon: None, total };
            let record = serde_json::from_value(record.clone()).unwrap();
            Listed { named: None, record: Some(record), memory: Some(Memory { pss_bytes }) }
        };
        let named = |name: &str, state, ended, record| Listed {
            named: Some(Named {
                name: name.to_owned(),
                workspace: "/home/u/shop".into(),
                definition_file: "/home/u/shop/viv.toml".into(),
                state,
                id: None,
                record: None,
                created_at_unix_ms: 900_000,
                started_at_unix_ms: Some(1_000_000),
                ended,
                persist: true,
                autostart: false,
                on_create_done: true,
                labels: [("team".to_owned(), "core".to_owned())].into(),
            }),
            record,
            memory: None,
        };
        let ended = Ending { at_unix_ms: 1_080_000, reason: EndReason::Stopped, message: None };
        let all = [
            named("db", State::Stopped, Some(ended), None),
            named("new", State::Stopped, None, None),
            Listed {
                memory: running(Some(104 << 20)).memory,
                ..named("web", State::Paused, None, running(None).record)
            },
            running(Some(104 << 20)),
            running(None),
        ];
        insta::assert_snapshot!(render(&all, true, Duration::from_secs(1090)));
        insta::assert_json_snapshot!([all[0].to_json(), all[4].to_json()]);
        assert_eq!(render(&[], false, Duration::ZERO), "no sandbox is running\n");
        assert_eq!(render(&[], true, Duration::ZERO), "there is no sandbox\n");
    }

    #[test]
    fn commands_are_shortened() {
        assert_eq!(command_line(&[]), "(shell)");
        assert_eq!(command_line(&["make".into(), "test".into()]), "make test");
        assert_eq!(command_line(&["ü".repeat(100)]).chars().count(), 60);
    }
}
