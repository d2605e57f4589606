//! `viv template ls`, `build`, `rm` and `prune`

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use viv_image::{Cache, DefaultDigests, Progress, ProgressEvent};
use viv_sandbox::{ErrorKind, MakeEvent, MakeRequest, Paths, Pruned, TemplateInfo, TemplateJudge, TemplateUse};

use super::manage::age_of;
use super::{block_on, ending_signal, prepare};
use crate::cli::{BuildArguments, ListArguments, PruneArguments, RemoveArguments, TemplateCommand};
use crate::environment::HostEnvironment;
use crate::error::{self, Failure};
use crate::guest_binary::GUEST;
use crate::output::{Printer, ProgressReporter, milliseconds, print, print_json, table};
use crate::settings::Origin;
use crate::settings::layer::{Found, Layer};
use crate::settings::values::human_bytes;
use crate::terminal::Signals;
use crate::timing::Clock;
use crate::{exit_code, render};

/// Does what was asked for.
///
/// # Errors
/// A cache that cannot be used, a key that fits none or several, whatever keeps one from being made.
pub fn template(command: &TemplateCommand, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    match command {
        TemplateCommand::Ls(arguments) => list(arguments, &paths),
        TemplateCommand::Build(arguments) => build(arguments, &paths, printer),
        TemplateCommand::Rm(arguments) => remove(arguments, &paths, printer),
        TemplateCommand::Prune(arguments) => prune(arguments, &paths, printer),
    }
}

/// A template and what can be said of it here and now.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    info: TemplateInfo,
    /// Whether a start could use it, as far as can be told without reading all of it.
    usable: bool,
    /// Why not.
    unusable_because: Option<String>,
}

fn list(arguments: &ListArguments, paths: &Paths) -> Result<u8, Failure> {
    let infos = viv_sandbox::list_templates(paths)?;
    // Where there is no QEMU, none can be used, and that is no reason not to show them.
    let host = viv_sandbox::probe_host(paths);
    let judge = host.as_ref().map(|host| TemplateJudge::new(host, GUEST.digest, paths));
    let listed: Vec<Listed> = infos
        .into_iter()
        .map(|info| {
            let unusable_because = match &judge {
                Ok(judge) => judge.objection(&info),
                Err(error) => Some(error.to_string()),
            };
            Listed { info, usable: unusable_because.is_none(), unusable_because }
        })
        .collect();
    if arguments.json {
        print_json(&listed)?;
    } else {
        let defaults = Cache::open(&paths.cache).map(|cache| viv_image::default_digests(&cache)).unwrap_or_default();
        print(&render(&listed, &defaults, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()))?;
    }
    Ok(0)
}

/// The table; `now` is the time since the Unix epoch.
fn render(listed: &[Listed], defaults: &DefaultDigests, now: Duration) -> String {
    if listed.is_empty() {
        return "there is no template yet: `viv run` has one made, `viv template build` makes one now\n".to_owned();
    }
    let since = |unix_ms: u64| age_of(now.saturating_sub(Duration::from_millis(unix_ms)));
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|Listed { info, unusable_because, .. }| {
            let ingredient = |name: &str| info.ingredients.get(name).map_or("?", String::as_str);
            let file = |name: &str, default: &Option<String>| match ingredient(name) {
                digest if default.as_deref() == Some(digest) => "default".to_owned(),
                digest => digest.chars().take(12).collect(),
            };
            vec![
                render::short_key(&info.key).to_owned(),
                since(info.created_at_unix_ms),
                since(info.used_at_unix_ms),
                human_bytes(info.disk_bytes),
                ingredient("cpus").to_owned(),
                ingredient("memory").to_owned(),
                file("kernel", &defaults.kernel),
                file("image", &defaults.root),
                unusable_because.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
            ]
        })
        .collect();
    table(&["KEY", "AGE", "LAST USED", "DISK", "CPUS", "MEMORY", "KERNEL", "IMAGE", "USABLE"], &rows)
}

/// What `build --json` prints.
#[derive(Serialize)]
struct Built<'a> {
    #[serde(flatten)]
    info: &'a TemplateInfo,
    /// Whether it was made now, or was there already.
    made: bool,
    /// How long making it took.
    milliseconds: Option<u64>,
}

