//! `viv audit`

use std::path::{Path, PathBuf};

use viv_audit::{
    Entry, Event, FileSummary, Line, LogReference, ProgramEnd, Recorded, Store, Transcript, Verdict, VerifyOptions,
};
use viv_net::event::LOG_FILE;
use viv_net::log::read_log;
use viv_sandbox::{Paths, logs_for_audit};

use super::net;
use crate::cli::audit::{AuditCommand, AuditShowArguments, AuditVerifyArguments};
use crate::error::Failure;
use crate::exit_code;
use crate::output::clean::clean;
use crate::output::time::rfc3339;
use crate::output::{print, print_json, shell_words, table};
use crate::settings::values::human_bytes;

/// Beside a copied timeline: the logs it refers to, in a directory for each sandbox.
pub const LOGS: &str = "logs";

/// So many files are named in a line for people; `--json` has more.
const NAMED: usize = 10;

/// `viv audit`
///
/// # Errors
/// A timeline that is not there or cannot be read.
pub fn audit(command: &AuditCommand) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    match command {
        AuditCommand::Ls(arguments) => list(&paths, arguments.json),
        AuditCommand::Show(arguments) => show(&paths, arguments),
        AuditCommand::Verify(arguments) => verify(&paths, arguments),
    }
}

fn list(paths: &Paths, json: bool) -> Result<u8, Failure> {
    let entries = Store::new(&paths.state).list()?;
    if json {
        print_json(&entries)?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let state = match (entry.running, entry.closed) {
                (true, _) => "running",
                (false, true) => "ended",
                (false, false) => "left open",
            };
            vec![
                entry.name.clone(),
                entry.sandbox.clone(),
                state.to_owned(),
                rfc3339(entry.at_ms),
                entry.lines.to_string(),
            ]
        })
        .collect();
    print(&table(&["NAME", "SANDBOX", "STATE", "LAST EVENT", "LINES"], &rows))?;
    Ok(0)
}

fn show(paths: &Paths, arguments: &AuditShowArguments) -> Result<u8, Failure> {
    let entry = Store::new(&paths.state).find(&arguments.sandbox)?;
    let lines = entry.read()?;
    if arguments.json {
        let mut text = String::new();
        for line in &lines {
            text.push_str(&serde_json::to_string(line).unwrap_or_default());
            text.push('\n');
        }
        print(&text)?;
        return Ok(0);
    }
    // What was connected to, refused and asked of models is in the network's log: told where it belongs.
    let mut told: Vec<(u64, String)> = lines.iter().map(|line| (line.at_ms, text_of(&line.event))).collect();
    for sandbox in sandboxes(&lines) {
        let [log, ..] = &logs_for_audit(&paths.state, &sandbox, "network").unwrap_or_default()[..] else { continue };
        debug_assert!(log.ends_with(LOG_FILE));
        told.extend(
            read_log(log)?.iter().map(|event| (event.at_ms, format!("network   {}", net::text_of(&event.what)))),
        );
    }
    // Stable: what has the same time stays in the order it was written in.
    told.sort_by_key(|(at_ms, _)| *at_ms);
    let text: String = told.iter().map(|(at, text)| format!("{}  {}\n", rfc3339(*at), clean(text))).collect();
    print(&text)?;
    Ok(0)
}

/// The ids that a timeline tells of.
pub fn sandboxes(lines: &[Line]) -> Vec<String> {
    let ids = lines.iter().filter_map(|line| match &line.event {
        Event::Start { sandbox, .. } => Some(sandbox.clone()),
        _ => None,
    });
    ids.collect()
}

/// An event for people, on one line.
fn text_of(event: &Event) -> String {
    match event {
        Event::Start { sandbox, name, version, .. } => {
            let name = name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
            format!("start     sandbox {sandbox}{name}, viv {version}")
        }
        Event::Policy { network, rules } => {
            let rules = if rules["policy"].is_null() { String::new() } else { format!(": {}", rules["policy"]) };
            format!("policy    network {network}{rules}")
        }
        Event::Ready { way } => format!("ready     {}", way["kind"].as_str().unwrap_or("?")),
        Event::Exec(exec) => {
            let session = exec.session.as_deref().map(|session| format!(", session {session}")).unwrap_or_default();
            let argv = if exec.argv.is_empty() { "(login shell)".to_owned() } else { shell_words(&exec.argv) };
            let terminal = if exec.terminal.is_some() { ", at a terminal" } else { "" };
            format!("exec      {}: {argv} as {} in {}{terminal}{session}", exec.program, exec.user, exec.cwd)
        }
        Event::ExecEnded { program, end, recording } => {
            format!("ended     {program}: {}{}", end_text(end), recording.as_ref().map(recorded).unwrap_or_default())
        }
        Event::Recording { program, recording } => format!("recording {program}{}", recorded(recording)),
        Event::Request { kind, subject } => {
            format!("request   {kind}{}", subject.as_deref().map(|subject| format!(" {subject}")).unwrap_or_default())
        }
        Event::Port { port } => format!("port      {port} of the guest was connected to"),
        Event::Log(reference) => log_text(reference),
        Event::Files(summary) => files_text(summary),
        Event::Transcript(Transcript { agent, path, file, bytes, .. }) => {
            format!("transcript {agent}: {path} ({}), kept as {file}", human_bytes(*bytes))
        }
        Event::TranscriptsLeftOut { files, reasons } => {
            format!("transcripts {files} left out: {}", reasons.join("; "))
        }
        Event::Paused => "paused".to_owned(),
        Event::Resumed => "resumed".to_owned(),
        Event::End { reason, error } => {
            format!("end       {reason}{}", error.as_deref().map(|error| format!(": {error}")).unwrap_or_default())
        }
        Event::Recovered { adopted_lines, torn_bytes, .. } => {
            format!("recovered the writer before was killed; {adopted_lines} lines adopted, {torn_bytes} bytes torn")
        }
        Event::SetAside { directory } => format!("set aside what was here did not verify and is in {directory}"),
        Event::Dropped { segment, through_seq, .. } => format!("dropped   {segment}, up to line {through_seq}"),
        Event::DroppedRecording { file } => format!("dropped   recording {file}"),
        Event::DroppedTranscript { file } => format!("dropped   transcript {file}"),
        Event::Lost { events } => format!("lost      {events} events could not be written"),
    }
}

