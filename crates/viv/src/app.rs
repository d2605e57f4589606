//! From the command line to an exit code.

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as ClapKind;
use viv_error::Report;

use crate::cli::network::NetCommand;
use crate::cli::{Cli, Command};
use crate::commands::life::{self, Verb};
use crate::commands::{
    agent, attach, audit, copy, doctor, exec, image, init, kernel, logs, manage, net, print, review, run, ssh, sync,
    template, unit,
};
use crate::doctor::probe;
use crate::error::Failure;
use crate::exit_code;
use crate::output::Printer;
use crate::terminal::raw;
use crate::unit::process;

/// Runs `viv`.
pub fn main() -> ExitCode {
    // What viv runs itself as comes first, and is not part of the command line of users.
    match std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some("internal-monitor") => return viv_sandbox::monitor_main(review::files_at_end),
        Some("internal-spare") => return viv_sandbox::spare_main(review::files_at_end),
        Some("internal-template-maker") => return viv_sandbox::maker_main(),
        Some("internal-egress") => return viv_net::egress_main(),
        Some("internal-file-daemon") => return viv_sandbox::file_daemon_main(),
        Some(name @ ("ssh-proxy" | "internal-unit")) => std::process::exit(by_others(name).into()),
        Some(probe::NAMESPACE_PROBE) => return namespace_probe(),
        Some("internal-reference") => {
            return print::reference().unwrap_or_else(|failure| failure.code).into();
        }
        Some("internal-schema") => {
            let user = std::env::args_os().nth(2).is_some_and(|which| which == "user");
            return print::schema(user).unwrap_or_else(|failure| failure.code).into();
        }
        _ => {}
    }
    give_terminal_back_on_panic();
    let code = match Cli::try_parse() {
        Ok(cli) => dispatch(&cli),
        Err(error) => refuse(&error),
    };
    // Not a return from main: a thread that still waits for stdin must not be waited for.
    std::process::exit(code.into())
}

/// What ssh and systemd run of viv, with the words that viv has put into their files.
fn by_others(name: &str) -> u8 {
    let words: Vec<String> = std::env::args_os().skip(2).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let printer = Printer::new(crate::cli::Verbosity::default(), false);
    match (name, &words[..]) {
        ("ssh-proxy", [host]) => ssh::proxy(host, &printer).unwrap_or_else(|failure| {
            printer.failure(&failure);
            failure.code
        }),
        ("internal-unit", ["--prepare", sandbox]) => process::run(sandbox, true, &printer),
        ("internal-unit", [sandbox]) => process::run(sandbox, false, &printer),
        _ => {
            eprintln!("viv {name} is not for people");
            exit_code::VIV_FAILED
        }
    }
}

