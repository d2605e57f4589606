//! Whatever documentation, help and hints tell people to type is something that can be typed.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::Cli;

/// Of how viv works inside, with drawings that begin like commands; and what is made from the command line itself.
const NOT_FOR_TYPING: [&str; 2] = ["architecture.md", "reference.md"];

/// What viv runs itself as, and ssh and systemd run of it.
fn is_internal(word: &str) -> bool {
    word == "ssh-proxy" || word.starts_with("internal-")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The pages for people: name and text.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    pages.push(repository().join("README.md"));
    pages.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    pages.retain(|path| !NOT_FOR_TYPING.contains(&name(path).as_str()));
    pages.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// A page's lines, each with whether it is code, and that of a shell.
fn lines(page: &str) -> impl Iterator<Item = (usize, &str, Option<bool>)> {
    let mut fence: Option<bool> = None;
    page.lines().enumerate().map(move |(index, line)| {
        let number = index + 1;
        match (line.strip_prefix("```"), fence) {
            (Some(language), None) => {
                fence = Some(matches!(language, "" | "sh" | "console"));
                (number, "", Some(false))
            }
            (Some(_), Some(_)) => {
                fence = None;
                (number, "", Some(false))
            }
            (None, Some(_)) => (number, line, fence),
            (None, None) if line.starts_with("    ") => (number, line, Some(true)),
            (None, None) => (number, line, None),
        }
    })
}

/// The commands of viv in a line as a shell would read it, each in words. What is behind two blanks is said about it.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.trim_start();
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let mut parts = vec![String::new()];
    let mut quote = None;
    let mut redirected = false;
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        let next = rest.peek().copied();
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, ' ') if matches!(next, Some(' ' | '#')) => break,
            (None, '|' | ';' | '&') => {
                parts.push(String::new());
                redirected = false;
                continue;
            }
            (None, '<' | '>') => redirected = true,
            _ => {}
        }
        if !redirected {
            parts.last_mut().unwrap().push(c);
        }
    }
    let words = |part: &String| {
        let words = shlex::split(part)?;
        let before = |word: &String| matches!(word.as_str(), "sudo" | "exec") || word.contains('=');
        let words: Vec<String> = words.into_iter().skip_while(before).collect();
        words.first().is_some_and(|word| word == "viv").then_some(words)
    };
    parts.iter().filter_map(words).collect()
}

/// What is wrong with a command that is written out.
fn refusal(words: &[String]) -> Option<String> {
    match Cli::command().try_get_matches_from(words) {
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => None,
        // A value that is written down in part.
        Err(error) if error.kind() == ErrorKind::ValueValidation && words.iter().any(|word| word.contains("...")) => {
            None
        }
        Err(error) => error.to_string().lines().next().map(str::to_owned),
    }
}

/// What is wrong with the names of subcommands and flags in the beginning of a command, whatever comes after it.
fn unknown_name(text: &str) -> Option<String> {
    let mut command = Cli::command();
    command.build();
    let mut command = &command;
    let plain = text.replace("\\|", "|");
    for word in plain.split_whitespace().skip(1) {
        let word = word.trim_end_matches([',', '.', ';', ':', '`', ')', '?']);
        if word == "--" || word.is_empty() || is_internal(word) {
            return None;
        }
        if let Some(flag) = word.strip_prefix("--") {
            let flag = flag.split(['=', ']']).next().unwrap_or_default();
            if !command.get_arguments().any(|known| known.get_long() == Some(flag)) {
                return Some(format!("{} has no --{flag}", command.get_name()));
            }
        } else if let Some(flag) = word.strip_prefix('-').and_then(|flags| flags.chars().next()) {
            if !command.get_arguments().any(|known| known.get_short() == Some(flag)) {
                return Some(format!("{} has no -{flag}", command.get_name()));
            }
        } else if command.has_subcommands() {
            // What is in capitals stands for one, and of several between bars each is one.
            let is_name = |word: &str| word.starts_with(|first: char| first.is_ascii_lowercase());
            let mut names = word.split('|').filter(|word| is_name(word));
            if let Some(wrong) = names.find(|name| command.find_subcommand(name).is_none()) {
                return Some(format!("{} has no {wrong}", command.get_name()));
            }
            match command.find_subcommand(word) {
                Some(below) => command = below,
                None => return None,
            }
        }
    }
    None
}

