//! The values settings take, read the same way from the command line and from files.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use viv_image::Package;
use viv_net::policy::Rule;
use viv_net::sets::SetName;
use viv_sandbox::{AccelChoice, Recording, TemplateUse, VmmChoice, WorkspaceMode};

use super::definitions::{MAXIMUM_CPUS, MAXIMUM_SPARES};
use super::layer::DevContainerChoice;

/// A number of bytes, written as `512M` or `2G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Size(pub u64);

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl Size {
    /// Whole MiB, rounded down.
    #[must_use]
    pub fn mebibytes(self) -> u64 {
        self.0 >> 20
    }
}

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text[digits.len()..].to_ascii_uppercase();
        let number: u64 = digits.parse().map_err(|_| "not a size such as 512M or 2G".to_owned())?;
        let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        if unit.is_empty() {
            return Err(format!("a size needs a unit: {number}M or {number}G"));
        }
        let shift = UNITS
            .iter()
            .find(|(letter, _)| unit.len() == 1 && unit.starts_with(*letter))
            .map(|(_, shift)| *shift)
            .ok_or_else(|| "the unit of a size is K, M, G or T".to_owned())?;
        match number.checked_mul(1 << shift) {
            Some(0) => Err("a size above zero is needed".to_owned()),
            Some(bytes) if bytes <= 1 << 50 => Ok(Self(bytes)),
            _ => Err("that is more than any host has".to_owned()),
        }
    }
}

/// Bytes for people, such as `15.6 GiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift {
            let value =
                format!("{:.1}", bytes as f64 / f64::from(1u32 << (shift / 2)) / f64::from(1u32 << (shift / 2)));
            return format!("{} {unit}", value.strip_suffix(".0").unwrap_or(&value));
        }
    }
    format!("{bytes} bytes")
}

/// Reads `90s`, `5m`, `1h30m`, `500ms`, or plain seconds.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let shape = || "not a duration such as 90s, 5m or 1h30m".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text;
    if text.is_empty() {
        return Err(shape());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| shape())?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit_milliseconds = match &rest[..letters] {
            "" if digits == text.len() => 1000,
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(shape()),
        };
        rest = &rest[letters..];
        let part = number.checked_mul(unit_milliseconds).ok_or_else(shape)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(shape)?;
    }
    if total.is_zero() {
        return Err("a duration above zero is needed".to_owned());
    }
    if total > Duration::from_secs(10 * 365 * 86400) {
        return Err("a duration of at most ten years is needed".to_owned());
    }
    Ok(total)
}

/// Reads a rule of what may be connected to, or the name of a set after an `@`.
///
/// # Errors
/// Says what a rule looks like.
pub fn parse_allow(text: &str) -> Result<String, String> {
    if text.starts_with('@') {
        return text.parse::<SetName>().map(|set| set.to_string()).map_err(|error| error.to_string());
    }
    parse_deny(text)
}

/// Reads a rule of what may not be connected to.
///
/// # Errors
/// Says what a rule looks like.
pub fn parse_deny(text: &str) -> Result<String, String> {
    text.parse::<Rule>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Reads the number of a port, or 0.
///
/// # Errors
/// Says which numbers there are.
pub fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "not a number from 0 to 65535".to_owned())
}

/// Reads a number of CPUs.
///
/// # Errors
/// Says which numbers there are.
pub fn parse_cpus(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|cpus| (1..=MAXIMUM_CPUS).contains(cpus))
        .ok_or_else(|| format!("not a number of CPUs from 1 to {MAXIMUM_CPUS}"))
}

/// Reads what a start may do with templates.
///
/// # Errors
/// Names what there is.
pub fn parse_template(text: &str) -> Result<TemplateUse, String> {
    match text {
        "auto" => Ok(TemplateUse::Auto),
        "use" => Ok(TemplateUse::Use),
        "never" => Ok(TemplateUse::Never),
        _ => Err("not one of auto, use, never".to_owned()),
    }
}

/// Reads what of the programs' output is recorded.
///
/// # Errors
/// Names what there is.
pub fn parse_recording(text: &str) -> Result<Recording, String> {
    match text {
        "none" => Ok(Recording::None),
        "terminals" => Ok(Recording::Terminals),
        "all" => Ok(Recording::All),
        _ => Err("not one of none, terminals, all".to_owned()),
    }
}

