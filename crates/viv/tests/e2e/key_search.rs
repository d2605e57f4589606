//! Looks for keys everywhere that they must not be: in the guest, and on the host beside the egress.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::canaries::for_each_block;
use crate::support::{Host, Sandbox};

/// A file that is older than what is written from now on.
pub fn marker(host: &Host) -> PathBuf {
    let path = host.path("marker");
    std::fs::write(&path, "").unwrap();
    path
}

/// The process of the host's only egress.
pub fn egress(host: &Host) -> u32 {
    let mut found = host.processes().into_iter().filter(|(_, line)| line.contains("internal-egress"));
    found.next().expect("an egress").0
}

/// That keys are in the egress's memory, in the client's environment if they were given there, and nowhere
/// else, where the placeholder is.
pub fn assert_in_the_egress_alone(
    host: &Host,
    sandbox: &Sandbox<'_>,
    keys: &[String],
    placeholder: &str,
    marker: &Path,
) {
    // The memory of the guest is the VMM's. Before anything else: a search has what it looks for in its own.
    let (egress, client) = (egress(host), sandbox.pid("client"));
    let others: Vec<(u32, String)> =
        host.processes().into_iter().filter(|(pid, _)| ![egress, client].contains(pid)).collect();
    assert!(others.len() >= 3, "monitor, VMM, file daemon: {others:?}");
    let words: Vec<String> = keys.iter().cloned().chain([placeholder.to_owned()]).collect();
    let mut seen = BTreeSet::new();
    for (pid, line) in &others {
        let environment = environment(*pid);
        let here = in_memory(*pid, &words);
        for key in keys {
            assert!(!environment.contains(key) && !line.contains(key), "{line}: {environment}");
            assert!(!here.contains(key), "in the memory of {line}");
        }
        seen.extend(here);
    }
    let is_root = rustix::process::geteuid().is_root();
    let held = in_memory(egress, keys);
    assert!(!is_root || (seen.contains(placeholder) && held.len() == keys.len()), "the search finds what is there");
    let environment = environment(egress);
    assert!(!keys.iter().any(|key| environment.contains(key)));

    // The egress keeps its memory to itself, from its own user too, and leaves no core.
    for file in ["mem", "environ", "maps"] {
        let read = host.command("cat").arg(format!("/proc/{egress}/{file}")).output().unwrap();
        let refused = String::from_utf8_lossy(&read.stderr).contains("Permission denied");
        assert!(host.uid() == 0 || (refused && read.stdout.is_empty()), "{file}: {read:?}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{egress}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(5), Some("0"), "{core}");

    // As patterns that are not what they look for.
    let patterns: String = keys.iter().map(|key| format!(" -e '[{}]{}'", &key[..1], &key[1..])).collect();
    let inside = sandbox.root_sh(&format!(
        "grep -rlaE {patterns} /run /tmp /home /etc /var ~; grep -laE {patterns} /proc/[0-9]*/environ /proc/[0-9]*/cmdline"
    ));
    assert_eq!(inside.stdout, "", "{inside:?}");
    for place in [host.path("state"), host.path("run"), host.cache()] {
        let mut written = Command::new("find");
        let written = written.arg(&place).args(["-type", "f", "-newer"]).arg(marker).output().unwrap();
        for path in String::from_utf8_lossy(&written.stdout).lines().map(Path::new).filter(|path| path.exists()) {
            let found = search(keys, |each| for_each_block(path, |_, block| each(block)));
            assert!(found.is_empty(), "{}", path.display());
        }
    }
    let inside = sandbox.root_sh(&format!("grep -laF '{placeholder}' /proc/[0-9]*/environ | wc -l"));
    assert_ne!(inside.stdout.trim(), "0", "the search finds what is there");
}

fn environment(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()).into_owned()
}

/// Which words are in a process's memory. An ordinary user may not be allowed to look.
fn in_memory(pid: u32, words: &[String]) -> BTreeSet<String> {
    search(words, |each| each_part(pid, each))
}

/// Which words are in what is fed in pieces.
fn search(words: &[String], feed: impl FnOnce(&mut dyn FnMut(&[u8]))) -> BTreeSet<String> {
    let mut grep = Command::new("grep");
    grep.args(["-aohF"]).args(words.iter().flat_map(|word| ["-e", word]));
    let mut grep = grep.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = grep.stdin.take().unwrap();
    let mut output = grep.stdout.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    });
    feed(&mut |part| input.write_all(part).unwrap());
    drop(input);
    assert!(grep.wait().unwrap().code() < Some(2));
    reading.join().unwrap()
}

fn each_part(pid: u32, each: &mut dyn FnMut(&[u8])) {
    let Ok(memory) = File::open(format!("/proc/{pid}/mem")) else { return };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let zeros = vec![0; 1 << 20];
    let mut buffer = zeros.clone();
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (range, rights, inode) = (fields[0], fields[1], fields[4]);
        if rights.ends_with('s') && inode != "0" {
            // Of shared memory, such as the guest's, the file is read: looking at a hole would fill it.
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
            let is = |path: &PathBuf| {
                std::fs::metadata(path).is_ok_and(|file| file.ino().to_string() == inode && file.is_file())
            };
            if let Some(path) = open.map(|fd| fd.path()).find(is) {
                for_each_block(&path, |_, block| each(block));
            }
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while rights.starts_with('r') && at < end {
            let wanted = usize::try_from(end - at).unwrap().min(buffer.len());
            // Some cannot be read: the kernel's own pages, and those behind the end of a file.
            let Ok(read @ 1..) = memory.read_at(&mut buffer[..wanted], at) else { break };
            if buffer[..read] != zeros[..read] {
                each(&buffer[..read]);
            }
            at += read as u64;
        }
    }
}