/// What is between backticks in a text.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn commands_in_the_documentation_can_be_typed() {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for (name, page) in pages() {
        for (number, line, shell) in lines(&page) {
            match shell {
                Some(true) => {
                    for words in commands(line) {
                        looked_at += 1;
                        found.extend(refusal(&words).map(|why| format!("{name}:{number}: {}: {why}", words.join(" "))));
                    }
                }
                Some(false) => {}
                None => {
                    for span in spans(line).filter(|span| span.starts_with("viv ")) {
                        looked_at += 1;
                        found.extend(unknown_name(span).map(|why| format!("{name}:{number}: {span}: {why}")));
                    }
                }
            }
        }
    }
    assert!(looked_at > 300, "only {looked_at} commands were found");
    assert_none(&found);
}

#[test]
fn commands_in_help_texts_can_be_typed() {
    fn collect(command: &clap::Command, found: &mut Vec<String>, looked_at: &mut usize) {
        let texts = [command.get_long_about(), command.get_after_help(), command.get_after_long_help()];
        for text in texts.into_iter().flatten().map(ToString::to_string) {
            for words in text.lines().filter(|line| line.starts_with("  ")).flat_map(commands) {
                *looked_at += 1;
                found.extend(refusal(&words).map(|why| format!("{}: {why}", words.join(" "))));
            }
            for span in spans(&text.replace('\n', " ")).filter(|span| span.starts_with("viv ")) {
                *looked_at += 1;
                found.extend(unknown_name(span).map(|why| format!("{span}: {why}")));
            }
        }
        command.get_subcommands().for_each(|below| collect(below, found, looked_at));
    }
    let mut command = Cli::command();
    command.build();
    let (mut found, mut looked_at) = (Vec::new(), 0);
    collect(&command, &mut found, &mut looked_at);
    assert!(looked_at > 150, "only {looked_at} commands were found");
    assert_none(&found);
}

/// Hints are texts in the source; what is filled in there is an argument.
#[test]
fn commands_in_hints_can_be_typed() {
    let (mut found, mut looked_at) = (Vec::new(), 0);
    let mut waiting = vec![repository().join("crates")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        if path.extension().is_none_or(|kind| kind != "rs") || path.components().any(|part| part.as_os_str() == "tests")
        {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for hint in text.split("hint(").skip(1) {
            let hint = hint.trim_start().trim_start_matches("format!(").trim_start();
            let Some(literal) = hint.strip_prefix('"').and_then(|rest| rest.split('"').next()) else { continue };
            for (at, _) in literal.match_indices("viv ") {
                let is_word = literal[..at].chars().next_back().is_none_or(|before| " `(:".contains(before));
                // Others may be named behind it.
                let command = literal[at + 4..].split(['`', ';', ',']).next().unwrap_or_default();
                let command = format!("viv {}", command.split("viv ").next().unwrap_or_default());
                if is_word {
                    looked_at += 1;
                    found.extend(unknown_name(&command).map(|why| format!("{}: {literal}: {why}", path.display())));
                }
            }
        }
    }
    assert!(looked_at > 100, "only {looked_at} hints were found");
    assert_none(&found);
}

#[test]
fn what_is_no_command_is_noticed() {
    let words = |line: &str| commands(line).iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(words("    $ viv up   starts it; viv down"), ["viv up"]);
    assert_eq!(
        words("A=b sudo viv up web && viv sync x > f | jq '.a | b'; exec viv wait # viv nothing"),
        ["viv up web", "viv sync x", "viv wait"]
    );
    assert_eq!(words("viv run -- sh -c 'a; viv b'  x"), ["viv run -- sh -c a; viv b"]);
    let split = |line: &str| commands(line).remove(0);
    assert!(refusal(&split("viv up --all")).is_none() && refusal(&split("viv up --everything")).is_some());
    assert_eq!(unknown_name("viv audit forget"), Some("audit has no forget".to_owned()));
    assert_eq!(unknown_name("viv diff --name-onyl"), Some("diff has no --name-onyl".to_owned()));
    assert_eq!(unknown_name("viv up\\|down\\|halt"), Some("viv has no halt".to_owned()));
    assert_eq!(unknown_name("viv disk ls, and viv nothing"), None);
}
