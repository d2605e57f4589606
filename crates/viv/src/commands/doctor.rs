//! `viv doctor`

use std::fmt::Write;

use owo_colors::OwoColorize;
use serde::Serialize;
use viv_sandbox::Paths;

use crate::cli::DoctorArguments;
use crate::doctor::checks::{Check, Status, judge};
use crate::doctor::mend::{self, Root};
use crate::doctor::probe::probe;
use crate::error::Failure;
use crate::exit_code;
use crate::output::clean::clean;
use crate::output::{Printer, print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Verdict<'a> {
    /// Nothing fails.
    ready: bool,
    checks: &'a [Check],
}

/// Looks at the machine, and mends it if asked to.
///
/// # Errors
/// A stdout that cannot be written; what is wrong with the machine is no error.
pub fn doctor(arguments: &DoctorArguments, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let mut checks = judge(&probe(&paths));
    if arguments.fix {
        mend_all(&checks, printer);
        checks = judge(&probe(&paths));
    }
    let ready = !checks.iter().any(|check| check.status == Status::Fail);
    if arguments.json {
        print_json(&Verdict { ready, checks: &checks })?;
    } else {
        print(&render(&checks, arguments.fix))?;
    }
    Ok(if ready { 0 } else { exit_code::DOCTOR_FAILED })
}

fn mend_all(checks: &[Check], printer: &Printer) {
    let steps = mend::steps(checks);
    if steps.is_empty() {
        return;
    }
    let root = mend::root();
    for step in &steps {
        let description = step.describe();
        let without_sudo = description.strip_prefix("sudo ").unwrap_or(&description);
        printer.note(&format!("+ {}", if root == Root::Already { without_sudo } else { &description }));
        if let Err(reason) = mend::take(step, root) {
            printer.warning(&reason, None);
        }
    }
}

/// The verdicts for people.
fn render(checks: &[Check], after_fix: bool) -> String {
    let mut text = String::new();
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok  ".green().to_string(),
            Status::Warn => "warn".yellow().bold().to_string(),
            Status::Fail => "fail".red().bold().to_string(),
        };
        let _ = writeln!(text, "{status}  {:width$}  {}", check.name, clean(&check.message));
        let Some(fix) = &check.fix else { continue };
        let indent = " ".repeat(width + 8);
        for step in &fix.steps {
            let _ = writeln!(text, "{indent}{} {}", "fix:".cyan(), clean(&step.describe()));
        }
        if let Some(note) = &fix.note {
            let _ = writeln!(text, "{indent}{} {}", "note:".cyan(), clean(note));
        }
    }
    let failing = checks.iter().filter(|check| check.status == Status::Fail).count();
    let mendable = !after_fix && !mend::steps(checks).is_empty();
    let remedy = if mendable { "; `viv doctor --fix` runs the fixes above" } else { "" };
    match failing {
        0 => {
            let _ = writeln!(text, "\nready{remedy}");
        }
        1 => {
            let _ = writeln!(text, "\n1 problem{remedy}");
        }
        _ => {
            let _ = writeln!(text, "\n{failing} problems{remedy}");
        }
    }
    text
}
