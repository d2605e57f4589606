//! `viv inspect`

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use viv_error::Report;
use viv_sandbox::logs_of;
use viv_sandbox::named;

use super::Desk;
use super::targets::{self, Found};
use super::up::settle;
use crate::cli::life::{InspectArguments, StartOptions};
use crate::commands::manage::Listed;
use crate::definition::Definition;
use crate::error::Failure;
use crate::output::{Printer, print_json};
use crate::resolve::Resolved;

/// All that there is to say about a sandbox.
#[derive(Serialize)]
struct Inspected {
    /// As `viv ps --json` has it.
    #[serde(flatten)]
    listed: Value,
    /// What is kept of it, and where; not of one of `viv run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<Kept>,
    /// What describes it now, which counts from the next start on; not of one of `viv run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    described: Option<Described>,
    /// Where what it does on the network is written down.
    network_log: Option<String>,
}

/// What is kept of a sandbox.
#[derive(Serialize)]
struct Kept {
    /// Its record, its disk, and what else is its own.
    directory: String,
    /// Its disk, if it has kept one.
    disk: Option<named::DiskUse>,
}

/// What describes a sandbox.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Described {
    /// This.
    As(Box<Description>),
    /// Nothing that could be used.
    Not(Report),
}

/// As it would be started now.
#[derive(Serialize)]
struct Description {
    /// Its name there.
    name: String,
    agent: Option<String>,
    on_create: Vec<Vec<String>>,
    on_start: Vec<Vec<String>>,
    /// As `viv up --dry-run --json` has it, without its machine, and without the id of one that there is not.
    #[serde(flatten)]
    resolved: Value,
}

/// Prints everything about sandboxes, as JSON.
///
/// # Errors
/// Names of none or of several.
pub fn inspect(arguments: &InspectArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    let find = |name: &String| targets::find(name, &desk.paths).and_then(|found| look(found, &desk));
    print_json(&arguments.names.iter().map(find).collect::<Result<Vec<_>, _>>()?)?;
    Ok(0)
}

/// Each start has another id, so that of one which was only imagined means nothing.
fn without_id(resolved: &Resolved) -> Value {
    // All of it is text and numbers, which JSON has.
    let mut resolved = serde_json::to_value(resolved).unwrap_or_default();
    if let Some(sandbox) = resolved.get_mut("sandbox").and_then(Value::as_object_mut) {
        sandbox.remove("id");
    }
    resolved
}

fn look(found: Found, desk: &Desk<'_>) -> Result<Inspected, Failure> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let log_of = |id: &str| Some(text(&logs_of(&desk.paths.state).join(id)));
    let named = match found {
        Found::OfRun(record) => {
            let network_log = log_of(&record.id);
            return Ok(Inspected {
                listed: Listed::of_run(*record).to_json(),
                kept: None,
                described: None,
                network_log,
            });
        }
        Found::Named(named) => *named,
    };
    let kept = Kept {
        directory: text(&named::directory_of(&desk.paths, &named.name)),
        disk: named::disk_of(&desk.paths, &named.name)?,
    };
    let described = targets::of(&named, &desk.host, &desk.paths).and_then(|target| {
        let settled = settle(&target, StartOptions::default(), desk)?;
        let Definition { name, agent, on_create, on_start, .. } = target.definition;
        let resolved = without_id(&settled.resolved);
        Ok(Description { name, agent, on_create, on_start, resolved })
    });
    let described = match described {
        Ok(description) => Some(Described::As(Box::new(description))),
        Err(failure) => failure.report.map(Described::Not),
    };
    let network_log = named.id.as_deref().and_then(log_of);
    Ok(Inspected { listed: Listed::of_named(named).to_json(), kept: Some(kept), described, network_log })
}
