//! `viv exec`

use viv_proto::message::Exec;
use viv_sandbox::{Paths, Record};

use super::run::failure_of_exec;
use super::{Limits, block_on, conclude, ending_signal};
use crate::cli::ExecArguments;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::exit_code;
use crate::output::Printer;
use crate::output::clean::clean;
use crate::resolve;
use crate::settings::layer::Found;
use crate::settings::{EnvironmentValue, Origin};
use crate::terminal::{self, Descriptor, End, Session, SessionOptions, Signals, Streams};

/// Runs a program in a running sandbox and returns its exit code.
///
/// # Errors
/// Whatever keeps the program from running to its end.
pub fn exec(arguments: &ExecArguments, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    let record = viv_sandbox::find(&paths, &arguments.sandbox)?;
    let at_terminal = terminal::wanted();
    let program = plan(arguments, &record, at_terminal.then(terminal::size), &host)?;
    let options = SessionOptions { terminal: at_terminal, timeout: arguments.timeout };
    block_on(run_program(&paths, &record, program, options, printer))?
}

fn plan(
    arguments: &ExecArguments,
    record: &Record,
    terminal: Option<viv_proto::message::TerminalSize>,
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
    Ok(Exec {
        argv: arguments.command.clone(),
        env: resolve::environment(asked, terminal.is_some(), host),
        cwd: resolve::working_directory(arguments.workdir.clone(), workspace),
        user: match (&arguments.user, arguments.root) {
            (Some(user), _) => user.clone(),
            (None, true) => "root".to_owned(),
            (None, false) => resolve::AGENT.to_owned(),
        },
        terminal,
    })
}

async fn run_program(
    paths: &Paths,
    record: &Record,
    mut program: Exec,
    options: SessionOptions,
    printer: &Printer,
) -> Result<u8, Failure> {
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    if options.terminal {
        signals.listen_to_terminal().map_err(error::io("cannot listen to signals"))?;
        program.terminal = Some(terminal::size());
    }
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
