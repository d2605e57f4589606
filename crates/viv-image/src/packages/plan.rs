//! How packages of one manager become a layer, as data.
//!
//! A layer is built in two phases over the same root: FETCH has the network, but runs nothing that a
//! package brings; INSTALL runs a package's scripts, but has no network. What both write to the root is
//! the layer. Each phase is a POSIX shell script, run as root of namespaces whose root directory is the
//! image with the layers below.
//!
//! What a script finds:
//!
//! | | |
//! |---|---|
//! | `$@` | [`Plan::arguments`] |
//! | environment | `PATH`, `HOME` (an empty directory), `TMPDIR`, `LC_ALL=C.UTF-8`, then [`Step::environment`]; nothing else |
//! | `/viv-build/files/` | [`Step::files`] of this phase alone, read-only |
//! | `/viv-build/job/` | empty before FETCH, and as FETCH left it in INSTALL; the working directory |
//! | `/viv-build/cache/` | one directory for each manager, kept between builds; INSTALL may only read it |
//! | `/viv-build/certificates.pem` | in FETCH: the certificates that the host trusts |
//! | `/etc/resolv.conf` | in FETCH: the host's |
//! | descriptor 3 | takes [reports](Report), one a line. A script closes it for what it starts: `npm ci 3>&-` |
//!
//! `/viv-build`, `/tmp`, `/run`, `/dev` and `/proc` never become part of a layer. Output is shown with
//! the error if the phase fails: so a script is silent about its own mistakes (`set +x`), and says
//! anything about credentials never.

use super::{Manager, Package};
use crate::error::Result;

/// The constant part of a manager's way to build: what its layers are keyed by beside the base, the
/// layers below and the set of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Changes with what decides about a layer and is not in the scripts.
    pub version: u32,
    /// The scripts that a plan chooses from.
    pub scripts: &'static [Script],
    /// Paths, relative to the root and without `./`, of what makes the layer; the directories above come
    /// with them. None: all that was written, but caches, logs and identities.
    pub keep: Option<&'static [&'static str]>,
}

/// Text of the scripts of both phases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Script {
    pub fetch: &'static str,
    pub install: &'static str,
}

/// What is to be run for a certain set on a certain host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub script: Script,
    /// Packages of the image's own manager that only the build needs: a layer of their own, which lies
    /// below during the build and is no part of the result.
    pub tools: Vec<Package>,
    /// `$@` of both scripts: the packages as the manager spells them.
    pub arguments: Vec<String>,
    pub fetch: Step,
    pub install: Step,
}

/// One phase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub environment: Vec<(String, String)>,
    /// Names below `/viv-build/files/`, which may have directories, and contents. Each is readable by
    /// everyone inside.
    pub files: Vec<(String, Vec<u8>)>,
}

/// What a plan may ask about the root it is for: the base with the layers below.
pub(crate) trait Root {
    /// Whether a program of that name is in one of the root's `bin` and `sbin` directories.
    fn has_program(&self, name: &str) -> bool;
    /// A value of its `os-release`.
    fn os_release(&self, key: &str) -> Option<String>;
}

/// A line that a script writes to its descriptor 3: a word, then words or text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// `package NAME VERSION`: installed, of those that were asked for. INSTALL writes one for each.
    Package { name: String, version: String },
    /// `unknown NAME`: there is no such package. Then the script fails.
    Unknown { name: String },
    /// `unknown-version NAME VERSION`: there is, but not in that version. Then the script fails.
    UnknownVersion { name: String, version: String },
    /// `candidate NAME`: a name that there is, for the nearest to be found among them. Any number, in no order; after
    /// `unknown`.
    Candidate(String),
    /// `version NAME VERSION`: one that there is, the newest first; after `unknown-version`.
    Version { name: String, version: String },
    /// `refused TEXT`: why what there is cannot be installed, a clause that begins with its name. Then the script
    /// fails.
    Refused(String),
    /// `hint TEXT`: what would mend it; after `refused`.
    Hint(String),
    /// `step TEXT`: what is being done now, as [`crate::ProgressEvent::Step`] has it.
    Step(String),
    /// `fraction DONE TOTAL`: how far this phase is.
    Fraction { done: u64, total: u64 },
}

impl Report {
    /// Reads a line; none for what is no report.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let pair = || {
            let (name, version) = rest.split_once(' ')?;
            (!name.is_empty() && !version.is_empty()).then(|| (name.to_owned(), version.trim().to_owned()))
        };
        Some(match word {
            "package" => pair().map(|(name, version)| Self::Package { name, version })?,
            "unknown" => Self::Unknown { name: rest.to_owned() },
            "unknown-version" => pair().map(|(name, version)| Self::UnknownVersion { name, version })?,
            "candidate" => Self::Candidate(rest.to_owned()),
            "version" => pair().map(|(name, version)| Self::Version { name, version })?,
            "refused" => Self::Refused(rest.to_owned()),
            "hint" => Self::Hint(rest.to_owned()),
            "step" => Self::Step(rest.to_owned()),
            "fraction" => {
                let (done, total) = pair()?;
                let (done, total) = (done.parse().ok()?, total.parse().ok()?);
                (done <= total).then_some(Self::Fraction { done, total })?
            }
            _ => return None,
        })
    }
}

/// How that manager builds; nix does not.
pub(crate) fn recipe(manager: Manager) -> Option<Recipe> {
    match manager {
        Manager::System => Some(super::system::RECIPE),
        Manager::Npm => Some(super::npm::RECIPE),
        Manager::Pip => Some(super::pip::RECIPE),
        Manager::Cargo => Some(super::cargo::RECIPE),
        Manager::Nix => None,
    }
}

/// What to run for `set`, whose packages are all of `manager`, sorted, each name once.
pub(crate) fn plan(manager: Manager, set: &[Package], host: &super::Host, root: &dyn Root) -> Result<Plan> {
    match manager {
        Manager::System => super::system::plan(set, host, root),
        Manager::Npm => super::npm::plan(set, host, root),
        Manager::Pip => super::pip::plan(set, host, root),
        Manager::Cargo => super::cargo::plan(set, host, root),
        Manager::Nix => Ok(Plan::default()),
    }
}

#[cfg(test)]
impl Plan {
    /// All of it as text, for a snapshot, but for the scripts, of which the first line stands.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("tools: {:?}\narguments: {:?}\n", self.tools, self.arguments);
        for (phase, script, step) in
            [("FETCH", self.script.fetch, &self.fetch), ("INSTALL", self.script.install, &self.install)]
        {
            text.push_str(&format!("{phase} {}\n", script.lines().next().unwrap_or_default()));
            for (name, value) in &step.environment {
                text.push_str(&format!("  {name}={value}\n"));
            }
            for (name, content) in &step.files {
                text.push_str(&format!("  {name}:\n"));
                for line in String::from_utf8_lossy(content).lines() {
                    text.push_str(&format!("    {line}\n"));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let lines = "package git 1:2.47.3-0+deb13u1\nunknown gti\nunknown-version git 9\ncandidate git\nversion git 1.0\n\
                     refused docopt has no wheel\nhint use apt\nstep reading the package lists\nfraction 3 10\nfraction 4 3\npackage git\nhello\n";
        let reports: Vec<_> = lines.lines().filter_map(Report::parse).collect();
        insta::assert_debug_snapshot!(reports);
    }
}
