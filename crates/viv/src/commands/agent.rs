//! `viv agent`

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use viv_image::{Cache, Package, default_root, known_layers};
use viv_sandbox::{HomeInfo, Paths, PresetSource, clear_home, find_preset, list_homes, preset_names};

use super::manage::age_of;
use crate::cli::agent::{AgentCommand, AgentHomeArguments, AgentListArguments, AgentShowArguments};
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::clean::clean;
use crate::output::{Printer, print, print_json, table};
use crate::settings::file::nearest;
use crate::settings::values::human_bytes;

/// Carries out one of them.
///
/// # Errors
/// A preset that is not there or cannot be used, a home that cannot be removed.
pub fn agent(command: &AgentCommand, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    match command {
        AgentCommand::Ls(arguments) => ls(arguments, &paths, printer),
        AgentCommand::Show(arguments) => show(arguments, &paths),
        AgentCommand::Home(arguments) => home(arguments, &paths, printer),
    }
}

/// An agent as `--json` prints it.
#[derive(Serialize)]
struct Listed {
    name: String,
    description: String,
    version: Option<String>,
    packages: Vec<String>,
    gateway: Vec<String>,
    /// Bytes of its packages over the default image, if they are there.
    installed_size: Option<u64>,
    source: PresetSource,
}

fn ls(arguments: &AgentListArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let directory = paths.config.join("agents");
    // A cache that is not there yet is not made for this.
    let cache = if paths.cache.is_dir() { Some(Cache::open(&paths.cache)?) } else { None };
    let base = cache.as_ref().and_then(|cache| Some((cache, default_root(cache)?)));
    let installed_size = |packages: &[Package]| {
        let (cache, root) = base.as_ref()?;
        Some(known_layers(cache, root, packages)?.iter().map(|layer| layer.size).sum())
    };
    let mut listed = Vec::new();
    let mut code = 0;
    for name in preset_names(&directory)? {
        // One that is wrong does not hide the others.
        match find_preset(&name, &directory) {
            Ok(Some(found)) => listed.push(Listed {
                version: found.preset.version().map(str::to_owned),
                installed_size: installed_size(&found.preset.packages),
                packages: found.preset.packages.iter().map(ToString::to_string).collect(),
                name: found.name,
                description: found.preset.description,
                gateway: found.preset.gateway,
                source: found.source,
            }),
            Ok(None) => {}
            Err(error) => {
                let failure = Failure::from(error);
                code = failure.code;
                printer.failure(&failure);
            }
        }
    }
    if arguments.json {
        print_json(&listed)?;
    } else {
        print(&render_list(&listed))?;
    }
    Ok(code)
}

fn render_list(listed: &[Listed]) -> String {
    let row = |agent: &Listed| {
        let source = match &agent.source {
            PresetSource::BuiltIn => "built in".to_owned(),
            PresetSource::Changed(path) => format!("built in, changed by {}", path.display()),
            PresetSource::Own(path) => path.display().to_string(),
        };
        vec![
            agent.name.clone(),
            clean(&agent.description).into_owned(),
            agent.version.clone().unwrap_or_else(|| "-".to_owned()),
            agent.gateway.join(","),
            agent.installed_size.map_or_else(|| "-".to_owned(), human_bytes),
            source,
        ]
    };
    table(&["NAME", "AGENT", "VERSION", "GATEWAY", "INSTALLED", "SOURCE"], &listed.iter().map(row).collect::<Vec<_>>())
}

fn show(arguments: &AgentShowArguments, paths: &Paths) -> Result<u8, Failure> {
    let directory = paths.config.join("agents");
    let Some(found) = find_preset(&arguments.agent, &directory)? else {
        return Err(unknown(&arguments.agent, &directory).into());
    };
    let text = toml::to_string_pretty(&found.preset)
        .map_err(|error| Error::new(ErrorKind::Io, "the preset cannot be shown").source(error))?;
    print(&text)?;
    Ok(0)
}

fn unknown(name: &str, directory: &Path) -> Error {
    let names = preset_names(directory).unwrap_or_default();
    let error = Error::new(ErrorKind::NotFound, format!("there is no agent called {}", clean(name)));
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!("there are {}", names.join(", "))),
    }
}

fn home(arguments: &AgentHomeArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let project = if arguments.all {
        None
    } else {
        let named = arguments.workspace.as_deref().unwrap_or(Path::new("."));
        let cannot_open = || error::io(format!("{} cannot be opened", clean(&named.to_string_lossy())));
        Some(named.canonicalize().map_err(cannot_open())?)
    };
    let wanted = |home: &HomeInfo| {
        project.as_ref().is_none_or(|project| *project == home.project)
            && arguments.agent.as_ref().is_none_or(|agent| *agent == home.agent)
    };
    let homes: Vec<HomeInfo> = list_homes(paths)?.into_iter().filter(wanted).collect();
    if let Some(agent) = arguments.agent.as_ref().filter(|_| homes.is_empty()) {
        let directory = paths.config.join("agents");
        if find_preset(agent, &directory)?.is_none() {
            return Err(unknown(agent, &directory).into());
        }
    }
    if arguments.clear && !arguments.yes && !homes.is_empty() {
        let them: Vec<String> =
            homes.iter().map(|home| format!("{} of {}", home.agent, home.project.display())).collect();
        return Err(Error::new(
            ErrorKind::Usage,
            format!("sessions, history and settings would be gone: {}", clean(&them.join(", "))),
        )
        .hint("add --yes")
        .into());
    }
    if arguments.clear {
        for home in &homes {
            clear_home(&home.path)?;
            printer.note(&format!("{} has forgotten {}", home.agent, clean(&home.project.to_string_lossy())));
        }
    }
    if arguments.json {
        print_json(&homes)?;
    } else if !arguments.clear {
        print(&render_homes(&homes, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))?;
    }
    Ok(0)
}

/// The table; `now` is the time since the Unix epoch.
fn render_homes(homes: &[HomeInfo], now: Duration) -> String {
    if homes.is_empty() {
        return "no agent has kept anything\n".to_owned();
    }
    let row = |home: &HomeInfo| {
        let used = match home.in_use {
            true => "now".to_owned(),
            false => format!("{} ago", age_of(now.saturating_sub(Duration::from_secs(home.last_used)))),
        };
        vec![
            home.agent.clone(),
            clean(&home.project.to_string_lossy()).into_owned(),
            human_bytes(home.size),
            used,
            home.path.display().to_string(),
        ]
    };
    table(&["AGENT", "PROJECT", "SIZE", "USED", "PATH"], &homes.iter().map(row).collect::<Vec<_>>())
}
