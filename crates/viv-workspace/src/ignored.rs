//! Which files git would not list: the rules of `.gitignore` files, of `.git/info/exclude` and of the user.

use std::path::PathBuf;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use serde::{Deserialize, Serialize};

/// The longest file of rules that counts, in bytes.
pub(crate) const LONGEST_RULES_BYTES: u64 = 256 << 10;

/// The most rules of one file that count, since all of them are compiled.
const MOST_RULES: usize = 4000;

/// Rules that no file in the workspace holds, as they were when its base was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OuterRules {
    /// `.git/info/exclude`.
    pub(crate) repository: Vec<u8>,
    /// The user's own file.
    pub(crate) user: Vec<u8>,
}

/// The rules that count in a directory: of each directory on the way to it, the outermost first.
#[derive(Debug, Clone)]
pub struct Rules {
    stack: Vec<Arc<Gitignore>>,
}

impl Rules {
    /// Those of a workspace that are in none of its own files: of its repository, and the user's.
    #[must_use]
    pub fn of(workspace: &std::path::Path) -> Self {
        Self::outer(&crate::project::read(workspace).1)
    }

    /// Those that are weaker than what any directory says.
    pub(crate) fn outer(outer: &OuterRules) -> Self {
        Self { stack: [&outer.user, &outer.repository].map(|text| compile(b"", text)).into_iter().flatten().collect() }
    }

    /// With those of a directory's own `.gitignore`.
    #[must_use]
    pub fn with(&self, directory: &[u8], text: &[u8]) -> Self {
        let mut rules = self.clone();
        rules.stack.extend(compile(directory, text));
        rules
    }

    /// Whether a name in a directory that is not ignored itself is ignored.
    #[must_use]
    pub fn ignores(&self, path: &[u8], is_directory: bool) -> bool {
        let path = rooted(path);
        for rules in self.stack.iter().rev() {
            match rules.matched(&path, is_directory) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

/// Rules are matched against absolute paths, of which the workspace is the root.
fn rooted(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec([b"/", path].concat()).into()
}

fn compile(directory: &[u8], text: &[u8]) -> Option<Arc<Gitignore>> {
    let mut builder = GitignoreBuilder::new(rooted(directory));
    let text = String::from_utf8_lossy(text);
    for line in text.trim_start_matches('\u{feff}').lines().take(MOST_RULES) {
        // What is no rule to the matcher is none; git is as patient.
        let _ = builder.add_line(None, line);
    }
    builder.build().ok().filter(|rules| !rules.is_empty()).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_rules_win_and_outer_ones_come_last() {
        let outer = OuterRules { repository: b"local\n".to_vec(), user: b"*.swp\n!local\n".to_vec() };
        let top = Rules::outer(&outer).with(b"", b"target/\n*.log\r\n/only-here\n# no rule\n");
        let nested = top.with(b"a", b"!keep.log\nb/\n");
        assert!(top.ignores(b"target", true) && !top.ignores(b"target", false));
        assert!(top.ignores(b"x.log", false) && top.ignores(b"x.swp", false) && top.ignores(b"local", false));
        assert!(top.ignores(b"only-here", false) && !nested.ignores(b"a/only-here", false));
        assert!(!nested.ignores(b"a/keep.log", false) && nested.ignores(b"a/x.log", false));
        assert!(nested.ignores(b"a/b", true) && !top.ignores(b"b", true));
    }
}