/// Reads a reference to a flake, which is never taken for an option.
///
/// # Errors
/// Says what a reference looks like.
pub fn parse_flake(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('-') || text.chars().any(char::is_control) {
        return Err("not a reference to a flake such as . or /srv/shells#rust".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads a number of machines to keep ready.
///
/// # Errors
/// Says which numbers there are.
pub fn parse_spares(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|spares| *spares <= MAXIMUM_SPARES)
        .ok_or_else(|| format!("not a number from 0 to {MAXIMUM_SPARES}"))
}

/// Reads the acceleration.
///
/// # Errors
/// Names those there are.
pub fn parse_accel(text: &str) -> Result<AccelChoice, String> {
    match text {
        "auto" => Ok(AccelChoice::Auto),
        "kvm" => Ok(AccelChoice::Kvm),
        "tcg" => Ok(AccelChoice::Tcg),
        _ => Err("not one of auto, kvm, tcg".to_owned()),
    }
}

/// Reads the virtual machine monitor.
///
/// # Errors
/// Refuses by name what is not there.
pub fn parse_vmm(text: &str) -> Result<VmmChoice, String> {
    match text {
        "qemu" => Ok(VmmChoice::Qemu),
        "firecracker" | "cloud-hypervisor" | "crosvm" | "libkrun" => {
            Err(format!("{text} is not supported yet; use qemu"))
        }
        _ => Err("no such VMM; use qemu".to_owned()),
    }
}

/// Checks a sandbox's name, which is also its host name.
///
/// # Errors
/// Says what a name looks like.
pub fn parse_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.len() <= 63 && text.chars().all(allowed) && text.starts_with(ends) && text.ends_with(ends) {
        Ok(text.to_owned())
    } else {
        Err("a name is up to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit".to_owned())
    }
}

/// Reads how a sandbox works on its workspace.
///
/// # Errors
/// Names what there is.
pub fn parse_workspace_mode(text: &str) -> Result<WorkspaceMode, String> {
    match text {
        "live" => Ok(WorkspaceMode::Live),
        "clone" => Ok(WorkspaceMode::Clone),
        _ => Err("not one of live, clone".to_owned()),
    }
}

/// Reads yes or no.
///
/// # Errors
/// Names what there is.
pub fn parse_yes(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("not one of yes, no".to_owned()),
    }
}

/// What stands after `--workspace`: a directory, or one of the words `live` and `clone`. A directory of
/// such a name is written with more of a path, as `./clone`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkspaceRequest {
    /// The directory to work on.
    Directory(PathBuf),
    /// How to work on it.
    Mode(WorkspaceMode),
}

/// Reads what stands after `--workspace`.
///
/// # Errors
/// None, but for an empty text.
pub fn parse_workspace(text: &str) -> Result<WorkspaceRequest, String> {
    match parse_workspace_mode(text) {
        Ok(mode) => Ok(WorkspaceRequest::Mode(mode)),
        Err(_) if text.is_empty() => Err("a directory is needed, or live or clone".to_owned()),
        Err(_) => Ok(WorkspaceRequest::Directory(text.into())),
    }
}

/// Reads a path of the workspace that the guest may not change.
///
/// # Errors
/// Refuses what does not stay beneath the workspace.
pub fn parse_protected(text: &str) -> Result<PathBuf, String> {
    let inside = |component: Component| matches!(component, Component::Normal(_) | Component::CurDir);
    let path = Path::new(text);
    let names = path.components().any(|component| matches!(component, Component::Normal(_)));
    if names && !text.contains('\0') && path.components().all(inside) && !text.starts_with('~') {
        Ok(path.components().filter(|component| *component != Component::CurDir).collect())
    } else {
        Err("a path is needed that is relative to the workspace and stays beneath it".to_owned())
    }
}

/// Reads the name of an agent. Whether there is such a one is seen when it is started.
///
/// # Errors
/// Says what such a name looks like.
pub fn parse_agent(text: &str) -> Result<String, String> {
    parse_name(text).map_err(|_| "not the name of an agent, see `viv agent ls`".to_owned())
}

/// Reads a word of a command.
///
/// # Errors
/// Refuses what no process can have among its arguments.
pub fn parse_word(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("a command cannot hold a NUL byte".to_owned()) } else { Ok(text.to_owned()) }
}

/// Checks a user name of the guest.
///
/// # Errors
/// Says what a user name looks like.
pub fn parse_user(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let is_name =
        |name: &str| !name.is_empty() && name.len() <= 32 && !name.starts_with('-') && name.chars().all(allowed);
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if is_name(user) && group.is_none_or(is_name) {
        Ok(text.to_owned())
    } else {
        Err("not a user: NAME, UID, NAME:GROUP or UID:GID".to_owned())
    }
}

