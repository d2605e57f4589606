//! Which configurations of git run nothing.

/// Sections and the keys of them that are let through. What git makes of their values is data: numbers, names,
/// and where to fetch from.
const KEYS: &[(&str, &[&str])] = &[
    (
        "core",
        &[
            "autocrlf",
            "bare",
            "filemode",
            "ignorecase",
            "logallrefupdates",
            "precomposeunicode",
            "repositoryformatversion",
            "symlinks",
        ],
    ),
    ("extensions", &["objectformat", "refstorage"]),
    ("remote", &["fetch", "pushurl", "tagopt", "url"]),
    ("branch", &["merge", "rebase", "remote"]),
    ("user", &["email", "name"]),
    ("init", &["defaultbranch"]),
    ("submodule", &["active", "url"]),
];

/// Whether a text is a configuration of git's that has nothing but what runs nothing: names, numbers, and where to
/// fetch from. Of two ways to read it, git's is the one that counts; so only the plainest form of each line is let
/// through: a section, a key with a value, a comment, or nothing.
#[must_use]
pub fn is_inert(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    // A remote's branch may be called `config`, beside the remote's `HEAD`. Git reads no configuration out of a hash.
    let hash = text.strip_suffix('\n').unwrap_or(text);
    if matches!(hash.len(), 40 | 64) && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return true;
    }
    // Git continues a line after a backslash, and ends one where it does not show.
    if text.contains(['\\', '\0', '\u{b}', '\u{c}', '\u{feff}']) {
        return false;
    }
    let mut keys: &[&str] = &[];
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.contains('\r') {
            return false;
        }
        let line = line.trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            match keys_of(rest) {
                Some(known) => keys = known,
                None => return false,
            }
        } else if !is_inert_assignment(line, keys) {
            return false;
        }
    }
    true
}

/// The keys let through of a section, written without its `[`.
fn keys_of(header: &str) -> Option<&'static [&'static str]> {
    let inside = header.strip_suffix(']')?;
    let name = match inside.split_once(' ') {
        None => inside,
        Some((name, subsection)) => {
            let quoted = subsection.strip_prefix('"')?.strip_suffix('"')?;
            if quoted.contains('"') {
                return None;
            }
            name
        }
    };
    KEYS.iter().find(|(section, _)| section.eq_ignore_ascii_case(name)).map(|(_, keys)| *keys)
}

fn is_inert_assignment(line: &str, keys: &[&str]) -> bool {
    let (key, value) =
        line.split_once('=').map_or((line, ""), |(key, value)| (key.trim_end_matches([' ', '\t']), value));
    // `ext::` and its like are remotes that are programs. Git leaves out quotes, wherever they are.
    keys.iter().any(|known| known.eq_ignore_ascii_case(key)) && !value.replace('"', "").contains("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inert(text: &str) -> bool {
        is_inert(text.as_bytes())
    }

    #[test]
    fn what_git_writes_by_itself_is_inert() {
        assert!(inert(""));
        assert!(inert(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
        ));
        assert!(inert(
            "[remote \"origin\"]\n\turl = https://example.com/a.git\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n\
             [branch \"main\"]\n\tremote = origin\n\tmerge = refs/heads/main\n# a comment\n; another\n\n\
             [user]\n\tname = A = B\n[CORE]\n  Bare=true\r\n"
        ));
    }

    #[test]
    fn a_hash_is_no_configuration() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert!(inert(hash) && inert(&format!("{hash}\n")));
        assert!(!inert(&hash[1..]) && !inert(&format!("{hash}\n\n")) && !inert(&format!("{}g", &hash[1..])));
    }

    #[test]
    fn whatever_could_run_something_is_not() {
        for text in [
            "[core]\n\tfsmonitor = evil",
            "[core]\n\thooksPath = x",
            "[core]\n\tsshCommand = evil",
            "[core]\n\tworktree = /",
            "[core]\n\tpager = evil",
            "[core] fsmonitor = evil",
            "[core]fsmonitor=evil",
            "[core]\n\tbare = false\\\n",
            "[core]\n\tbare = x\\n",
            "[core]\n\tbare = false\rfsmonitor = evil",
            "[include]\n\tpath = x",
            "[includeIf \"gitdir:/\"]\n\tpath = x",
            "[alias]\n\tst = !evil",
            "[filter \"x\"]\n\tclean = evil",
            "[diff]\n\texternal = evil",
            "[remote \"o\"]\n\tuploadpack = evil",
            "[remote \"o\"]\n\turl = ext::sh -c evil",
            "[remote \"o\"]\n\turl = ext:\":\"sh -c evil",
            "[remote \"o\"]\n\turl = \"ext:\":sh -c evil",
            "[remote \"o\"]\n\tvcs = evil",
            "[remote.o]\n\turl = x",
            "[remote \"a\" \"b\"]\n\turl = x",
            "[remote \"a\"] [core]\n\turl = x",
            "[submodule \"x\"]\n\tupdate = !evil",
            "[extensions]\n\tworktreeConfig = true",
            "[credential]\n\thelper = evil",
            "[gpg]\n\tprogram = evil",
            "fsmonitor = evil",
            "bare = true",
            "[core]\n\tbare = true\0",
            "\u{feff}[core]\n",
            "[core\n",
            "[]\n",
            "[user]\n\tname = x\u{c}\n",
        ] {
            assert!(!inert(text), "{text:?}");
        }
        assert!(!is_inert(b"[user]\n\tname = \xff"));
    }
}
