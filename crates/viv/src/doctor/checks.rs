//! From facts to verdicts: pure.

use serde::Serialize;

use viv_sandbox::{OLDEST_QEMU, OLDEST_QEMU_FOR_TEMPLATES};

use super::facts::{Backports, Disk, Facts, Kvm, Memory, Namespaces, Qemu, Subordinate};
use crate::output::shell_words;
use crate::settings::DEFAULT_MEMORY;
use crate::settings::values::human_bytes;

/// How many subordinate ids a Debian image needs.
const NEEDED_IDS: u64 = 65536;

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Fine.
    Ok,
    /// It works, but less well.
    Warn,
    /// Nothing runs before this is mended.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// The verdict.
    pub status: Status,
    /// Why.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<Mending>,
}

/// What mends something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Mending {
    /// In this order; empty where only a person can do it.
    #[serde(rename = "commands")]
    pub steps: Vec<Step>,
    /// What else there is to do or know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One step of mending something. All of them need root. In JSON it is the command one would type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run this program.
    Run(Vec<String>),
    /// Write this file.
    Write {
        /// Where.
        path: String,
        /// All of it.
        content: String,
    },
}

impl Step {
    fn run(argv: &[&str]) -> Self {
        Self::Run(argv.iter().map(|argument| (*argument).to_owned()).collect())
    }

    /// In a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Run(argv) => format!("sudo {}", shell_words(argv)),
            Self::Write { path, .. } => format!("write {path}"),
        }
    }

    /// What one would type.
    #[must_use]
    pub fn command(&self) -> String {
        match self {
            Self::Run(_) => self.describe(),
            Self::Write { path, content } => {
                format!("printf %s {} | sudo tee {path}", shell_words(std::slice::from_ref(content)))
            }
        }
    }
}

impl Serialize for Step {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.command())
    }
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, message: message.into(), fix: None }
    }

    fn warn(name: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::Warn, ..Self::ok(name, message) }
    }

    fn fail(name: &'static str, message: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::ok(name, message) }
    }

    fn steps(mut self, steps: Vec<Step>) -> Self {
        self.fix.get_or_insert_default().steps = steps;
        self
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        self.fix.get_or_insert_default().note = Some(note.into());
        self
    }
}

/// Judges everything.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![
        kvm(facts),
        qemu(facts),
        Check::ok("virtiofsd", "built in"),
        user_namespaces(&facts.namespaces, facts.root),
    ];
    checks.extend(subordinate_ids(facts));
    checks.extend(facts.disks.iter().map(disk));
    checks.extend(facts.memory.map(memory));
    checks.push(image_tools(facts));
    checks.push(built("kernel", facts.kernel_built, "the first run fetches and unpacks it"));
    checks.push(built("image", facts.image_built, "the first run builds it, in about a minute"));
    checks.extend(templates(facts));
    checks.push(Check::ok("vsock", vsock(facts)));
    checks.extend(network_devices(facts));
    checks
}

fn kvm(facts: &Facts) -> Check {
    const SLOW: &str = "sandboxes run under emulation, several times slower";
    match &facts.kvm {
        Kvm::Works => Check::ok("kvm", "works"),
        Kvm::Missing { cpu_capable: true } => Check::warn("kvm", format!("there is no /dev/kvm; {SLOW}"))
            .steps(vec![Step::run(&["modprobe", "-a", "kvm_intel", "kvm_amd"])])
            .note("if that fails, virtualisation is switched off in the firmware"),
        Kvm::Missing { cpu_capable: false } => {
            Check::warn("kvm", format!("this CPU, or the VM this runs in, has no virtualisation; {SLOW}"))
                .note("in a VM: switch on nested virtualisation on its host")
        }
        Kvm::Denied { login_pending: true, .. } => Check::warn("kvm", format!("/dev/kvm: permission denied; {SLOW}"))
            .note("you are in its group already: log in again"),
        Kvm::Denied { group: Some(group), .. } => Check::warn("kvm", format!("/dev/kvm: permission denied; {SLOW}"))
            .steps(vec![Step::run(&["usermod", "-aG", group, &facts.user])])
            .note("then log in again"),
        Kvm::Denied { group: None, .. } => Check::warn("kvm", format!("/dev/kvm: permission denied; {SLOW}"))
            .note("its group is root's: give it to a group of your own"),
        Kvm::Broken { reason } => Check::warn("kvm", format!("{reason}; {SLOW}"))
            .note("in a VM or container: its host does not let virtualisation through"),
    }
}