/// Words out of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

/// Takes a text apart into words as a POSIX shell does, without expanding anything.
///
/// # Errors
/// Says that a quote is open.
pub fn parse_words(text: &str) -> Result<Words, String> {
    shlex::split(text).map(Words).ok_or_else(|| "a quote in it is not closed".to_owned())
}

/// Checks the name of an environment variable.
///
/// # Errors
/// Says what a name looks like.
pub fn parse_environment_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_graphic() && c != '=';
    if !text.is_empty() && text.chars().all(allowed) && !text.starts_with(|c: char| c.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err("not the name of an environment variable".to_owned())
    }
}

/// Checks the value of an environment variable.
///
/// # Errors
/// Refuses what no process can have in its environment.
pub fn parse_environment_value(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("a value cannot hold a NUL byte".to_owned()) } else { Ok(text.to_owned()) }
}

/// `KEY=VALUE`, or `KEY` to copy it from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentRequest {
    /// The variable.
    pub name: String,
    /// Its value; none for the host's.
    pub value: Option<String>,
}

/// Reads an environment variable of the command line.
///
/// # Errors
/// Refuses what is no name.
pub fn parse_environment(text: &str) -> Result<EnvironmentRequest, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(parse_environment_value(value)?)),
        None => (text, None),
    };
    Ok(EnvironmentRequest { name: parse_environment_name(name)?, value })
}

/// Reads a label, `KEY=VALUE` or `KEY`.
///
/// # Errors
/// Refuses an empty key.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() || text.chars().any(char::is_control) {
        return Err("a label is KEY=VALUE or KEY".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads a package. What is none is likely a command that `--package`, which takes several, has swallowed.
///
/// # Errors
/// Says what a package looks like.
pub fn parse_package(text: &str) -> Result<Package, String> {
    let hint = "if it belongs to the command, put `--` before that: viv run -p git -- make";
    text.parse::<Package>().map_err(|error| format!("{error}; {hint}"))
}

/// Reads which devcontainer.json counts.
///
/// # Errors
/// Says what a name looks like.
pub fn parse_devcontainer(text: &str) -> Result<DevContainerChoice, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._- ".contains(c);
    match text {
        "true" => Ok(DevContainerChoice::Default),
        "false" => Ok(DevContainerChoice::Off),
        name if !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(plain) => {
            Ok(DevContainerChoice::Named(name.to_owned()))
        }
        _ => Err("it is true, false, or the name of a directory in .devcontainer".to_owned()),
    }
}

/// A share as it was written: the source still relative to wherever it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountText {
    /// The host's side.
    pub source: PathBuf,
    /// The guest's side; none for the same path as the source.
    pub destination: Option<String>,
    /// Whether the guest may write.
    pub read_only: bool,
}

/// Reads `SOURCE[:DESTINATION][:ro|:rw]`.
///
/// # Errors
/// Says what a mount looks like.
pub fn parse_mount(text: &str) -> Result<MountText, String> {
    let mut parts: Vec<&str> = text.split(':').collect();
    let read_only = match parts.last() {
        Some(&"ro") if parts.len() > 1 => true,
        Some(&"rw") if parts.len() > 1 => false,
        _ => {
            parts.push("");
            false
        }
    };
    parts.pop();
    let (source, destination) = match parts[..] {
        [source] => (source, None),
        [source, destination] => (source, Some(destination)),
        _ => return Err("a mount is SOURCE[:DESTINATION][:ro]; paths with a colon cannot be given".to_owned()),
    };
    if source.is_empty() {
        return Err("a mount is SOURCE[:DESTINATION][:ro]; the source is missing".to_owned());
    }
    let destination = destination.map(parse_destination).transpose()?;
    Ok(MountText { source: source.into(), destination, read_only })
}

