//! `viv disk ls`, `trim`, `resize`, `discard`

use serde::Serialize;
use viv_sandbox::Paths;
use viv_sandbox::named::{self, DiskUse};

use super::Desk;
use super::outcome::{Done, Outcome, each};
use super::targets;
use crate::cli::life::{DiskCommand, DiskListArguments, NameArguments, ResizeArguments};
use crate::commands::block_on;
use crate::error::Failure;
use crate::output::{Printer, print, print_json, table};
use crate::settings::values::human_bytes;

/// Does what was asked for.
///
/// # Errors
/// Names of none or of several, a disk that is in use or damaged.
pub fn disk(command: &DiskCommand, printer: &Printer) -> Result<u8, Failure> {
    match command {
        DiskCommand::Ls(arguments) => list(arguments),
        DiskCommand::Trim(arguments) => trim(arguments, printer),
        DiskCommand::Resize(arguments) => resize(arguments, printer),
        DiskCommand::Discard(arguments) => discard(arguments, printer),
    }
}

/// A disk that is kept.
#[derive(Serialize)]
struct Listed {
    /// Whose.
    name: String,
    #[serde(flatten)]
    disk: DiskUse,
}

fn list(arguments: &DiskListArguments) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let names: Vec<String> = if arguments.names.is_empty() {
        named::list(&paths)?.into_iter().map(|named| named.name).collect()
    } else {
        let name = |wanted: &String| targets::find_named(wanted, &paths).map(|named| named.name);
        arguments.names.iter().map(name).collect::<Result<_, _>>()?
    };
    let mut listed = Vec::new();
    for name in names {
        if let Some(disk) = named::disk_of(&paths, &name)? {
            listed.push(Listed { name, disk });
        }
    }
    if arguments.json {
        print_json(&listed)?;
    } else {
        print(&render(&listed))?;
    }
    Ok(0)
}

fn render(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "no disk is kept: that is for sandboxes with `persist = true`\n".to_owned();
    }
    let row = |Listed { name, disk }: &Listed| {
        vec![
            name.clone(),
            human_bytes(disk.allocated_bytes),
            human_bytes(disk.cap_bytes),
            if disk.in_use { "yes" } else { "no" }.to_owned(),
            disk.path.to_string_lossy().into_owned(),
        ]
    };
    table(&["NAME", "TAKES", "LIMIT", "IN USE", "FILE"], &listed.iter().map(row).collect::<Vec<_>>())
}

fn trim(arguments: &NameArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    each(&arguments.names, String::as_str, printer, |name| {
        let found = targets::find_named(name, &desk.paths)?;
        let before = named::disk_of(&desk.paths, &found.name)?.map_or(0, |disk| disk.allocated_bytes);
        let after = block_on(named::trim_disk(&desk.paths, &found.name))??.allocated_bytes;
        let freed = human_bytes(before.saturating_sub(after));
        let words = format!("gives back {freed}; its disk takes {} now", human_bytes(after));
        Ok(Outcome::of(&found, Done::Trimmed, words))
    })
}

fn resize(arguments: &ResizeArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    let ResizeArguments { name, size, .. } = arguments;
    each(std::slice::from_ref(name), String::as_str, printer, |name| {
        let found = targets::find_named(name, &desk.paths)?;
        let disk = block_on(named::resize_disk(&desk.paths, &found.name, size.0))??;
        let (limit, takes) = (human_bytes(disk.cap_bytes), human_bytes(disk.allocated_bytes));
        Ok(Outcome::of(&found, Done::Resized, format!("has a disk of {limit} now, which takes {takes}")))
    })
}

fn discard(arguments: &NameArguments, printer: &Printer) -> Result<u8, Failure> {
    let desk = Desk::open(printer)?;
    each(&arguments.names, String::as_str, printer, |name| {
        let found = targets::find_named(name, &desk.paths)?;
        let kept = named::disk_of(&desk.paths, &found.name)?;
        block_on(named::discard_disk(&desk.paths, &found.name))??;
        Ok(match kept {
            None => Outcome::of(&found, Done::Nothing, "keeps no disk"),
            Some(disk) => {
                let freed = human_bytes(disk.allocated_bytes);
                Outcome::of(&found, Done::Discarded, format!("has lost its disk, {freed} are free"))
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_disks_reads_well() {
        let disk = |name: &str, allocated_bytes, in_use| Listed {
            name: name.to_owned(),
            disk: DiskUse {
                path: format!("/home/u/.local/state/viv/sandboxes/{name}/disk").into(),
                cap_bytes: 20 << 30,
                allocated_bytes,
                in_use,
            },
        };
        insta::assert_snapshot!(render(&[disk("db", 3 << 30, true), disk("web", 300 << 20, false)]));
        insta::assert_snapshot!(render(&[]));
    }
}
