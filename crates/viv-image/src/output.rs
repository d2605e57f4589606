//! Reads mmdebstrap's output as it comes: what it is doing, how far it is, and why it failed.

use crate::error::{Error, ErrorKind, Output};
use crate::progress::{Progress, ProgressEvent};

/// All of a build, in parts.
const TOTAL: u64 = 1000;

/// A stretch of a build: the line it begins with, what it is called, and where it ends. The ends are
/// shares of time on an idle two-core machine with a fast mirror.
struct Stage {
    begins: &'static str,
    message: &'static str,
    end: u64,
}

const STAGES: [Stage; 8] = [
    Stage { begins: "I: running apt-get update", message: "reading Debian's package lists", end: 60 },
    Stage { begins: "I: downloading packages with apt", message: "downloading the base system", end: 110 },
    Stage { begins: "I: extracting archives", message: "unpacking the base system", end: 220 },
    Stage { begins: "I: installing essential packages", message: "installing the base system", end: 310 },
    Stage { begins: "I: installing remaining packages", message: "installing packages", end: 860 },
    Stage { begins: "viv-step: fetching npm", message: "fetching npm", end: 900 },
    Stage { begins: "viv-step: settling", message: "settling the root file system", end: 910 },
    Stage { begins: "viv-step: making the image", message: "making the image", end: 990 },
];

/// Lines on the way to one installed package: fetched, unpacked, set up.
const LINES_PER_PACKAGE: u64 = 3;

/// Follows one run.
pub(crate) struct Follower<'a> {
    progress: &'a dyn Progress,
    stage: Option<usize>,
    /// Lines expected in this stage, and seen.
    expected: u64,
    seen: u64,
    /// Packages of the base system: fetched in one stage, installed in another.
    base: u64,
    last: u64,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(progress: &'a dyn Progress) -> Self {
        Self { progress, stage: None, expected: 0, seen: 0, base: 0, last: 0 }
    }

    /// The next line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(stage) = STAGES.iter().position(|stage| line.starts_with(stage.begins)) {
            self.enter(stage);
        } else if let Some(message) = line.strip_prefix("viv-step: ") {
            self.progress.event(ProgressEvent::Step { message: message.to_owned() });
        } else if let Some(count) = newly_installed(line) {
            if self.base == 0 {
                self.base = count;
                self.expected = count;
            } else {
                self.expected = count * LINES_PER_PACKAGE;
            }
            self.seen = 0;
        } else if ["Get:", "Unpacking ", "Setting up "].iter().any(|start| line.starts_with(start)) {
            self.seen = (self.seen + 1).min(self.expected);
            self.report();
        }
    }

    fn enter(&mut self, stage: usize) {
        self.stage = Some(stage);
        self.seen = 0;
        // The base system is unpacked and set up without apt saying beforehand how much that is.
        self.expected = if STAGES[stage].begins.contains("essential") { self.base * 2 } else { 0 };
        self.progress.event(ProgressEvent::Step { message: STAGES[stage].message.to_owned() });
        self.report();
    }

    fn report(&mut self) {
        let Some(stage) = self.stage else { return };
        let begin = stage.checked_sub(1).map_or(0, |previous| STAGES[previous].end);
        let done = begin + ((STAGES[stage].end - begin) * self.seen).checked_div(self.expected).unwrap_or(0);
        if done > self.last {
            self.last = done;
            self.progress.event(ProgressEvent::Fraction { done, total: TOTAL });
        }
    }
}

/// "0 upgraded, 59 newly installed, 0 to remove and 0 not upgraded."
pub(crate) fn newly_installed(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" upgraded, ")?;
    rest.split_once(" newly installed")?.0.parse().ok()
}