/// Checks a path inside where something is to be mounted.
///
/// # Errors
/// Refuses paths that are not absolute or not normal, and `/`.
pub fn parse_destination(text: &str) -> Result<String, String> {
    let normal = text.strip_prefix('/').map(|rest| rest.trim_end_matches('/'));
    match normal {
        None => Err(format!("the destination {text:?} must be an absolute path inside")),
        Some("") => Err("a mount cannot take the place of /".to_owned()),
        Some(rest) if rest.split('/').any(|part| matches!(part, "" | "." | "..")) || rest.contains('\0') => {
            Err(format!("the destination {text:?} must be a plain path, without . or .."))
        }
        Some(rest) => Ok(format!("/{rest}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let read = |text: &str| text.parse::<Size>().map(|size| (size.0, size.to_string()));
        assert_eq!(read("512M"), Ok((512 << 20, "512M".into())));
        assert_eq!(read("2g"), Ok((2 << 30, "2G".into())));
        assert_eq!(read("1024MiB"), Ok((1 << 30, "1G".into())));
        assert_eq!(read("20GB"), Ok((20 << 30, "20G".into())));
        assert_eq!(read("512"), Err("a size needs a unit: 512M or 512G".into()));
        assert_eq!(read("2X"), Err("the unit of a size is K, M, G or T".into()));
        assert_eq!(read("0G"), Err("a size above zero is needed".into()));
        assert_eq!(read("99999999999999T"), Err("that is more than any host has".into()));
        for nonsense in ["", "G", "-1G", "1.5G", "1 G", "١G"] {
            assert_eq!(read(nonsense), Err("not a size such as 512M or 2G".into()), "{nonsense}");
        }
    }

    #[test]
    fn workspaces() {
        assert_eq!(parse_workspace("clone"), Ok(WorkspaceRequest::Mode(WorkspaceMode::Clone)));
        assert_eq!(parse_workspace("live"), Ok(WorkspaceRequest::Mode(WorkspaceMode::Live)));
        for directory in ["./clone", "clone/", "/clone", "..", "Clone"] {
            assert_eq!(parse_workspace(directory), Ok(WorkspaceRequest::Directory(directory.into())));
        }
        assert!(parse_workspace("").is_err());
    }

    #[test]
    fn protected_paths_stay_beneath_the_workspace() {
        assert_eq!(parse_protected("./.envrc"), Ok(".envrc".into()));
        assert_eq!(parse_protected("a//b/"), Ok("a/b".into()));
        for bad in ["", ".", "/etc", "a/../b", "..", "~/x", "a\0"] {
            assert!(parse_protected(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bytes_for_people() {
        assert_eq!(
            [0, 1023, 1024, 1536, 2 << 30, 16_777_216_000].map(human_bytes),
            ["0 bytes", "1023 bytes", "1 KiB", "1.5 KiB", "2 GiB", "15.6 GiB"]
        );
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("0s"), Err("a duration above zero is needed".into()));
        for nonsense in ["", "s", "5x", "1h30", "-5s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn mounts() {
        let mount = |source: &str, destination: Option<&str>, read_only| MountText {
            source: source.into(),
            destination: destination.map(str::to_owned),
            read_only,
        };
        assert_eq!(parse_mount("data"), Ok(mount("data", None, false)));
        assert_eq!(parse_mount("data:ro"), Ok(mount("data", None, true)));
        assert_eq!(parse_mount("/a:/b/"), Ok(mount("/a", Some("/b"), false)));
        assert_eq!(parse_mount("/a:/b:ro"), Ok(mount("/a", Some("/b"), true)));
        assert_eq!(parse_mount("ro"), Ok(mount("ro", None, false)));
        for nonsense in ["", ":/b", "/a:b", "/a:/", "/a:/b/../c", "/a:/b:rx", "/a:/b:c:ro", "/a::ro"] {
            assert!(parse_mount(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn names_labels_and_environment() {
        assert!(parse_name("review-2").is_ok());
        for nonsense in ["", "-a", "a-", "A", "a_b", "a/b", "ä", &"a".repeat(64)] {
            assert!(parse_name(nonsense).is_err(), "{nonsense}");
        }
        assert_eq!(parse_label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(parse_label("=b").is_err());
        assert_eq!(parse_environment("A=b=c"), Ok(EnvironmentRequest { name: "A".into(), value: Some("b=c".into()) }));
        assert_eq!(parse_environment("A"), Ok(EnvironmentRequest { name: "A".into(), value: None }));
        for nonsense in ["", "=b", "1A=b", "A B=c"] {
            assert!(parse_environment(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        assert_eq!(parse_vmm("firecracker"), Err("firecracker is not supported yet; use qemu".into()));
        assert_eq!(parse_vmm("virtualbox"), Err("no such VMM; use qemu".into()));
        assert_eq!(parse_accel("hvf"), Err("not one of auto, kvm, tcg".into()));
    }
}
