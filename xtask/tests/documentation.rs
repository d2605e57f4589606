//! Links between pages lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

fn pages() -> Vec<PathBuf> {
    let directories = ["", "docs", "docs/decisions"].map(|directory| repository().join(directory));
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).expect("a directory of pages"));
    let mut pages: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    pages.retain(|path| path.extension().is_some_and(|kind| kind == "md"));
    pages.sort();
    pages
}

/// A page without its code.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).expect("a page is text");
    let mut is_code = false;
    let mut kept = String::new();
    for line in text.lines() {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        if !is_code && !is_fence && !line.starts_with("    ") {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// What the headings of a page are called in links to them, as GitHub has it.
fn anchors(page: &Path) -> BTreeSet<String> {
    let of = |heading: &str| -> String {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose(page).lines().filter_map(|line| line.strip_prefix('#')).map(|line| of(line.trim_start_matches('#'))).collect()
}

#[test]
fn links_lead_somewhere() {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for page in pages() {
        let prose = prose(&page);
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            looked_at += 1;
            let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let leads_to = if path.is_empty() { page.clone() } else { page.parent().expect("a directory").join(path) };
            if !leads_to.exists() {
                found.push(format!("{}: {target}: there is no such file", page.display()));
            } else if anchor.is_some_and(|anchor| !anchors(&leads_to).contains(anchor)) {
                found.push(format!("{}: {target}: there is no such heading", page.display()));
            }
        }
    }
    assert!(looked_at > 100, "only {looked_at} links were found");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
