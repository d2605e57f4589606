//! `viv image rm` and `prune`, and keeping the cache within its limit

use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;
use viv_image::{Cache, Freed, KeptBecause, RemovalRequest, Stored};
use viv_sandbox::Paths;

use super::{Users, short};
use crate::cli::image::{ImagePruneArguments, ImageRemoveArguments};
use crate::error::{Error, ErrorKind, Failure};
use crate::output::clean::clean;
use crate::output::{Printer, name_of, print_json};
use crate::settings::values::human_bytes;

/// What is gone, as `--json` prints it.
#[derive(Serialize)]
struct Gone {
    #[serde(flatten)]
    freed: Freed,
    /// Keys of the templates that were made from it, and went with it.
    templates: Vec<String>,
}

/// Removes what `choose` picks, and the templates that were made from it: they could not start any more.
fn remove_with(
    paths: &Paths,
    users: &Users,
    (dry_run, only_if_idle): (bool, bool),
    choose: impl FnOnce(&[Stored]) -> Vec<usize>,
) -> Result<Gone, Failure> {
    let cache = Cache::open(&paths.cache)?;
    let in_use = |path: &Path| users.spares(paths, path);
    let mut freed =
        viv_image::remove_stored(&cache, &RemovalRequest { dry_run, only_if_idle, in_use: &in_use }, choose)?;
    let mut templates = Vec::new();
    let made_from_it = |file: &Path| freed.removed.iter().any(|stored: &Stored| stored.path == file);
    let affected: Vec<&str> = users
        .templates
        .iter()
        .filter(|info| info.files.iter().any(|file| made_from_it(file)))
        .map(|info| info.key.as_str())
        .collect();
    for key in affected {
        if !dry_run {
            match viv_sandbox::remove_template(paths, key) {
                Ok(info) => freed.freed_bytes += info.disk_bytes,
                // Gone already.
                Err(error) if *error.kind() == viv_sandbox::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        templates.push(key.to_owned());
    }
    Ok(Gone { freed, templates })
}

/// Keeps the cache within its limit: what was not used for longest goes, unless someone uses it.
///
/// # Errors
/// A cache that cannot be read or written.
pub fn evict(paths: &Paths, limit: u64, printer: &Printer) -> Result<(), Failure> {
    let cache = Cache::open(&paths.cache)?;
    let users = Users::gather(&cache, paths)?;
    let keeps =
        |stored: &Stored| users.holders.contains_key(&stored.path) || users.spares(paths, &stored.path).is_some();
    let gone =
        remove_with(paths, &users, (false, true), |stored| viv_image::least_recently_used(stored, limit, &keeps))?;
    for stored in &gone.freed.removed {
        printer.detail(&format!("the cache is beyond its limit of {}: {} is gone", human_bytes(limit), name(stored)));
    }
    if !gone.freed.removed.is_empty() {
        printer.note(&format!("{}, to keep the cache within {}", said(&gone, false), human_bytes(limit)));
    }
    Ok(())
}

/// One of them, for people.
fn name(stored: &Stored) -> String {
    format!("{} {} ({})", name_of(&stored.kind), clean(&stored.sources.join(", ")), short(&stored.digest))
}

pub(super) fn remove(arguments: &ImageRemoveArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let cache = Cache::open(&paths.cache)?;
    let users = Users::gather(&cache, paths)?;
    let all = viv_image::list_stored(&cache)?;
    // Nothing goes if a name is wrong.
    let mut wanted = Vec::new();
    for name in &arguments.images {
        let stored = viv_image::find_stored(&all, name)?;
        wanted.push((stored.kind, stored.digest.clone()));
    }
    let gone = remove_with(paths, &users, (false, false), |stored| {
        let is_wanted = |at: &usize| wanted.contains(&(stored[*at].kind, stored[*at].digest.clone()));
        (0..stored.len()).filter(is_wanted).collect()
    })?;
    if arguments.json {
        print_json(&gone)?;
    } else if !gone.freed.removed.is_empty() {
        printer.note(&said(&gone, false));
    }
    // The first is the error; the others are said before it.
    let mut refused: Vec<Failure> = gone.freed.kept.iter().map(|kept| in_use(kept, &users).into()).collect();
    let first = if refused.is_empty() { None } else { Some(refused.remove(0)) };
    refused.iter().for_each(|failure| printer.failure(failure));
    first.map_or(Ok(0), Err)
}

/// Why something cannot be removed, and what would mend that.
fn in_use(kept: &KeptBecause, users: &Users) -> Error {
    let what = name(&kept.stored);
    let running: Vec<&str> = kept.holders.iter().map(|id| users.name(id)).collect();
    let because = match running.as_slice() {
        [] => kept.because.clone().unwrap_or_else(|| "it is used".to_owned()),
        [one] => format!("sandbox {one} uses it"),
        several => format!("the sandboxes {} use it", several.join(", ")),
    };
    let error = Error::new(ErrorKind::InUse, format!("{what} stays: {because}"));
    if running.is_empty() { error.hint("viv image ls") } else { error.hint(format!("viv stop {}", running.join(" "))) }
}

pub(super) fn prune(arguments: &ImagePruneArguments, paths: &Paths, printer: &Printer) -> Result<u8, Failure> {
    let cache = Cache::open(&paths.cache)?;
    let users = Users::gather(&cache, paths)?;
    let now = SystemTime::now();
    let gone = remove_with(paths, &users, (arguments.dry_run, false), |stored| {
        if arguments.all {
            (0..stored.len()).filter(|&at| !stored[at].named).collect()
        } else {
            viv_image::unused_for(stored, arguments.older_than, now)
        }
    })?;
    if arguments.json {
        print_json(&gone)?;
        return Ok(0);
    }
    for stored in &gone.freed.removed {
        printer.note(&format!("{}, {}", name(stored), human_bytes(stored.size)));
    }
    for kept in &gone.freed.kept {
        printer.detail(&in_use(kept, &users).to_string());
    }
    printer.note(&said(&gone, arguments.dry_run));
    Ok(0)
}

/// What came of it, in one line.
fn said(gone: &Gone, dry_run: bool) -> String {
    let count = |number: usize, one: &str, more: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{number} {more}")),
    };
    let of_kind = |kind: &str| gone.freed.removed.iter().filter(|stored| name_of(&stored.kind) == kind).count();
    let parts: Vec<String> = [
        count(of_kind("image"), "image", "images"),
        count(of_kind("layer"), "layer", "layers"),
        count(of_kind("download"), "download", "downloads"),
        count(of_kind("tree"), "unpacked copy", "unpacked copies"),
        count(gone.templates.len(), "template", "templates"),
        count(gone.freed.leftovers, "leftover", "leftovers"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let bytes = human_bytes(gone.freed.freed_bytes);
    match (parts.as_slice(), dry_run) {
        ([], _) => "nothing to remove".to_owned(),
        (_, true) => format!("would remove {}, {bytes} would be free", parts.join(", ")),
        (_, false) => format!("removed {}, {bytes} are free", parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_reads_well() {
        let gone = |templates: usize, leftovers| Gone {
            freed: Freed { leftovers, freed_bytes: 3 << 20, ..Freed::default() },
            templates: vec!["a".to_owned(); templates],
        };
        assert_eq!(said(&gone(0, 0), false), "nothing to remove");
        assert_eq!(said(&gone(2, 1), false), "removed 2 templates, 1 leftover, 3 MiB are free");
        assert_eq!(said(&gone(1, 0), true), "would remove 1 template, 3 MiB would be free");
    }
}