fn build(arguments: &BuildArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    // That a project or a user wants none by itself does not matter to who asks for one by hand.
    let wanted = Some(Found { value: TemplateUse::Auto, origin: Origin::CommandLine });
    let asked = Layer { template: wanted, ..arguments.machine.layer(&host.directory) };
    let mut resolved = prepare::settings(arguments.workspace.as_deref(), asked, &[], &host, paths)?;
    // It comes with the shares, which a template has none of.
    resolved.sandbox.nix = None;
    for warning in &resolved.warnings {
        printer.warning(&warning.message, warning.hint.as_deref());
    }
    // Where there can be none, nothing has to be built to say so.
    let facts = viv_sandbox::probe_host(paths)?;
    let provisional = viv_sandbox::plan(&resolved.sandbox, &prepare::artifacts_to_be(&resolved.sandbox), &facts)?;
    MakeRequest::new(&provisional, paths)?;
    let (plan, _held) = prepare::plan(&mut resolved, paths, printer, &mut Clock::start())?;
    let request = MakeRequest::new(&plan, paths)?;
    let existing = if arguments.force { None } else { request.existing()? };
    let (info, took) = match existing {
        Some(info) => (info, None),
        None => block_on(make(&request, arguments.force, printer))??,
    };
    if arguments.json {
        print_json(&Built { info: &info, made: took.is_some(), milliseconds: took.map(milliseconds) })?;
    } else {
        let (key, size) = (render::short_key(&info.key), human_bytes(info.disk_bytes));
        printer.note(&match took {
            Some(_) => format!("template {key} takes {size} on disk"),
            None => format!("template {key} is there already and takes {size} on disk; --force makes it anew"),
        });
    }
    Ok(0)
}