/// What `--net nat` and, for root, `--net bridge` take.
fn network_devices(facts: &Facts) -> Vec<Check> {
    let check = |name, mode: &str, programs: &[(&'static str, &'static str)]| {
        let missing: Vec<_> =
            programs.iter().filter(|(program, _)| facts.missing_network_tools.contains(program)).collect();
        if missing.is_empty() {
            return Check::ok(name, format!("--net {mode} has what it takes"));
        }
        let words: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        Check::warn(name, format!("no --net {mode}: {} is not installed", words.join(", ")))
            .steps(install(facts, &packages))
    };
    let mut checks = vec![check("nat", "nat", &[("passt", "passt")])];
    if facts.root {
        checks.push(check("bridge", "bridge", &[("ip", "iproute2"), ("nft", "nftables")]));
    }
    checks
}

fn install(facts: &Facts, packages: &[&str]) -> Vec<Step> {
    if !facts.apt {
        return Vec::new();
    }
    let mut argv = vec!["apt-get", "install", "-y", "--no-install-recommends"];
    argv.extend(packages);
    vec![Step::run(&["apt-get", "update"]), Step::run(&argv)]
}

/// Installs QEMU, from where there is one that is new enough.
fn install_qemu(facts: &Facts) -> Vec<Step> {
    const PACKAGE: &str = "qemu-system-x86";
    let Some(Backports { suite, mirror, enabled }) = facts.backports.as_ref().filter(|_| facts.apt) else {
        return install(facts, &[PACKAGE]);
    };
    let mut steps = install(facts, &["-t", suite, PACKAGE]);
    if !enabled {
        let source = format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n");
        steps.insert(0, Step::Write { path: "/etc/apt/sources.list.d/viv-backports.list".to_owned(), content: source });
    }
    steps
}

fn qemu(facts: &Facts) -> Check {
    let mend = |check: Check| {
        let steps = install_qemu(facts);
        if steps.is_empty() { check.note("install QEMU's x86_64 system emulator") } else { check.steps(steps) }
    };
    let (major, minor) = OLDEST_QEMU;
    match &facts.qemu {
        Qemu::Found { path, version } if *version >= OLDEST_QEMU => {
            Check::ok("qemu", format!("{}.{} ({})", version.0, version.1, path.display()))
        }
        Qemu::Found { path, version } => mend(Check::fail(
            "qemu",
            format!("{} is version {}.{}; {major}.{minor} or newer is needed", path.display(), version.0, version.1),
        )),
        Qemu::Missing => mend(Check::fail("qemu", "qemu-system-x86_64 is not in PATH")),
        Qemu::Broken { path, reason } => {
            Check::fail("qemu", format!("{} does not run: {reason}", path.display())).note("install it anew")
        }
    }
}

/// Lets viv make user namespaces where AppArmor allows that to listed programs only.
fn apparmor_profile(namespaces: &Namespaces) -> Vec<Step> {
    const PATH: &str = "/etc/apparmor.d/viv";
    let content = format!(
        "# Lets viv make user namespaces: its file daemon confines itself in one.\n\
         abi <abi/4.0>,\n\
         include <tunables/global>\n\n\
         profile viv \"{}\" flags=(unconfined) {{\n  userns,\n  include if exists <local/viv>\n}}\n",
        namespaces.executable.display()
    );
    vec![Step::Write { path: PATH.to_owned(), content }, Step::run(&["apparmor_parser", "-r", PATH])]
}

fn user_namespaces(namespaces: &Namespaces, root: bool) -> Check {
    const NAME: &str = "namespaces";
    match &namespaces.attempt {
        Ok(()) if root && namespaces.apparmor_restricts && !namespaces.apparmor_profile => {
            Check::warn(NAME, "they work for root; AppArmor keeps ordinary users from making them")
                .steps(apparmor_profile(namespaces))
        }
        Ok(()) => Check::ok(NAME, "user namespaces work"),
        Err(reason) => {
            let check = Check::fail(NAME, format!("user namespaces do not work: {reason}"));
            if namespaces.maximum == Some(0) {
                check
                    .steps(vec![Step::run(&["sysctl", "-w", "user.max_user_namespaces=15000"])])
                    .note("to keep it, put it into /etc/sysctl.d/")
            } else if namespaces.unprivileged_clone == Some(false) {
                check
                    .steps(vec![Step::run(&["sysctl", "-w", "kernel.unprivileged_userns_clone=1"])])
                    .note("to keep it, put it into /etc/sysctl.d/")
            } else if namespaces.apparmor_restricts {
                check.steps(apparmor_profile(namespaces))
            } else {
                check.note("in a container: it must be allowed to make user namespaces and to mount in them")
            }
        }
    }
}

