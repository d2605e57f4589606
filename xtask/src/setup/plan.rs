//! What set-up would do, from what was found: a pure function.

use std::fmt;
use std::path::PathBuf;

use super::apt_sources::{self, Source};

/// The oldest QEMU that viv is tested with.
pub const MINIMUM_QEMU: Version = Version(8, 2);

/// Where the further apt source is written, if one is needed.
const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/viv-backports.sources";

/// Where the AppArmor profile is written, if one is needed.
const APPARMOR_FILE: &str = "/etc/apparmor.d/viv-development";

/// How many subordinate ids a user gets: what a container of one's own is usually given.
pub const SUBORDINATE_IDS: u32 = 65_536;

/// The lowest subordinate id that is given away.
pub const FIRST_SUBORDINATE_ID: u32 = 100_000;

/// Major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// Reads the first `digits.digits` of a text such as `1:7.2+dfsg-7`, past an epoch.
    pub fn find_in(text: &str) -> Option<Self> {
        let upstream = text.split_once(':').filter(|(epoch, _)| epoch.chars().all(|c| c.is_ascii_digit()));
        let text = upstream.map_or(text, |(_, rest)| rest);
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let mut numbers = text[start..].split(|c: char| !c.is_ascii_digit());
        Some(Self(numbers.next()?.parse().ok()?, numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// How root is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// This is root.
    Root,
    /// `sudo -n` works.
    Sudo,
    /// Not without asking.
    None,
}

/// What was found on this machine.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `ID` of os-release.
    pub distribution: String,
    /// `VERSION_ID` of os-release; empty for rolling ones.
    pub distribution_version: String,
    /// `VERSION_CODENAME` of os-release.
    pub codename: String,
    /// How root is to be had.
    pub privilege: Privilege,
    /// Packages whose program or file is missing, QEMU aside.
    pub missing_packages: Vec<&'static str>,
    /// The QEMU that is installed.
    pub qemu: Option<Version>,
    /// The QEMU apt would install, if apt knows.
    pub qemu_candidate: Option<Version>,
    /// What apt is configured with.
    pub apt_sources: Vec<Source>,
    /// Who runs this.
    pub user: String,
    /// Whether that user, unless root, lacks a range in /etc/subuid or /etc/subgid.
    pub lacks_subordinate_ids: bool,
    /// The first id above every range in both files.
    pub next_subordinate_id: u32,
    /// Ubuntu's AppArmor keeps ordinary users from making user namespaces, and viv has no profile.
    pub apparmor_in_the_way: bool,
    /// Where cargo builds.
    pub target_directory: PathBuf,
    /// cargo-nextest is wanted and missing.
    pub lacks_nextest: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write a file as root.
    Write {
        /// Where.
        path: &'static str,
        /// What.
        contents: String,
    },
    /// Run a command.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
        /// As root.
        as_root: bool,
    },
}

impl Step {
    fn root(words: &[&str]) -> Self {
        Self::Run { argv: words.iter().map(|word| (*word).to_owned()).collect(), as_root: true }
    }

    /// Whether it needs root.
    pub fn needs_root(&self) -> bool {
        match self {
            Self::Write { .. } => true,
            Self::Run { as_root, .. } => *as_root,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, contents } => {
                write!(f, "write {path}:")?;
                contents.lines().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::Run { argv, as_root } => {
                let words: Vec<String> = argv.iter().map(|word| crate::command::quote(word.as_ref())).collect();
                write!(f, "{}{}", if *as_root { "as root: " } else { "" }, words.join(" "))
            }
        }
    }
}

/// Why set-up cannot be done, and what a person can do instead.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// What to do, in order; empty if all is there.
///
/// # Errors
/// A distribution that is not known, or no way to become root, if something is missing.
pub fn plan(facts: &Facts) -> Result<Vec<Step>, Refusal> {
    let mut steps = packages(facts)?;
    if facts.lacks_subordinate_ids {
        let first = facts.next_subordinate_id.max(FIRST_SUBORDINATE_ID);
        let range = format!("{first}-{}", first + SUBORDINATE_IDS - 1);
        steps.push(Step::root(&["usermod", "--add-subuids", &range, "--add-subgids", &range, &facts.user]));
    }
    if facts.apparmor_in_the_way {
        steps.push(Step::Write { path: APPARMOR_FILE, contents: apparmor_profile(facts) });
        steps.push(Step::root(&["apparmor_parser", "--replace", APPARMOR_FILE]));
    }
    if facts.lacks_nextest {
        let argv = ["cargo", "install", "cargo-nextest", "--locked"].map(str::to_owned).to_vec();
        steps.push(Step::Run { argv, as_root: false });
    }
    if facts.privilege == Privilege::None && steps.iter().any(Step::needs_root) {
        let list: Vec<String> = steps.iter().filter(|step| step.needs_root()).map(|step| format!("  {step}")).collect();
        return Err(Refusal(format!(
            "set-up needs root, and `sudo -n` does not work for {}. Let root do this, then run it again:\n{}",
            facts.user,
            list.join("\n")
        )));
    }
    Ok(steps)
}

