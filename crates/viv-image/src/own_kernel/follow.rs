//! Reads make's output as it comes: how much of the kernel is compiled.
//!
//! make does not say beforehand how much it is going to do. Every file it makes is one line, though,
//! and how many there are hardly differs between two builds of the same configuration: so the share
//! done is the lines seen of those that the last build on this machine had, or, for a first one, that
//! a build had when this was written.

use std::collections::BTreeSet;

use crate::progress::{Progress, ProgressEvent};

/// Lines of a build of Debian's 6.12.
const USUAL_LINES: u64 = 2340;

/// Forwards what a part of a build reports as that part of the whole.
pub(crate) struct Part<'a> {
    pub progress: &'a dyn Progress,
    /// Where the part begins and ends, of [`Part::TOTAL`].
    pub begin: u64,
    pub end: u64,
}

impl Part<'_> {
    pub(crate) const TOTAL: u64 = 1000;
}

impl Progress for Part<'_> {
    fn event(&self, event: ProgressEvent) {
        self.progress.event(match event {
            ProgressEvent::Fraction { done, total } => {
                let share = ((self.end - self.begin) * done.min(total)).checked_div(total).unwrap_or(0);
                ProgressEvent::Fraction { done: self.begin + share, total: Self::TOTAL }
            }
            other => other,
        });
    }
}

/// Follows one run of make.
pub(crate) struct MakeFollower<'a> {
    progress: &'a dyn Progress,
    expected: u64,
    /// Lines seen: files made.
    pub seen: u64,
    said: BTreeSet<String>,
    percent: u64,
}

impl<'a> MakeFollower<'a> {
    /// `last` is what [`MakeFollower::seen`] was at the end of the last build.
    pub(crate) fn new(progress: &'a dyn Progress, last: Option<u64>) -> Self {
        let expected = last.filter(|lines| *lines > 0).unwrap_or(USUAL_LINES);
        Self { progress, expected, seen: 0, said: BTreeSet::new(), percent: 0 }
    }

    /// The next line of output.
    pub(crate) fn line(&mut self, line: &str) {
        let Some((tool, path)) = made(line) else { return };
        self.seen += 1;
        // Directories are worked on side by side: each is named once, when its turn comes.
        let doing = match (tool, path.split_once('/')) {
            // The kernel's own tools have absolute paths.
            ("CC", Some((directory, _))) if !directory.is_empty() => format!("compiling {directory}"),
            ("LD", None) => "linking".to_owned(),
            _ => String::new(),
        };
        if !doing.is_empty() && self.said.insert(doing.clone()) {
            self.progress.event(ProgressEvent::Step { message: doing });
        }
        // Never quite done by an estimate.
        let percent = (self.seen * 100 / self.expected).min(99);
        if percent > self.percent {
            self.percent = percent;
            self.progress.event(ProgressEvent::Fraction { done: percent, total: 100 });
        }
    }
}

/// What a line like `  CC      kernel/fork.o` says: which tool made what.
fn made(line: &str) -> Option<(&str, &str)> {
    let (tool, path) = line.strip_prefix("  ")?.split_once(' ')?;
    let path = path.trim();
    let named = !tool.is_empty() && tool.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    (named && !path.is_empty()).then_some((tool, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::Recorder;

    #[test]
    fn a_build_shortened() {
        let recorder = Recorder::default();
        let part = Part { progress: &recorder, begin: 50, end: 950 };
        let mut follower = MakeFollower::new(&part, Some(9));
        for line in "  SYNC    include/config/auto.conf
  CC      kernel/fork.o
  CC      /var/tmp/x/tools/objtool/check.o
  CC      net/core/dev.o
kernel/fork.c:10:2: warning: a warning
make[2]: Entering directory '/x'
  CC      kernel/exit.o
  AR      kernel/built-in.a
  LD      vmlinux
  OBJTOOL vmlinux.o
  SORTTAB vmlinux
  EXTRA   x
  EXTRA   y
"
        .lines()
        {
            follower.line(line);
        }
        assert_eq!(follower.seen, 11);
        insta::assert_snapshot!(recorder.0.into_inner().unwrap().join("\n"), @r"
        149/1000
        compiling kernel
        248/1000
        347/1000
        compiling net
        446/1000
        545/1000
        644/1000
        linking
        743/1000
        842/1000
        941/1000
        ");
    }

    #[test]
    fn without_an_earlier_build_the_usual_number_is_expected() {
        let recorder = Recorder::default();
        let mut follower = MakeFollower::new(&recorder, None);
        for _ in 0..USUAL_LINES / 2 {
            follower.line("  CC      fs/open.o");
        }
        assert_eq!(recorder.0.lock().unwrap().last().unwrap(), "50/100");
    }

    #[test]
    fn only_lines_of_files_count() {
        assert_eq!(made("  CC      init/main.o"), Some(("CC", "init/main.o")));
        assert_eq!(made("  HOSTCC  scripts/basic/fixdep"), Some(("HOSTCC", "scripts/basic/fixdep")));
        for line in ["", "  ", "  CC", "make: nothing", "  note: something", "   10 | int x;"] {
            assert_eq!(made(line), None, "{line}");
        }
    }
}