/// The error of a run that failed, from the last lines of its output. Not for a full disk: see
/// [`ran_out_of_space`].
pub(crate) fn failure(what: &str, tail: String) -> Error {
    let has = |needles: &[&str]| needles.iter().any(|needle| tail.contains(needle));
    let namespaces = [
        "/etc/subuid",
        "/etc/subgid",
        "newuidmap",
        "newgidmap",
        "unshare the user namespace",
        "unprivileged_userns_clone",
        "apparmor_restrict_unprivileged_userns",
        "unable to use unshare mode",
        "unshare() failed",
        "unshare: unshare failed",
    ];
    let network = [
        "Temporary failure",
        "Could not resolve",
        "Failed to fetch",
        "Could not connect",
        "Connection timed out",
        "Connection failed",
        "Unable to connect",
        "does not have a Release file",
        "No matching distribution found",
        "CERTIFICATE_VERIFY_FAILED",
        "ProxyError",
        "is not signed",
    ];
    // A package that failed to install fails in its own words; the network's come first.
    let error = if has(&network) {
        Error::new(ErrorKind::Download, format!("cannot download what {what} is made of"))
            .hint("check the network, and the proxy if there is one")
            .hint(format!("to use another Debian mirror, set {}", crate::sources::MIRROR_VARIABLE))
    } else if has(&namespaces) {
        Error::new(ErrorKind::Namespaces, format!("cannot build {what}: the namespaces a build runs in cannot be made"))
            .hint("viv doctor --fix")
    } else {
        Error::new(ErrorKind::Build, format!("mmdebstrap could not build {what}"))
    };
    error.source(Output(tail))
}

/// Whether a full disk is what made a run fail.
pub(crate) fn ran_out_of_space(tail: &str) -> bool {
    ["No space left on device", "Disk quota exceeded", "don't have enough free space"]
        .iter()
        .any(|needle| tail.contains(needle))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Keeps events as lines.
    #[derive(Default)]
    pub(crate) struct Recorder(pub Mutex<Vec<String>>);

    impl Progress for Recorder {
        fn event(&self, event: ProgressEvent) {
            let line = match event {
                ProgressEvent::Waiting { what } => format!("waiting for {what}"),
                ProgressEvent::Started { what } => format!("started {what}"),
                ProgressEvent::Step { message } => message,
                ProgressEvent::Fraction { done, total } => format!("{done}/{total}"),
                ProgressEvent::Finished => "finished".to_owned(),
            };
            self.0.lock().unwrap().push(line);
        }
    }

    #[test]
    fn a_run_shortened() {
        let recorder = Recorder::default();
        let mut follower = Follower::new(&recorder);
        for line in "I: chroot architecture amd64 is equal to the host's architecture
I: running apt-get update...
Get:1 http://mirror.example/debian trixie InRelease [140 kB]
I: downloading packages with apt...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://mirror.example/debian trixie/main amd64 libc6 amd64 2.41 [2848 kB]
Get:2 http://mirror.example/debian trixie/main amd64 dpkg amd64 1.22 [1536 kB]
I: extracting archives...
I: installing essential packages...
Unpacking libc6:amd64 (2.41) ...
Unpacking dpkg (1.22) ...
Setting up libc6:amd64 (2.41) ...
Setting up dpkg (1.22) ...
I: installing remaining packages inside the chroot...
0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://mirror.example/debian trixie/main amd64 git amd64 2.47 [8 kB]
Unpacking git (2.47) ...
Setting up git (2.47) ...
Setting up git (2.47) ...
I: running --customize-hook in shell: sh -c 'echo viv-step: not this one'
viv-step: fetching npm
viv-step: settling the root file system
viv-step: making the image
I: success in 40.1772 seconds"
            .lines()
        {
            follower.line(line);
        }
        insta::assert_snapshot!(recorder.0.into_inner().unwrap().join("\n"), @r#"
        reading Debian's package lists
        downloading the base system
        60/1000
        85/1000
        110/1000
        unpacking the base system
        installing the base system
        220/1000
        242/1000
        265/1000
        287/1000
        310/1000
        installing packages
        493/1000
        676/1000
        860/1000
        fetching npm
        settling the root file system
        900/1000
        making the image
        910/1000
        "#);
    }

    #[test]
    fn causes_are_told_apart() {
        let kind = |tail: &str| *failure("the root image", tail.to_owned()).kind();
        assert_eq!(kind("W: no entry in /etc/subuid for me\nE: invalid idmap"), ErrorKind::Namespaces);
        assert_eq!(kind("E: Failed to fetch http://mirror.example  404  Not Found"), ErrorKind::Download);
        assert_eq!(kind("dpkg: error processing package git"), ErrorKind::Build);
        assert!(ran_out_of_space("cat: write error: No space left on device"));
    }
}