fn packages(facts: &Facts) -> Result<Vec<Step>, Refusal> {
    let qemu_is_fine = facts.qemu.is_some_and(|version| version >= MINIMUM_QEMU);
    if facts.missing_packages.is_empty() && qemu_is_fine {
        return Ok(Vec::new());
    }
    let bookworm = is_known(facts)?;
    let mut steps = Vec::new();
    let mut names = facts.missing_packages.clone();
    let mut backports = None;
    if !qemu_is_fine {
        // Before the first `apt-get update` apt knows no candidate; Debian 12's is 7.2.
        let candidate = facts.qemu_candidate.unwrap_or(if bookworm { Version(7, 2) } else { MINIMUM_QEMU });
        names.retain(|name| *name != "qemu-system-data");
        if candidate >= MINIMUM_QEMU {
            names.extend(["qemu-system-x86", "qemu-system-data"]);
        } else if bookworm {
            let suite = format!("{}-backports", facts.codename);
            if apt_sources::find(&facts.apt_sources, &suite).is_none() {
                let like = apt_sources::find(&facts.apt_sources, &facts.codename).ok_or_else(|| {
                    Refusal(format!(
                        "viv needs QEMU {MINIMUM_QEMU}, and no apt source offers {} for its backports to be \
                         taken from the same place. Install qemu-system-x86 {MINIMUM_QEMU} or newer, then run this again",
                        facts.codename
                    ))
                })?;
                steps.push(Step::Write { path: BACKPORTS_FILE, contents: apt_sources::render(like, &suite) });
            }
            backports = Some(suite);
        } else {
            return Err(Refusal(format!(
                "viv needs QEMU {MINIMUM_QEMU}, and apt offers {candidate}. \
                 Install a newer qemu-system-x86, then run this again"
            )));
        }
    }
    steps.push(apt_get(&["update"]));
    if !names.is_empty() {
        let install: Vec<&str> = ["install", "--yes", "--no-install-recommends"].into_iter().chain(names).collect();
        steps.push(apt_get(&install));
    }
    if let Some(suite) = &backports {
        // By themselves: `--target-release` would take everything else from there as well.
        steps.push(apt_get(&[
            "install",
            "--yes",
            "--no-install-recommends",
            "--target-release",
            suite,
            "qemu-system-x86",
            "qemu-system-data",
        ]));
    }
    Ok(steps)
}

/// Whether this is Debian 12, the one with too old a QEMU; refuses what is not Debian or Ubuntu.
fn is_known(facts: &Facts) -> Result<bool, Refusal> {
    let version = Version::find_in(&facts.distribution_version);
    let at_least = |oldest| version.is_none_or(|version| version >= oldest);
    match facts.distribution.as_str() {
        "debian" if at_least(Version(12, 0)) => Ok(version.is_some_and(|version| version.0 == 12)),
        "ubuntu" if at_least(Version(24, 4)) => Ok(false),
        _ => {
            let mut needed = facts.missing_packages.clone();
            if facts.qemu.is_none_or(|version| version < MINIMUM_QEMU) {
                needed.push("qemu-system-x86");
            }
            Err(Refusal(format!(
                "set-up knows Debian 12 and 13 and Ubuntu 24.04; this is {} {}. \
                 Install what these Debian packages hold (QEMU {MINIMUM_QEMU} or newer), then run this again:\n  {}",
                facts.distribution,
                facts.distribution_version,
                needed.join(" ")
            )))
        }
    }
}

/// A `.sources` file for `suite` and its security updates, from where those of `codename` come from.
pub fn sources_of(codename: &str, sources: &[Source], suite: &str) -> Option<String> {
    let mut text = apt_sources::render(apt_sources::find(sources, codename)?, suite);
    if let Some(security) = apt_sources::find(sources, &format!("{codename}-security")) {
        text.push('\n');
        text.push_str(&apt_sources::render(security, &format!("{suite}-security")));
    }
    Some(text)
}

fn apt_get(arguments: &[&str]) -> Step {
    // Another apt may be at work on a fresh machine; waiting for it asks no question either.
    let before = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300"];
    Step::root(&[&before, arguments].concat())
}

/// Lets the `viv` of this repository, and nothing else, make user namespaces.
fn apparmor_profile(facts: &Facts) -> String {
    format!(
        "abi <abi/4.0>,\ninclude <tunables/global>\n\n\
         profile viv-development \"{}/{{debug,release}}/viv\" flags=(unconfined) {{\n  userns,\n}}\n",
        facts.target_directory.display()
    )
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