/// Root builds its image without them.
fn subordinate_ids(facts: &Facts) -> Option<Check> {
    const NAME: &str = "subuid";
    if facts.root {
        return None;
    }
    let Subordinate { uids, gids, next_free, tools } = facts.subordinate;
    let enough = uids >= NEEDED_IDS && gids >= NEEDED_IDS;
    if enough && tools {
        return Some(Check::ok(NAME, format!("{uids} subordinate user ids, {gids} group ids")));
    }
    let mut problems = Vec::new();
    let mut steps = Vec::new();
    if !tools {
        problems.push("newuidmap and newgidmap are not in PATH".to_owned());
        steps.extend(install(facts, &["uidmap"]));
    }
    if !enough {
        problems.push(format!(
            "{} has {uids} subordinate user ids and {gids} group ids; {NEEDED_IDS} are needed",
            facts.user
        ));
        let range = format!("{next_free}-{}", next_free + NEEDED_IDS - 1);
        steps.push(Step::run(&["usermod", "--add-subuids", &range, "--add-subgids", &range, &facts.user]));
    }
    let message = format!("{}: the root image cannot be built", problems.join("; "));
    let check = if facts.image_built { Check::warn(NAME, message) } else { Check::fail(NAME, message) };
    Some(check.steps(steps))
}

fn disk(disk: &Disk) -> Check {
    let message = format!("{} free for {} in {}", human_bytes(disk.free), disk.what, disk.path.display());
    if disk.free >= disk.needed {
        Check::ok("disk", message)
    } else {
        Check::warn("disk", format!("{message}; {} are wanted", human_bytes(disk.needed))).note("free some space")
    }
}

fn memory(memory: Memory) -> Check {
    let message = format!("{} of {} available", human_bytes(memory.available), human_bytes(memory.total));
    if memory.available >= DEFAULT_MEMORY.0 {
        Check::ok("memory", message)
    } else {
        Check::warn(
            "memory",
            format!("{message}; a sandbox has {} unless told otherwise", human_bytes(DEFAULT_MEMORY.0)),
        )
        .note("viv run --memory 1G, or memory = \"1G\" in config.toml")
    }
}

fn image_tools(facts: &Facts) -> Check {
    const NAME: &str = "image tools";
    if facts.missing_tools.is_empty() {
        return Check::ok(NAME, "all there");
    }
    let missing: Vec<String> =
        facts.missing_tools.iter().map(|tool| format!("{} (to {})", tool.program, tool.needed_for)).collect();
    let message = format!("missing: {}", missing.join(", "));
    let mut packages: Vec<&str> = facts.missing_tools.iter().map(|tool| tool.package.as_str()).collect();
    packages.sort_unstable();
    packages.dedup();
    let check =
        if facts.kernel_built && facts.image_built { Check::warn(NAME, message) } else { Check::fail(NAME, message) };
    let steps = install(facts, &packages);
    if steps.is_empty() { check.note(format!("install {}", packages.join(", "))) } else { check.steps(steps) }
}

fn vsock(facts: &Facts) -> &'static str {
    match &facts.qemu {
        Qemu::Found { version, .. } if *version < OLDEST_QEMU_FOR_TEMPLATES && facts.vsock => {
            "/dev/vhost-vsock can be opened; the link goes over it"
        }
        Qemu::Found { version, .. } if *version < OLDEST_QEMU_FOR_TEMPLATES => {
            "/dev/vhost-vsock cannot be opened; the link goes over a serial port instead"
        }
        _ => "not needed; the link goes over a serial port, as templates want it",
    }
}

/// Without a QEMU there is nothing to say of them.
fn templates(facts: &Facts) -> Option<Check> {
    const NAME: &str = "templates";
    let Qemu::Found { version, .. } = &facts.qemu else { return None };
    let (major, minor) = OLDEST_QEMU_FOR_TEMPLATES;
    if *version < OLDEST_QEMU_FOR_TEMPLATES {
        let message = format!("QEMU {}.{} cannot make them; every start boots its machine", version.0, version.1);
        return Some(Check::warn(NAME, message).note(format!("QEMU {major}.{minor} or newer makes them")));
    }
    Some(Check::ok(
        NAME,
        match facts.templates.count {
            0 => "none yet; the first run has one made in the background".to_owned(),
            count => format!("{count}, {} on disk", human_bytes(facts.templates.disk)),
        },
    ))
}

fn built(name: &'static str, built: bool, otherwise: &str) -> Check {
    Check::ok(name, if built { "built".to_owned() } else { format!("not built yet; {otherwise}") })
}

#[cfg(test)]
mod tests;
