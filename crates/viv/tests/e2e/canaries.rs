//! What must never be in a template.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use crate::isolation::canary;
use crate::support::Host;

/// Reads the data of a sparse file, with its places.
pub fn for_each_block(path: &Path, mut each: impl FnMut(u64, &[u8])) {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < size {
        match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => offset = data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => panic!("{}: {error}", path.display()),
        }
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(offset)).unwrap();
        while offset < end {
            let count = usize::try_from(end - offset).unwrap().min(buffer.len());
            file.read_exact_at(&mut buffer[..count], offset).unwrap();
            each(offset, &buffer[..count]);
            offset += count as u64;
        }
    }
}

/// Which of the words are in any file of a directory, as text or in UTF-16.
fn found(directory: &Path, words: &[String]) -> BTreeSet<String> {
    // By their first byte, so that the files are gone through once.
    let mut forms: Vec<Vec<(Vec<u8>, &String)>> = vec![Vec::new(); 256];
    for word in words {
        for form in [word.as_bytes().to_vec(), word.encode_utf16().flat_map(u16::to_le_bytes).collect()] {
            forms[usize::from(form[0])].push((form, word));
        }
    }
    let longest = words.iter().map(String::len).max().unwrap_or(0) * 2;
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let mut seen: Vec<u8> = Vec::new();
        let mut next = 0;
        for_each_block(&entry.unwrap().path(), |offset, block| {
            if offset != next {
                seen.clear();
            }
            next = offset + block.len() as u64;
            seen.extend_from_slice(block);
            for (at, byte) in seen.iter().enumerate() {
                for (form, word) in &forms[usize::from(*byte)] {
                    if seen[at..].starts_with(form) {
                        found.insert((*word).clone());
                    }
                }
            }
            // One that ends in the next block begins here.
            seen.drain(..seen.len().saturating_sub(longest));
        });
    }
    found
}

#[test]
fn nothing_of_a_run_enters_the_template_that_it_has_made() {
    let Some(host) = Host::ordinary().map(Host::with_own_cache) else { return };
    let names = [
        "of the host's environment",
        "of the program's environment",
        "of a file's content",
        "of a file's name",
        "of the workspace's name",
        "of a mount",
        "of the command",
        "of the output",
        "of the sandbox's name",
        "of a label",
        "of the disk",
        "of the memory",
    ];
    let canaries: Vec<String> = names.iter().map(|_| canary()).collect();
    let [host_env, env, content, name, workspace, mount, command, output, sandbox, label, disk, memory] = &canaries[..]
    else {
        unreachable!()
    };
    let directories = [host.path("home").join(workspace), host.path(mount)];
    for directory in &directories {
        std::fs::create_dir(directory).unwrap();
        std::fs::write(directory.join(name), content.repeat(1000)).unwrap();
        host.own(directory);
        host.own(&directory.join(name));
    }
    let script = format!(
        ": {command}; env; cat * /srv/{mount}/*; echo {output}; echo {disk} > ~/disk; echo {memory} > /dev/shm/memory; sync"
    );
    let mut first = host.viv(&[
        "run",
        "--verbose",
        "--template",
        "auto",
        "--name",
        sandbox,
        "--label",
        &format!("secret={label}"),
        "--env",
        &format!("SECRET={env}"),
        "--env",
        "HOST_SECRET",
        "--workspace",
        directories[0].to_str().unwrap(),
        "--mount",
        &format!("{}:/srv/{mount}:ro", directories[1].display()),
        "--",
        "sh",
        "-c",
        &script,
    ]);
    first.env("HOST_SECRET", host_env).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ran = crate::support::finish(first.spawn().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.cold_because().is_some_and(|why| why.contains("background")), "{ran:?}");
    for seen in [host_env, env, content, output] {
        assert!(ran.stdout.contains(seen), "the program has seen all that it must not leave behind: {ran:?}");
    }
    let directory = host.until_made(&[]);

    // The search finds what is there: the program that is PID 1, the user's line in /etc/passwd on
    // the disk, and the ingredients, so it would find what should not be.
    let there = ["viv-guest".to_owned(), "agent:x:".to_owned(), "\"ingredients\"".to_owned()];
    assert_eq!(found(&directory, &there).len(), there.len());
    let leaked = found(&directory, &canaries);
    let leaked: Vec<_> = names.iter().zip(&canaries).filter(|(_, canary)| leaked.contains(*canary)).collect();
    assert!(leaked.is_empty(), "in the template: {leaked:?}");
    // Nor where it comes from.
    let here = [host.project().display().to_string(), host.path("home").display().to_string()];
    assert_eq!(found(&directory, &here), BTreeSet::new());

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode(&host.templates()), mode(&directory)], [0o700, 0o700]);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    files.sort();
    assert_eq!(files, ["devices", "memory", "scratch", "template.json"]);
    let held = std::fs::metadata(directory.join("memory")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&held) * 512 < held.len() / 4, "it is sparse");
    host.assert_nothing_is_left();
}
