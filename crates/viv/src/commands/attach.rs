//! `viv attach`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use viv_sandbox::{AttachSession, Paths, Record, SessionInfo, Viewing};

use super::life::running_one;
use super::manage::{age_of, command_line};
use super::viewer::{name_of, view};
use super::{block_on, ending_signal};
use crate::cli::sessions::AttachArguments;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::{Printer, print, print_json, table};
use crate::terminal::{self, Signals};

/// Shows a session of a sandbox, lists them, or ends one.
///
/// # Errors
/// A sandbox or session that does not exist, no terminal.
pub fn attach(arguments: &AttachArguments, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let (record, _) = running_one(&arguments.sandbox, &paths)?;
    if arguments.list {
        let sessions = block_on(viv_sandbox::list_sessions(&paths, &record))??;
        if arguments.json {
            print_json(&sessions)?;
        } else {
            print(&render(&sessions, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))?;
        }
        return Ok(0);
    }
    if let (true, Some(session)) = (arguments.end, &arguments.session) {
        let ended = block_on(viv_sandbox::end_session(&paths, &record, session))??;
        printer.detail(&format!("session {} is hung up", name_of(&ended)));
        return Ok(0);
    }
    if !terminal::wanted() {
        let no_terminal = Error::new(ErrorKind::Usage, "a session is shown at a terminal, which this is not");
        return Err(no_terminal.hint(format!("viv attach {} --list", arguments.sandbox)).into());
    }
    block_on(show(arguments, &paths, &record, printer))?
}

async fn show(arguments: &AttachArguments, paths: &Paths, record: &Record, printer: &Printer) -> Result<u8, Failure> {
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    signals.listen_to_terminal().map_err(error::io("cannot listen to signals"))?;
    let wanted = AttachSession {
        session: arguments.session.clone(),
        viewing: Viewing { size: terminal::size(), read_only: arguments.read_only },
        size_policy: arguments.view.size,
    };
    let connection = tokio::select! {
        connection = viv_sandbox::attach_session(paths, record, wanted) => connection.map_err(|error| {
            error.hint(format!("viv attach {} --list", arguments.sandbox))
        })?,
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    let info = &connection.session;
    if let Some(end) = &info.ended {
        let ago = age_of(since(end.at_unix_ms, now()));
        match &end.report {
            Some(report) => printer.note(&format!(
                "session {} ended {ago} ago with exit code {}; what it showed last:",
                name_of(info),
                report.code
            )),
            None => {
                let lost = format!("session {} was lost {ago} ago: the connection to it broke", name_of(info));
                return Err(Error::new(ErrorKind::SandboxLost, lost).into());
            }
        }
    }
    view(connection, record, arguments.view.detach_keys, &mut signals, printer).await
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn since(unix_ms: u64, now: Duration) -> Duration {
    now.saturating_sub(Duration::from_millis(unix_ms))
}

/// The table; `now` is the time since the Unix epoch.
fn render(sessions: &[SessionInfo], now: Duration) -> String {
    if sessions.is_empty() {
        return "the sandbox has no session\n".to_owned();
    }
    let rows: Vec<Vec<String>> = sessions
        .iter()
        .map(|session| {
            let state = match &session.ended {
                None => "running".to_owned(),
                Some(end) => match &end.report {
                    Some(report) => format!("exit {}", report.code),
                    None => "lost".to_owned(),
                },
            };
            vec![
                session.number.to_string(),
                session.name.clone().unwrap_or_else(|| "-".to_owned()),
                state,
                age_of(since(session.began_at_unix_ms, now)),
                format!("{}x{}", session.size.columns, session.size.rows),
                session.viewers.to_string(),
                session.user.clone(),
                command_line(&session.command),
            ]
        })
        .collect();
    table(&["SESSION", "NAME", "STATE", "AGE", "SIZE", "VIEWERS", "USER", "COMMAND"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_reads_well() {
        let session = |number, name: Option<&str>, command: &[&str], ended| {
            serde_json::from_value::<SessionInfo>(serde_json::json!({
                "number": number, "name": name, "command": command, "user": "agent", "cwd": "/w", "environment": [],
                "pid": 100 + number,
                "size": {"columns": 80, "rows": 24}, "size_policy": "smallest", "began_at_unix_ms": 1_000_000,
                "viewers": 2, "ended": ended,
            }))
            .unwrap()
        };
        let sessions = [
            session(1, None, &[], serde_json::Value::Null),
            session(
                2,
                Some("build"),
                &["make", "-j4"],
                serde_json::json!({"at_unix_ms": 1_005_000, "report": {"code": 2}}),
            ),
            session(3, None, &["vim"], serde_json::json!({"at_unix_ms": 1_006_000, "report": null})),
        ];
        insta::assert_snapshot!(render(&sessions, Duration::from_secs(1090)));
        assert_eq!(render(&[], Duration::ZERO), "the sandbox has no session\n");
    }
}
