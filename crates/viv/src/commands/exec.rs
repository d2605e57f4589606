//! `viv exec`

use viv_proto::message::Exec;
use viv_proto::message::TerminalSize;
use viv_sandbox::{NewSession, Paths, Record, Viewing};

use super::life::{Programs, running_one};
use super::run::failure_of_exec;
use super::viewer::view;
use super::{Limits, block_on, conclude, ending_signal};
use crate::cli::ExecArguments;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::clean::clean;
use crate::output::{Printer, milliseconds, print};
use crate::resolve;
use crate::settings::layer::Found;
use crate::settings::{EnvironmentValue, Origin};
use crate::terminal::{self, Descriptor, End, Session, SessionOptions, Signals, Streams};

/// The size of a terminal that nobody looks at.
const UNSEEN: TerminalSize = TerminalSize { columns: 80, rows: 24 };

/// Runs a program in a running sandbox and returns its exit code.
///
/// # Errors
/// Whatever keeps the program from running to its end.
pub fn exec(arguments: &ExecArguments, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    let (record, programs) = running_one(&arguments.sandbox, &paths)?;
    let at_terminal = terminal::wanted();
    let has_session = at_terminal || arguments.detach;
    if arguments.tty && !at_terminal {
        return Err(Error::new(ErrorKind::Usage, "--tty: input and output are no terminal").into());
    }
    if arguments.session.is_some() && !has_session {
        let useless = Error::new(ErrorKind::Usage, "--session: without a terminal the program has no session");
        return Err(useless.hint("--detach begins one without a terminal of ours").into());
    }
    let size = at_terminal.then(terminal::size);
    let terminal = has_session.then(|| size.unwrap_or(UNSEEN));
    let exec = plan(arguments, &record, programs, terminal, &host)?;
    if !has_session {
        let options = SessionOptions { terminal: false, timeout: arguments.timeout, detach: None };
        return block_on(run_program(&paths, &record, exec, options, printer))?;
    }
    let new = NewSession {
        exec,
        name: arguments.session.clone(),
        size_policy: arguments.view.size.unwrap_or_default(),
        ends_sandbox: false,
        timeout_ms: arguments.timeout.map(milliseconds),
        viewing: size.filter(|_| !arguments.detach).map(|size| Viewing { size, read_only: false }),
    };
    block_on(run_session(arguments, &paths, &record, new, printer))?
}

/// Begins a session, and looks at it unless it is to be left to itself.
async fn run_session(
    arguments: &ExecArguments,
    paths: &Paths,
    record: &Record,
    new: NewSession,
    printer: &Printer,
) -> Result<u8, Failure> {
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    signals.listen_to_terminal().map_err(error::io("cannot listen to signals"))?;
    let connection = tokio::select! {
        connection = viv_sandbox::new_session(paths, record, new) => connection.map_err(failure_of_exec)?,
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    if arguments.detach {
        print(&format!("{}\n", connection.session.number))?;
        return Ok(0);
    }
    view(connection, record, arguments.view.detach_keys, &mut signals, printer).await
}

fn plan(
    arguments: &ExecArguments,
    record: &Record,
    programs: Option<Programs>,
    terminal: Option<TerminalSize>,
    host: &HostEnvironment,
) -> Result<Exec, Error> {
    let workspace = record.workspace.to_str().ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            format!("the workspace {} is not UTF-8", clean(&record.workspace.to_string_lossy())),
        )
    })?;
    let asked = arguments
        .env
        .iter()
        .map(|request| {
            let value = request.value.clone().map_or(EnvironmentValue::FromHost, EnvironmentValue::Literal);
            (request.name.clone(), Found { value, origin: Origin::CommandLine })
        })
        .collect();
    let (own_user, own_cwd) = programs.map(|Programs { user, cwd }| (user, cwd)).unzip();
    Ok(Exec {
        argv: arguments.command.clone(),
        env: resolve::environment(asked, terminal.is_some(), host),
        cwd: resolve::working_directory(arguments.workdir.clone().or(own_cwd), workspace),
        user: match (&arguments.user, arguments.root) {
            (Some(user), _) => user.clone(),
            (None, true) => "root".to_owned(),
            (None, false) => own_user.unwrap_or_else(|| resolve::AGENT.to_owned()),
        },
        terminal,
    })
}

async fn run_program(
    paths: &Paths,
    record: &Record,
    program: Exec,
    options: SessionOptions,
    printer: &Printer,
) -> Result<u8, Failure> {
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    let started = tokio::select! {
        started = viv_sandbox::exec_in(paths, record, &program) => started.map_err(failure_of_exec)?,
        number = ending_signal(&mut signals) => return Err(Failure::quiet(exit_code::of_signal(number))),
    };
    let streams = Streams {
        stdin: Box::new(Descriptor::stdin()),
        stdout: Box::new(Descriptor::stdout()),
        stderr: Box::new(Descriptor::stderr()),
    };
    let session = Session::begin(started.writer, streams, options).map_err(error::io("cannot use the terminal"))?;
    let (end, summary) = session.run(started.reader, &mut signals, std::future::pending()).await;
    printer.note_unfinished_line(summary.stderr_unfinished);
    let limits = Limits { memory: record.memory_mib << 20, disk: None, timeout: options.timeout };
    if let End::Disconnected(_) = &end {
        let ended = Error::new(ErrorKind::SandboxLost, format!("sandbox {} ended while the program ran", record.id));
        return Err(ended.into());
    }
    conclude(&end, printer, limits)
}