fn dispatch(cli: &Cli) -> u8 {
    let json = match &cli.command {
        Command::Run(arguments) => arguments.json,
        Command::Up(arguments) => arguments.start.json,
        Command::Start(arguments) => arguments.start.json,
        Command::Restart(arguments) => arguments.start.json,
        Command::Down(arguments) => arguments.output.json,
        Command::Stop(arguments) | Command::Kill(arguments) => arguments.output.json,
        Command::Pause(arguments) | Command::Resume(arguments) => arguments.output.json,
        Command::Wait(arguments) => arguments.output.json,
        Command::Rm(arguments) => arguments.output.json,
        Command::Rename(arguments) => arguments.output.json,
        Command::Inspect(arguments) => arguments.json,
        Command::Disk(command) => command.is_json(),
        Command::Init(arguments) => arguments.json,
        Command::Cp(arguments) => arguments.json,
        Command::Sync(arguments) => arguments.json,
        Command::Ps(arguments) => arguments.json,
        Command::Attach(arguments) => arguments.json,
        Command::Kernel(arguments) => arguments.command.is_json(),
        Command::Image(command) => command.is_json(),
        Command::Template(command) => command.is_json(),
        Command::Net(NetCommand::Learn(arguments)) => arguments.run.json,
        Command::Net(NetCommand::Setup(arguments)) => arguments.json,
        Command::Net(NetCommand::Teardown(arguments)) => arguments.json,
        Command::Agent(command) => command.is_json(),
        Command::Diff(arguments) => arguments.json,
        Command::Accept(arguments) | Command::Reject(arguments) => arguments.json,
        Command::Undo(arguments) => arguments.json,
        Command::Logs(arguments) => arguments.json,
        Command::Audit(command) => command.is_json(),
        Command::SshConfig(arguments) => arguments.json,
        Command::Enable(arguments) => arguments.json,
        Command::Disable(arguments) => arguments.json,
        Command::Doctor(arguments) => arguments.json,
        _ => false,
    };
    let mut printer = Printer::new(cli.verbosity, json);
    if matches!(&cli.command, Command::Run(arguments) if arguments.ci.ci) {
        anstream::ColorChoice::Never.write_global();
        printer = printer.unattended(std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true"));
    }
    let result = match &cli.command {
        Command::Run(arguments) => run::run(arguments, &printer),
        Command::Init(arguments) => init::init(arguments, &printer),
        Command::Exec(arguments) => exec::exec(arguments, &printer),
        Command::Attach(arguments) => attach::attach(arguments, &printer),
        Command::Cp(arguments) => copy::copy(arguments, &printer),
        Command::Sync(arguments) => sync::sync(arguments, &printer),
        Command::Ps(arguments) => manage::ps(arguments),
        Command::Up(arguments) => life::up::up(arguments, &printer),
        Command::Down(arguments) => life::machine::down(arguments, &printer),
        Command::Start(arguments) => life::up::start(arguments, &printer),
        Command::Stop(arguments) => life::machine::end(arguments, Verb::Stop, &printer),
        Command::Kill(arguments) => life::machine::end(arguments, Verb::Kill, &printer),
        Command::Restart(arguments) => life::up::restart(arguments, &printer),
        Command::Pause(arguments) => life::machine::hold(arguments, Verb::Pause, &printer),
        Command::Resume(arguments) => life::machine::hold(arguments, Verb::Resume, &printer),
        Command::Wait(arguments) => life::wait::wait(arguments, &printer),
        Command::Rm(arguments) => life::machine::remove(arguments, &printer),
        Command::Rename(arguments) => life::machine::rename(arguments, &printer),
        Command::Inspect(arguments) => life::show::inspect(arguments, &printer),
        Command::Disk(command) => life::disk::disk(command, &printer),
        Command::Diff(arguments) => review::diff(arguments, &printer),
        Command::Review(arguments) => review::review(arguments, &printer),
        Command::Accept(arguments) => review::accept(arguments, &printer),
        Command::Reject(arguments) => review::reject(arguments, &printer),
        Command::Undo(arguments) => review::undo(arguments, &printer),
        Command::Kernel(arguments) => kernel::kernel(&arguments.command, &printer),
        Command::Image(command) => image::image(command, &printer),
        Command::Template(command) => template::template(command, &printer),
        Command::Net(command) => net::net(command, &printer),
        Command::Port(arguments) => net::port(arguments),
        Command::Agent(command) => agent::agent(command, &printer),
        Command::Logs(arguments) => logs::logs(arguments, &printer),
        Command::Audit(command) => audit::audit(command),
        Command::Ssh(arguments) => ssh::ssh(arguments),
        Command::SshConfig(arguments) => ssh::config(arguments),
        Command::Enable(arguments) => unit::enable(arguments, &printer),
        Command::Disable(arguments) => unit::disable(arguments, &printer),
        Command::Usage(arguments) => net::usage(arguments),
        Command::Doctor(arguments) => doctor::doctor(arguments, &printer),
        Command::Completions(arguments) => print::completions(arguments),
        Command::Man(arguments) => print::man(arguments),
    };
    result.unwrap_or_else(|failure| {
        printer.failure(&failure);
        failure.code
    })
}

/// What cannot be parsed, or asks for help.
fn refuse(error: &clap::Error) -> u8 {
    if matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) {
        // A reader that went away is no error.
        let _ = error.print();
        return 0;
    }
    // The command line could not be read, so whether it asks for JSON is a guess, and a safe one:
    // what stands before `--` is ours.
    let json = std::env::args_os().take_while(|argument| argument != "--").any(|argument| argument == "--json");
    if json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let report =
            Report { kind: "usage".to_owned(), message, causes: Vec::new(), hints: vec!["viv --help".to_owned()] };
        let failure = Failure { report: Some(report), code: exit_code::VIV_FAILED };
        Printer::new(crate::cli::Verbosity::default(), true).failure(&failure);
    } else {
        let _ = error.print();
    }
    // 2, which is clap's own, would look like the program's.
    exit_code::VIV_FAILED
}

fn namespace_probe() -> ExitCode {
    match probe::namespace_probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// A bug must not leave a raw terminal behind, nor a client that waits for a dead thread; without
/// its client, the monitor ends the sandbox.
fn give_terminal_back_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        raw::restore();
        report(panic);
        eprintln!("This is a bug in viv. The sandbox is ended.");
        std::process::exit(exit_code::VIV_FAILED.into());
    }));
}
