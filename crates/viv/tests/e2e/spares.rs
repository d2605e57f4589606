//! Machines restored ahead of time: handed out once, replaced, given up.

use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Host, finish, kill, until};

/// Where ready spares are handed out.
pub fn ready(host: &Host) -> Vec<PathBuf> {
    let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(host.path("run/viv/.spares"))
        .flat_map(entries)
        .map(|spare| spare.join("spare.sock"))
        .filter(|s| s.exists())
        .collect()
}

fn way(stderr: &str) -> &str {
    ["from template", "a spare of template", "cold start"]
        .into_iter()
        .find(|way| stderr.contains(way))
        .unwrap_or_else(|| panic!("no way is named: {stderr}"))
}

/// A run that wants one spare to be there afterwards.
fn run(host: &Host, script: &str) -> (String, String) {
    let ran = host.run(&["run", "-v", "--spares", "1", "--", "sh", "-c", script]);
    assert_eq!(ran.code, 0, "{ran:?}");
    (way(&ran.stderr).to_owned(), ran.stdout)
}

#[test]
fn a_spare_is_handed_out_once_as_a_sandbox_like_any_other() {
    let Some(host) = Host::ordinary() else { return };
    host.write("file", "shared\n");
    let script = "cat file; hostname; cat /proc/sys/kernel/random/uuid; cat /etc/machine-id; touch made";
    assert_eq!(run(&host, "true").0, "from template");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        until("a spare is ready", || ready(&host).len() == 1);
        let (way, said) = run(&host, script);
        assert_eq!(way, "a spare of template", "{said}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines[0], lines.len()), ("shared", 4), "{said}");
        assert!(lines[1..].iter().all(|line| seen.insert((*line).to_owned())), "not fresh: {said}, {seen:?}");
        assert!(host.project().join("made").exists());
    }
    // Two at once: only one of them can have it.
    until("a spare is ready", || ready(&host).len() == 1);
    let start =
        || host.viv(&["run", "-v", "--", "true"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let both = [start(), start()].map(finish);
    assert!(both.iter().all(|ran| ran.code == 0), "{both:?}");
    let mut ways = both.each_ref().map(|ran| way(&ran.stderr));
    ways.sort_unstable();
    assert_eq!(ways, ["a spare of template", "from template"]);
    host.assert_nothing_is_left();
}

#[test]
fn a_spare_that_dies_or_is_not_wanted_any_more_is_in_nobodys_way() {
    let Some(host) = Host::ordinary() else { return };
    for victim in ["viv-vm", "viv"] {
        assert_eq!(run(&host, "true").0, "from template", "{victim}");
        until("a spare is ready", || ready(&host).len() == 1);
        kill(process_of_spare(&host, victim), Signal::KILL);
        until("it is not handed out any more", || {
            host.run(&["run", "-v", "--", "true"]).stderr.contains("from template")
        });
        host.assert_nothing_is_left();
    }
}

/// A process of the spare, by the name of its program.
fn process_of_spare(host: &Host, name: &str) -> u32 {
    let mark = host.path("").as_os_str().as_encoded_bytes().to_vec();
    let found = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let is = match name {
            "viv" => line.windows(14).any(|part| part == b"internal-spare"),
            _ => std::fs::read(entry.path().join("comm")).ok()?.starts_with(name.as_bytes()),
        };
        let holds = || {
            let open = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            let mut links = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
            links.any(|link| link.as_os_str().as_encoded_bytes().starts_with(&mark))
        };
        (is && holds()).then_some(pid)
    });
    found.unwrap_or_else(|| panic!("no process {name} of a spare"))
}
