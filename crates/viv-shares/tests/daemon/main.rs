//! The daemon as a hostile guest meets it: the real process, in its real namespaces, with requests made by hand.
//!
//! Each test runs the daemon as the current user and, if that is root, as an ordinary user as well.

mod cases;
mod coherent;
mod gathered;
mod guard;
mod guest;
mod later;

use std::os::fd::AsFd;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};

fn main() -> ExitCode {
    if std::env::var_os(guest::DAEMON_VARIABLE).is_some() {
        return daemon();
    }
    if let Ok(shares) = std::env::var(later::OWNER_VARIABLE) {
        return later::owner(&shares);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // What the harness of Rust and nextest agree on.
    if has("--list") {
        if !has("--ignored") {
            all().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    if !cases::namespaces_work() {
        assert!(std::env::var("CI").is_err(), "user namespaces are needed, and denied here");
        eprintln!("SKIPPED: user namespaces are denied here");
        return ExitCode::SUCCESS;
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    for (name, test) in all() {
        let runs =
            wanted.is_none_or(|wanted| if has("--exact") { wanted == name } else { name.contains(wanted.as_str()) });
        if runs {
            eprintln!("test {name}");
            test();
        }
    }
    ExitCode::SUCCESS
}

/// All tests, by name.
fn all() -> impl Iterator<Item = &'static (&'static str, fn())> {
    cases::ALL.iter().chain(coherent::ALL).chain(gathered::ALL).chain(guard::ALL).chain(later::ALL)
}

/// The daemon's process: listens on its standard input, is ready on its standard output, and is told what to do on its
/// standard error. Nothing of the three is open in any other process of the tests.
fn daemon() -> ExitCode {
    if let Ok(limit) = std::env::var(guest::OPEN_FILES_VARIABLE) {
        let limit = limit.parse().ok();
        setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
    }
    let listener = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let ready = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
    let input = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    // The error is told through `ready`.
    viv_shares::serve(input, listener, ready).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}
