//! Every environment variable `viv` reads, in one place, and the host it runs on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{self, Error, ErrorKind};
use crate::settings::values::parse_duration;

/// How long a sandbox may take to come up.
const BOOT_DEADLINE: &str = "VIV_BOOT_DEADLINE";

/// Unless asked otherwise. Emulation on a machine with other things to do is slow.
const DEFAULT_BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// Variables and what they do, for the reference.
pub const VARIABLES: &[(&str, &str)] = &[
    ("HOME", "The home directory, which is never shared unasked"),
    ("XDG_CONFIG_HOME", "Where viv/config.toml is; default `~/.config`"),
    ("XDG_CACHE_HOME", "Where viv/ keeps kernels and images; default `~/.cache`. Safe to delete"),
    ("XDG_STATE_HOME", "Where viv/ keeps state; default `~/.local/state`"),
    ("XDG_RUNTIME_DIR", "Where viv/ keeps running sandboxes; without it, they are kept in the state directory"),
    ("PATH", "Where QEMU and the image tools are looked for"),
    ("TMPDIR", "Where images are built, if everyone may enter it; default `/var/tmp`"),
    ("VIV_DEBIAN_MIRROR", "The Debian mirror images are built from; default the host's own"),
    ("http_proxy, https_proxy, no_proxy", "For the downloads of image builds"),
    (BOOT_DEADLINE, "How long a sandbox may take to come up, such as 30s; default 2m"),
    ("TERM, COLORTERM", "Handed to programs at a terminal; a terminal the image does not know becomes xterm-256color"),
    ("TZ", "Handed to the program if it names a time zone"),
    ("GITHUB_ACTIONS", "If `true`, `viv run --ci` writes its log for GitHub Actions"),
    ("NO_COLOR, CLICOLOR_FORCE", "Whether viv's own messages are coloured; NO_COLOR is handed to the program"),
];

/// What the host contributes to a sandbox's specification.
#[derive(Debug, Clone)]
pub struct HostEnvironment {
    /// The current directory.
    pub directory: PathBuf,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// Our user id.
    pub uid: u32,
    /// Our group id.
    pub gid: u32,
    /// CPUs there are.
    pub cpus: u32,
    /// Memory there is, in bytes; none if unknown.
    pub memory: Option<u64>,
    /// Environment variables whose names and values are text.
    pub variables: BTreeMap<String, String>,
    /// The time zone as an IANA name, if it has one.
    pub timezone: Option<String>,
}

impl HostEnvironment {
    /// Looks around.
    ///
    /// # Errors
    /// If the current directory does not exist any more.
    pub fn probe() -> Result<Self, Error> {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Self {
            directory: std::env::current_dir().map_err(error::io("the current directory does not exist"))?,
            home: std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute()),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            cpus: std::thread::available_parallelism()
                .ok()
                .and_then(|cpus| u32::try_from(cpus.get()).ok())
                .unwrap_or(1),
            memory: memory(),
            timezone: timezone(&variables),
            variables,
        })
    }

    /// How long a sandbox may take to come up.
    ///
    /// # Errors
    /// If the variable holds no duration.
    pub fn boot_deadline(&self) -> Result<Duration, Error> {
        match self.variables.get(BOOT_DEADLINE) {
            None => Ok(DEFAULT_BOOT_DEADLINE),
            Some(text) => parse_duration(text).map_err(|reason| {
                Error::new(ErrorKind::Usage, format!("bad value for the variable {BOOT_DEADLINE}: {reason}"))
            }),
        }
    }
}

/// The time zone that TZ names, else that of /etc/localtime.
fn timezone(variables: &BTreeMap<String, String>) -> Option<String> {
    const ZONES: &str = "/zoneinfo/";
    let of_link = || {
        let target = std::fs::read_link("/etc/localtime").ok()?.into_os_string().into_string().ok()?;
        Some(target.get(target.find(ZONES)? + ZONES.len()..)?.to_owned())
    };
    let zone = variables.get("TZ").filter(|zone| is_time_zone(zone)).cloned().or_else(of_link)?;
    is_time_zone(&zone).then_some(zone)
}

/// The host's memory in bytes.
#[must_use]
pub fn memory() -> Option<u64> {
    let information = rustix::system::sysinfo();
    #[allow(clippy::unnecessary_cast, reason = "the type differs between platforms")]
    let total = information.totalram as u64;
    total.checked_mul(u64::from(information.mem_unit)).filter(|bytes| *bytes > 0)
}

/// Whether this is a zone's name or rule; TZ may also name a file of the host.
#[must_use]
pub fn is_time_zone(zone: &str) -> bool {
    zone.starts_with(|c: char| c.is_ascii_alphabetic() || c == '<')
        && zone.len() <= 64
        && zone.chars().all(|c| c.is_ascii_alphanumeric() || "/_-+,.:<>".contains(c))
}