/// Makes it, and says how long that took; `None` if another process has made it meanwhile.
///
/// # Errors
/// Whatever keeps it from being made, and a signal that ends viv.
pub async fn make(
    request: &MakeRequest,
    force: bool,
    printer: &Printer,
) -> Result<(TemplateInfo, Option<Duration>), Failure> {
    let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
    let executable = std::env::current_exe().map_err(error::io("cannot find viv's own executable"))?;
    let progress = ProgressReporter::new(printer);
    loop {
        let began = Instant::now();
        progress.event(ProgressEvent::Started { what: "the template".to_owned() });
        let made = tokio::select! {
            made = viv_sandbox::make(request, &executable, |event| progress.event(step(event))) => made,
            number = ending_signal(&mut signals) => {
                // Dropping the future has killed the maker; what it leaves once it is gone has to go.
                request.settle()?;
                return Err(Failure::quiet(exit_code::of_signal(number)));
            }
        };
        match made {
            Ok(info) => {
                progress.event(ProgressEvent::Finished);
                return Ok((info, Some(began.elapsed())));
            }
            Err(error) if *error.kind() == ErrorKind::Ambiguous => {
                progress.event(ProgressEvent::Waiting { what: "the template".to_owned() });
                let theirs = request.clone();
                tokio::select! {
                    settled = tokio::task::spawn_blocking(move || theirs.settle()) => {
                        settled.map_err(|error| error::io("cannot wait for another viv")(error.into()))??;
                    }
                    number = ending_signal(&mut signals) => {
                        return Err(Failure::quiet(exit_code::of_signal(number)));
                    }
                }
                if let Some(info) = request.existing()?.filter(|_| !force) {
                    return Ok((info, None));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn step(event: &MakeEvent) -> ProgressEvent {
    let message = match event {
        MakeEvent::Booting => "booting the machine",
        MakeEvent::WarmingUp => "running what most commands need",
        MakeEvent::Saving => "saving the machine",
        _ => "working",
    };
    ProgressEvent::Step { message: message.to_owned() }
}

fn remove(arguments: &RemoveArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let gone = |info: &TemplateInfo| {
        let (key, size) = (render::short_key(&info.key), human_bytes(info.disk_bytes));
        printer.note(&format!("template {key} is gone, {size} are free"));
    };
    if arguments.all {
        viv_sandbox::prune_templates(paths, |_| false)?.templates.iter().for_each(gone);
        return Ok(0);
    }
    let mut first_failure = None;
    for key in &arguments.keys {
        match viv_sandbox::remove_template(paths, key) {
            Ok(info) => gone(&info),
            Err(error) if first_failure.is_some() => printer.failure(&error.into()),
            Err(error) => first_failure = Some(error.into()),
        }
    }
    first_failure.map_or(Ok(0), Err)
}

/// What `prune --json` prints.
#[derive(Serialize)]
struct Freed<'a> {
    removed: &'a [TemplateInfo],
    /// How many half-made or unreadable ones went besides.
    leftovers: usize,
    freed_bytes: u64,
}

fn prune(arguments: &PruneArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let pruned = if arguments.all {
        viv_sandbox::prune_templates(paths, |_| false)?
    } else {
        // Without knowing the host, all of them would look unusable.
        let host = viv_sandbox::probe_host(paths)?;
        let judge = TemplateJudge::new(&host, GUEST.digest, paths);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let oldest = arguments.older_than.map_or(0, |age| milliseconds(now.saturating_sub(age)));
        viv_sandbox::prune_templates(paths, |info| {
            let objection = judge.objection(info);
            if let Some(why) = &objection {
                printer.detail(&format!("template {}: {why}", render::short_key(&info.key)));
            }
            objection.is_none() && info.used_at_unix_ms >= oldest
        })?
    };
    if arguments.json {
        print_json(&Freed {
            removed: &pruned.templates,
            leftovers: pruned.leftovers,
            freed_bytes: pruned.freed_bytes,
        })?;
    } else {
        printer.note(&freed(&pruned));
    }
    Ok(0)
}

fn freed(pruned: &Pruned) -> String {
    let count = |number: usize, one: &str, more: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{number} {more}")),
    };
    let what: Vec<String> = [
        count(pruned.templates.len(), "template", "templates"),
        count(pruned.leftovers, "half-made one", "half-made ones"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if what.is_empty() {
        return "nothing to remove".to_owned();
    }
    format!("removed {}, {} are free", what.join(" and "), human_bytes(pruned.freed_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn listed(key: &str, age: Duration, ingredients: &[(&str, &str)], unusable_because: Option<&str>) -> Listed {
        let ingredients = ingredients.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let info = TemplateInfo {
            key: key.repeat(16),
            created_at_unix_ms: milliseconds(NOW - age),
            used_at_unix_ms: milliseconds(NOW - age / 2),
            disk_bytes: 100_823_040,
            ingredients,
            tsc_khz: Some(2_596_093),
            files: vec!["/cache/kernel".into()],
        };
        Listed { info, usable: unusable_because.is_none(), unusable_because: unusable_because.map(str::to_owned) }
    }

    #[test]
    fn the_list_reads_well() {
        let defaults = DefaultDigests { kernel: Some("k".repeat(64)), root: Some("r".repeat(64)) };
        let ours = ("r".repeat(64), "k".repeat(64), "0123456789abcdef".repeat(4));
        let first = [("cpus", "2"), ("memory", "2048 MiB"), ("kernel", ours.1.as_str()), ("image", ours.0.as_str())];
        let second = [("cpus", "16"), ("memory", "65536 MiB"), ("kernel", ours.2.as_str()), ("image", ours.0.as_str())];
        let all = [
            listed("a1", Duration::from_secs(40), &first, None),
            listed("b2", Duration::from_secs(200_000), &second, Some("made with another QEMU")),
            listed("c3", Duration::from_secs(200), &[], Some("made by viv 0.0.1")),
        ];
        insta::assert_snapshot!(render(&all, &defaults, NOW));
        insta::assert_json_snapshot!(&all[1]);
        insta::assert_snapshot!(render(&[], &defaults, NOW));
    }

    #[test]
    fn what_was_freed_reads_well() {
        let pruned = |templates: usize, leftovers| Pruned {
            templates: (0..templates).map(|_| listed("a", Duration::ZERO, &[], None).info).collect(),
            leftovers,
            freed_bytes: 3 << 20,
        };
        let said = [pruned(0, 0), pruned(1, 0), pruned(2, 1), pruned(0, 2)].map(|pruned| freed(&pruned));
        insta::assert_snapshot!(said.join("\n"));
    }
}
