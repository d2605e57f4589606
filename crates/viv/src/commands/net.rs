//! `viv net`, `viv port`, `viv usage`

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use viv_net::event::{Event, LOG_FILE, What};
use viv_net::gateway::{USAGE_FILE, UsageLine, read_usage, summarize};
use viv_net::learn::{denied, learn};
use viv_net::log::{LogReader, read_log};
use viv_sandbox::{NetworkMode, Paths, Record, logs_of};

use super::{block_on, bridge, denials, run};
use crate::cli::network::{
    DeniedArguments, LearnArguments, LogArguments, NetCommand, PortArguments, TrustArguments, UsageArguments,
};
use crate::environment::HostEnvironment;
use crate::error::{Error, ErrorKind, Failure};
use crate::network::trusted;
use crate::output::{Printer, name_of, print, print_json, table};
use crate::settings::file::{self, PROJECT_FILE, Trust};
use crate::settings::values::human_bytes;

/// How often a log is looked at that is followed.
const GLANCE: Duration = Duration::from_millis(200);

/// `viv net`
///
/// # Errors
/// A sandbox that is not there, files that cannot be read or written.
pub fn net(command: &NetCommand, printer: &Printer) -> Result<u8, Failure> {
    match command {
        NetCommand::Log(arguments) => log(arguments),
        NetCommand::Denied(arguments) => show_denied(arguments),
        NetCommand::Learn(arguments) => learn_from(arguments, printer),
        NetCommand::Trust(arguments) => trust(arguments, printer),
        NetCommand::Setup(arguments) => bridge::setup(arguments),
        NetCommand::Teardown(arguments) => bridge::teardown(arguments),
    }
}

fn log(arguments: &LogArguments) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let directory = directory_of(&paths, arguments.sandbox.as_deref())?;
    let show = |events: Vec<Event>| -> Result<(), Failure> {
        let lines: Vec<String> =
            events.iter().map(|event| if arguments.json { json_line(event) } else { line(event) }).collect();
        print(&lines.concat())
    };
    let path = directory.join(LOG_FILE);
    if !arguments.follow {
        show(read_log(&path)?)?;
        return Ok(0);
    }
    let id = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut reader = LogReader::new(&path);
    loop {
        // First whether it runs, then what it did: its last words are read after its end.
        let runs = viv_sandbox::list(&paths)?.iter().any(|record| record.id == id);
        show(reader.next_events()?)?;
        if !runs {
            return Ok(0);
        }
        std::thread::sleep(GLANCE);
    }
}

fn json_line(event: &Event) -> String {
    serde_json::to_string(event).map(|line| line + "\n").unwrap_or_default()
}

/// An event for people.
fn line(event: &Event) -> String {
    let seconds = event.at_ms / 1000;
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{time} UTC  {}\n", text_of(&event.what))
}

/// What happened, for people.
pub fn text_of(what: &What) -> String {
    match what {
        What::Connected { via, host, port, address, rule } => {
            format!("connected  {host}:{port} at {address}, {} ({rule})", name_of(via))
        }
        What::Closed { host, port, sent, received, .. } => {
            format!("closed     {host}:{port}, {} sent, {} received", human_bytes(*sent), human_bytes(*received))
        }
        What::Denied(denial) => format!("denied     {}", denials::line(denial)),
        What::Failed { host, port, reason, .. } => format!("failed     {host}:{port}: {reason}"),
        What::Call { upstream, model, status, milliseconds, .. } => {
            let model = model.as_deref().unwrap_or("no model");
            format!("call       {upstream}, {model}: {status} after {milliseconds} ms")
        }
        What::Refused { upstream, reason, .. } => format!("refused    {upstream}: {reason}"),
    }
}

fn show_denied(arguments: &DeniedArguments) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let directory = directory_of(&paths, arguments.sandbox.as_deref())?;
    let refusals = denied(&read_log(&directory.join(LOG_FILE))?);
    if arguments.json {
        print_json(&refusals)?;
        return Ok(0);
    }
    let mut text = String::new();
    let rules: Vec<&str> = refusals.iter().filter_map(|refusal| refusal.allow.as_deref()).collect();
    for refusal in &refusals {
        let times = if refusal.count == 1 { "once".to_owned() } else { format!("{} times", refusal.count) };
        text.push_str(&format!("# {times}: {}\n", refusal.reason));
    }
    text.push_str(&policy_text(&rules));
    print(&text)?;
    Ok(0)
}

/// A policy, ready to paste into a configuration file.
fn policy_text(rules: &[&str]) -> String {
    let mut text = String::from("[run]\nallow = [\n");
    for rule in rules {
        text.push_str(&format!("    {},\n", toml::Value::from(*rule)));
    }
    text + "]\n"
}

fn learn_from(arguments: &LearnArguments, printer: &Printer) -> Result<u8, Failure> {
    if arguments.run.command.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "there is no command to learn from")
            .hint("viv net learn -- npm test")
            .into());
    }
    if arguments.run.attempts.attempts.is_some() {
        return Err(
            Error::new(ErrorKind::Usage, "--attempts is not for viv net learn, which runs a command once").into()
        );
    }
    let paths = Paths::from_environment()?;
    let (code, id) = run::run_with(&arguments.run, printer, &|network| {
        let NetworkMode::Filtered { policy } = &mut network.mode else {
            return Err(Error::new(ErrorKind::Usage, "there is something to learn with --net filtered alone"));
        };
        policy.open = true;
        Ok(())
    })?;
    let rules = learn(&read_log(&logs_of(&paths.state).join(id).join(LOG_FILE))?);
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    print(&policy_text(&rules))?;
    Ok(code)
}

