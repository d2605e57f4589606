//! `viv image ls` and `inspect`

use std::time::{Duration, SystemTime};

use serde::Serialize;
use viv_image::{Cache, ImageConfig, Stored};
use viv_sandbox::Paths;

use super::{Users, Uses, short};
use crate::cli::image::{ImageListArguments, InspectArguments};
use crate::commands::manage::age_of;
use crate::error::Failure;
use crate::output::clean::clean;
use crate::output::{name_of, print, print_json, shell_words, table};
use crate::render;
use crate::settings::values::human_bytes;

/// Something of the cache and what can be said of it here and now.
#[derive(Debug, Serialize)]
struct Listed {
    #[serde(flatten)]
    stored: Stored,
    used_by: Uses,
}

pub(super) fn list(arguments: &ImageListArguments, paths: &Paths) -> Result<u8, Failure> {
    let cache = Cache::open(&paths.cache)?;
    let users = Users::gather(&cache, paths)?;
    let listed: Vec<Listed> = viv_image::list_stored(&cache)?
        .into_iter()
        .map(|stored| Listed { used_by: users.of(&stored), stored })
        .collect();
    if arguments.json {
        print_json(&listed)?;
    } else {
        print(&render(&listed, SystemTime::now()))?;
    }
    Ok(0)
}

fn age(moment: SystemTime, now: SystemTime) -> String {
    age_of(now.duration_since(moment).unwrap_or(Duration::ZERO))
}

fn render(listed: &[Listed], now: SystemTime) -> String {
    if listed.is_empty() {
        return "there is no image yet: `viv run` makes what it needs, `viv image build` makes it now\n".to_owned();
    }
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|Listed { stored, used_by }| {
            let sandboxes = used_by.sandboxes.iter().map(|name| format!("sandbox {name}"));
            let templates = used_by.templates.iter().map(|key| format!("template {}", render::short_key(key)));
            let users: Vec<String> = sandboxes.chain(templates).collect();
            let users = match users.as_slice() {
                [] => "-".to_owned(),
                [one] => one.clone(),
                [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            };
            vec![
                shortened(&clean(&stored.sources.join(", "))),
                name_of(&stored.kind),
                short(&stored.digest).to_owned(),
                human_bytes(stored.size),
                age(stored.made, now),
                age(stored.used, now),
                users,
            ]
        })
        .collect();
    let total = listed.iter().map(|listed| listed.stored.size).sum();
    let table = table(&["MADE FROM", "KIND", "DIGEST", "SIZE", "AGE", "LAST USED", "USED BY"], &rows);
    format!("{table}{} in all\n", human_bytes(total))
}

/// A cell that leaves room for others.
fn shortened(text: &str) -> String {
    const MOST: usize = 48;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// What `inspect` knows besides.
#[derive(Debug, Serialize)]
struct Inspected {
    #[serde(flatten)]
    listed: Listed,
    /// Digests of the layers that were built over it.
    layers: Vec<String>,
}

pub(super) fn inspect(arguments: &InspectArguments, paths: &Paths) -> Result<u8, Failure> {
    let cache = Cache::open(&paths.cache)?;
    let users = Users::gather(&cache, paths)?;
    let all = viv_image::list_stored(&cache)?;
    let stored = viv_image::find_stored(&all, &arguments.image)?.clone();
    let over = all.iter().filter(|other| other.base.as_deref() == Some(&stored.digest));
    let layers = over.map(|layer| layer.digest.clone()).collect();
    let inspected = Inspected { listed: Listed { used_by: users.of(&stored), stored }, layers };
    if arguments.json {
        print_json(&inspected)?;
    } else {
        print(&whole(&inspected, SystemTime::now()))?;
    }
    Ok(0)
}

fn whole(inspected: &Inspected, now: SystemTime) -> String {
    let Inspected { listed: Listed { stored, used_by }, layers } = inspected;
    let ImageConfig { environment, entrypoint, command, working_directory, user } = &stored.config;
    let mut text = String::new();
    let mut row = |name: &str, value: &str| text.push_str(&format!("{name:<12} {}\n", clean(value)));
    stored.sources.iter().for_each(|source| row("made from", source));
    row("kind", &name_of(&stored.kind));
    row("digest", &format!("sha256:{}", stored.digest));
    row("file", &stored.path.to_string_lossy());
    row("size", &human_bytes(stored.size));
    row("age", &age(stored.made, now));
    row("last used", &age(stored.used, now));
    stored.base.iter().for_each(|base| row("over", &format!("sha256:{base}")));
    stored.packages.iter().for_each(|package| row("package", package));
    environment.iter().for_each(|(name, value)| row("env", &format!("{name}={value}")));
    for (name, words) in [("entrypoint", entrypoint), ("command", command)] {
        if !words.is_empty() {
            row(name, &shell_words(words));
        }
    }
    working_directory.iter().for_each(|directory| row("directory", directory));
    user.iter().for_each(|user| row("user", user));
    layers.iter().for_each(|layer| row("layer", short(layer)));
    used_by.sandboxes.iter().for_each(|name| row("sandbox", name));
    used_by.templates.iter().for_each(|key| row("template", render::short_key(key)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_reads_well() {
        assert!(render(&[], SystemTime::now()).starts_with("there is no image yet"));
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"ä".repeat(60)).chars().count(), 49);
    }
}
