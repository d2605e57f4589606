//! `viv enable`, `viv disable`

use std::path::{Path, PathBuf};

use serde::Serialize;
use viv_sandbox::named::{self, Named};
use viv_sandbox::{NetworkMode, Paths};

use crate::cli::unit::{DisableArguments, EnableArguments};
use crate::commands::life;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::clean::clean;
use crate::output::{Printer, print, print_json};
use crate::unit::environment;
use crate::unit::manager::Manager;
use crate::unit::plan::{Scope, UnitPlan, unit_of};

/// What became of a unit, for `--json`.
#[derive(Debug, Serialize)]
struct Done {
    /// The sandbox.
    name: String,
    /// The unit.
    unit: String,
    /// Its file.
    file: PathBuf,
    /// `user` or `system`.
    scope: &'static str,
    /// Whether it is there now.
    enabled: bool,
    /// Whether it was otherwise before.
    changed: bool,
}

impl Done {
    fn new(manager: &Manager, name: &str, enabled: bool, changed: bool) -> Self {
        let scope = match manager.scope {
            Scope::User => "user",
            Scope::System => "system",
        };
        Self { name: name.to_owned(), unit: unit_of(name), file: manager.file(name), scope, enabled, changed }
    }
}

/// Has systemd start sandboxes. All are tried; the first failure is returned.
///
/// # Errors
/// A sandbox that is not there, no systemd, whatever keeps the sandbox from coming up.
pub fn enable(arguments: &EnableArguments, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    let manager = Manager::of(&host)?;
    let executable = std::env::current_exe().map_err(error::io("cannot find viv's own executable"))?;
    let chosen = chosen(&arguments.sandboxes, &paths)?;
    let environment = environment(&host);
    check_scope(&chosen, manager.scope, printer)?;
    let plan = |named| plan(named, &manager, &executable, &environment);
    if arguments.print {
        let texts = chosen.iter().map(|named| plan(named).text()).collect::<Result<Vec<_>, _>>()?;
        print(&texts.join("\n"))?;
        return Ok(0);
    }
    if let Some(first) = chosen.first() {
        manager.check(&executable, &first.name)?;
    }
    let done = each(&chosen, printer, |named| {
        let changed = !manager.file(&named.name).exists();
        printer.detail(&format!("systemd starts {}", named.name));
        manager.enable(&plan(named))?;
        Ok(Done::new(&manager, &named.name, true, changed))
    });
    if !lingers(&host) {
        let hint = Some("loginctl enable-linger");
        printer.warning("units start when you log in, and end when you have logged out everywhere", hint);
    }
    conclude(done, arguments.json, printer, "is started by systemd from now on")
}

/// Stops sandboxes that systemd starts, and has it start them no more. All are tried; the first failure is returned.
///
/// # Errors
/// No systemd, a sandbox that does not end.
pub fn disable(arguments: &DisableArguments, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let manager = Manager::of(&host)?;
    let executable = std::env::current_exe().map_err(error::io("cannot find viv's own executable"))?;
    if let Some(first) = arguments.sandboxes.first() {
        manager.check(&executable, first)?;
    }
    let done = each(&arguments.sandboxes, printer, |name| {
        let changed = manager.disable(name)?;
        Ok(Done::new(&manager, name, false, changed))
    });
    conclude(done, arguments.json, printer, "is not started by systemd")
}

/// Those that are named, or all that want it.
fn chosen(names: &[String], paths: &Paths) -> Result<Vec<Named>, Failure> {
    let all = named::list(paths)?;
    if names.is_empty() {
        let wanting: Vec<Named> = all.into_iter().filter(|named| named.autostart).collect();
        if wanting.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no sandbox has autostart = true")
                .hint("viv enable NAME")
                .into());
        }
        return Ok(wanting);
    }
    let find = |name: &String| {
        all.iter().find(|named| named.name == *name).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no sandbox called {name}"))
                .hint(format!("viv up {name}, where its viv.toml is; viv ps --all"))
                .into()
        })
    };
    names.iter().map(find).collect()
}

/// Refuses what a unit of this scope could never start: only root attaches to a bridge, and only the system's manager
/// starts units as root.
fn check_scope(chosen: &[Named], scope: Scope, printer: &Printer) -> Result<(), Failure> {
    if scope == Scope::System {
        return Ok(());
    }
    for named in chosen {
        if let NetworkMode::Bridge { bridge } = life::up::network_of(named, printer)? {
            let name = &named.name;
            let message = format!("{name} is described to be on the bridge {}, which takes root", clean(&bridge));
            return Err(Error::new(ErrorKind::Usage, message)
                .hint(format!(
                    "a unit of the system, of a sandbox of root's: sudo viv up {name} && sudo viv enable {name}"
                ))
                .into());
        }
    }
    Ok(())
}

fn plan<'a>(
    named: &'a Named,
    manager: &Manager,
    executable: &'a Path,
    environment: &'a [(String, String)],
) -> UnitPlan<'a> {
    UnitPlan { name: &named.name, scope: manager.scope, executable, workspace: &named.workspace, environment }
}

/// Whether the user's manager, and the runtime directory, are there without a login (loginctl(1), `enable-linger`).
fn lingers(host: &HostEnvironment) -> bool {
    // Root's units are the system's; only a runtime directory of a login goes with it.
    let of_login = host.variables.get("XDG_RUNTIME_DIR").is_some_and(|path| path.starts_with("/run/user/"));
    let name = host.variables.get("USER").or_else(|| host.variables.get("LOGNAME"));
    let marked = name.is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists());
    marked || (host.uid == 0 && !of_login)
}

/// Does it for each, and shows every failure but the first.
fn each<'a, T>(
    all: &'a [T],
    printer: &Printer,
    mut act: impl FnMut(&'a T) -> Result<Done, Failure>,
) -> (Vec<Done>, Option<Failure>) {
    let (mut done, mut first_failure) = (Vec::new(), None);
    for one in all {
        match act(one) {
            Ok(one) => done.push(one),
            Err(failure) if first_failure.is_some() => printer.failure(&failure),
            Err(failure) => first_failure = Some(failure),
        }
    }
    (done, first_failure)
}

fn conclude(
    (done, failure): (Vec<Done>, Option<Failure>),
    json: bool,
    printer: &Printer,
    words: &str,
) -> Result<u8, Failure> {
    if json {
        print_json(&done)?;
    } else {
        done.iter().for_each(|Done { name, unit, .. }| printer.note(&format!("{name} {words} ({unit})")));
    }
    failure.map_or(Ok(0), Err)
}