fn trust(arguments: &TrustArguments, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    let named = arguments.directory.as_deref().unwrap_or(Path::new("."));
    let workspace = host.directory.join(named).canonicalize().map_err(|error| {
        Error::new(ErrorKind::NotFound, format!("{} cannot be opened", named.display())).source(error)
    })?;
    if arguments.revoke {
        trusted::record(&paths, &workspace, None)?;
        printer.note(&format!("what {}/viv.toml asks for is trusted no more", workspace.display()));
        return Ok(0);
    }
    let project = file::read(&workspace.join(PROJECT_FILE), Trust::Project { workspace: &workspace })?;
    let wish = trusted::wish(&project).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{}/viv.toml asks for nothing that needs trust", workspace.display()))
    })?;
    trusted::record(&paths, &workspace, Some(&wish))?;
    printer.note(&format!("trusted as it stands now:\n{wish}"));
    Ok(0)
}

/// `viv port`
///
/// # Errors
/// A sandbox that does not run, a port that is taken.
pub fn port(arguments: &PortArguments) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let record = viv_sandbox::find(&paths, &arguments.sandbox)?;
    if let Some(wanted) = arguments.port {
        let address = block_on(viv_sandbox::publish(&paths, &record, wanted))??;
        print(&format!("{address}\n"))?;
        return Ok(0);
    }
    if arguments.json {
        print_json(&record.published)?;
    } else {
        let lines = record.published.iter().map(|port| format!("{} -> {}\n", port.address, port.guest_port));
        print(&lines.collect::<String>())?;
    }
    Ok(0)
}

/// A sandbox's use of model APIs.
#[derive(Serialize)]
struct SandboxUsage {
    /// Its id.
    sandbox: String,
    #[serde(flatten)]
    line: UsageLine,
}

/// `viv usage`
///
/// # Errors
/// A sandbox that is not there, records that cannot be read.
pub fn usage(arguments: &UsageArguments) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let directories = match &arguments.sandbox {
        Some(sandbox) => vec![directory_of(&paths, Some(sandbox))?],
        None => directories(&paths),
    };
    let mut lines = Vec::new();
    for directory in directories {
        let sandbox = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let records = read_usage(&directory.join(USAGE_FILE))?;
        lines.extend(summarize(&records).into_iter().map(|line| SandboxUsage { sandbox: sandbox.clone(), line }));
    }
    if arguments.json {
        print_json(&lines)?;
        return Ok(0);
    }
    if lines.is_empty() {
        print("no model API was called\n")?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|SandboxUsage { sandbox, line }| {
            vec![
                sandbox.clone(),
                line.agent.to_string(),
                line.model.clone().unwrap_or_else(|| "-".to_owned()),
                line.requests.to_string(),
                line.errors.to_string(),
                line.tokens.input.to_string(),
                line.tokens.cached.to_string(),
                line.tokens.output.to_string(),
                line.microdollars.map_or_else(|| "?".to_owned(), dollars),
            ]
        })
        .collect();
    let headings = ["SANDBOX", "AGENT", "MODEL", "CALLS", "ERRORS", "INPUT", "CACHED", "OUTPUT", "COST"];
    print(&table(&headings, &rows))?;
    Ok(0)
}

#[allow(clippy::cast_precision_loss, reason = "four decimals are shown")]
fn dollars(microdollars: u64) -> String {
    format!("{:.4} USD", microdollars as f64 / 1e6)
}

/// The log directories, the latest first.
fn directories(paths: &Paths) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(logs_of(&paths.state)).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            Some((entry.metadata().ok()?.created().or(entry.metadata().ok()?.modified()).ok()?, entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// The log directory of a sandbox, which may have ended; of the latest one if none is named.
fn directory_of(paths: &Paths, wanted: Option<&str>) -> Result<PathBuf, Failure> {
    let all = directories(paths);
    let missing = |what: String| Failure::from(Error::new(ErrorKind::NotFound, what).hint("viv ps"));
    let Some(wanted) = wanted else {
        return all.into_iter().next().ok_or_else(|| missing("no sandbox has left a log".to_owned()));
    };
    let running: Vec<Record> = viv_sandbox::list(paths)?;
    let named = running.iter().find(|record| record.id == wanted || record.name.as_deref() == Some(wanted));
    let beginning = named.map_or(wanted, |record| record.id.as_str());
    let is_called = |path: &PathBuf| {
        path.file_name().is_some_and(|id| id.to_string_lossy().starts_with(beginning))
            || name_in(path).as_deref() == Some(wanted)
    };
    let mut matching = all.into_iter().filter(is_called);
    match (matching.next(), matching.next()) {
        (Some(only), None) => Ok(only),
        // Several sandboxes may have had one name, the latest comes first.
        (Some(latest), Some(_)) if name_in(&latest).as_deref() == Some(wanted) => Ok(latest),
        (Some(_), Some(_)) => Err(missing(format!("more than one sandbox's id begins with {wanted:?}"))),
        (None, _) => Err(missing(format!("no sandbox called {wanted:?} has left a log"))),
    }
}

/// The name that a sandbox had.
fn name_in(directory: &Path) -> Option<String> {
    std::fs::read_to_string(directory.join(viv_sandbox::NAME_FILE)).ok()
}