fn files_text(summary: &FileSummary) -> String {
    let FileSummary { mode, added, changed, deleted, renamed, names } = summary;
    let mut text = format!("files     {mode}: {added} added, {changed} changed, {deleted} deleted, {renamed} renamed");
    for name in names.iter().take(NAMED) {
        text.push_str(&format!("; {name}"));
    }
    if names.len() > NAMED {
        text.push_str(&format!("; and {} more", names.len() - NAMED));
    }
    text
}

/// How a program ended, for people.
pub fn end_text(end: &ProgramEnd) -> String {
    match end {
        ProgramEnd::Exited { signal: Some(signal), .. } => format!("killed by signal {signal}"),
        ProgramEnd::Exited { code, signal: None } => format!("exit code {code}"),
        ProgramEnd::Refused { reason } => format!("not begun: {reason}"),
        ProgramEnd::Unseen => "nobody saw its end".to_owned(),
    }
}

fn recorded(recorded: &Recorded) -> String {
    let omitted = match recorded.omitted_bytes {
        0 => String::new(),
        bytes => format!(", {} left out", human_bytes(bytes)),
    };
    format!(", recorded in {} ({}{omitted})", recorded.file, human_bytes(recorded.bytes))
}

fn log_text(LogReference { log, bytes, events, closed, .. }: &LogReference) -> String {
    let counts: Vec<String> = events.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let closed = if *closed { ", closed" } else { "" };
    format!("log       {log}: {} ({}){closed}", human_bytes(*bytes), counts.join(", "))
}

fn verify(paths: &Paths, arguments: &AuditVerifyArguments) -> Result<u8, Failure> {
    let is_path = arguments.sandbox.contains('/');
    let directory = if is_path {
        PathBuf::from(&arguments.sandbox)
    } else {
        Store::new(&paths.state).find(&arguments.sandbox)?.directory
    };
    let beside = directory.parent().unwrap_or(Path::new(".")).join(LOGS);
    let in_state = |sandbox: &str, log: &str| logs_for_audit(&paths.state, sandbox, log);
    let in_copy = |sandbox: &str, log: &str| logs_of_copy(&beside, sandbox, log);
    let logs: &dyn Fn(&str, &str) -> Option<Vec<PathBuf>> = if is_path { &in_copy } else { &in_state };
    let options = VerifyOptions { anchor: arguments.head, logs: Some(logs) };
    let verdict = viv_audit::verify(&directory, &options)?;
    if arguments.json {
        print_json(&verdict)?;
    } else {
        print(&render(&verdict))?;
    }
    Ok(if verdict.ok { 0 } else { exit_code::AUDIT_FAILED })
}

fn logs_of_copy(beside: &Path, sandbox: &str, log: &str) -> Option<Vec<PathBuf>> {
    let is_id = !sandbox.is_empty() && sandbox.bytes().all(|byte| byte.is_ascii_hexdigit());
    let directory = beside.join(sandbox);
    if !is_id || !directory.is_dir() {
        return None;
    }
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    Some(files.filter(|path| (log == "usage") == path.ends_with(viv_net::gateway::USAGE_FILE)).collect())
}

fn render(verdict: &Verdict) -> String {
    let mut text = String::new();
    for finding in &verdict.findings {
        let line = finding.line.map(|line| format!(", line {line}")).unwrap_or_default();
        let kind = crate::output::name_of(&finding.kind);
        text.push_str(&format!("{kind}: {}{line}: {}\n", clean(&finding.file), clean(&finding.message)));
    }
    for note in &verdict.notes {
        text.push_str(&format!("note: {}\n", clean(note)));
    }
    let verdict_text = match (verdict.ok, verdict.running, verdict.closed) {
        (false, ..) => "NOT as it was written",
        (true, true, _) => "as it was written so far",
        (true, false, true) => "whole",
        (true, false, false) => "as it was written until its writer was killed",
    };
    text.push_str(&format!("{verdict_text}: {} lines, head {}\n", verdict.lines, verdict.head));
    text
}

/// The logs that a timeline refers to, with the names they have in a copy.
pub fn logs_to_copy(paths: &Paths, entry: &Entry) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
    let mut files = Vec::new();
    for sandbox in sandboxes(&entry.read()?) {
        for log in ["network", "usage"] {
            for path in logs_for_audit(&paths.state, &sandbox, log).unwrap_or_default() {
                if let (Some(name), true) = (path.file_name(), path.is_file()) {
                    files.push((Path::new(LOGS).join(&sandbox).join(name), path.clone()));
                }
            }
        }
    }
    Ok(files)
}
