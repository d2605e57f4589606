//! The text of a unit: pure, so that a test can read it and systemd can check it.
//!
//! Sources: systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.kill(5), of systemd 247 and newer.

use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::output::clean::clean;

/// The exit code of the unit's process for what another attempt would not mend: a sandbox that is not there, a
/// definition that is refused (`EX_CONFIG` of sysexits.h).
pub const NOT_MENDED_BY_RESTART: u8 = 78;

/// Whose unit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The user's: systemd's user manager starts it when the user logs in, or at boot where the user lingers.
    User,
    /// The machine's, run as root: what a sandbox on a bridge takes.
    System,
}

/// What a unit depends on.
#[derive(Debug, Clone)]
pub struct UnitPlan<'a> {
    /// The sandbox.
    pub name: &'a str,
    /// Whose unit it is.
    pub scope: Scope,
    /// `viv`'s own path.
    pub executable: &'a Path,
    /// The directory it works in.
    pub workspace: &'a Path,
    /// What `viv` finds in its environment.
    pub environment: &'a [(String, String)],
}

/// What both scopes can have: prohibitions of system calls and of privileges that need no privilege to be made.
///
/// `NoNewPrivileges` is implied by most of them where the manager is a user's (systemd.exec(5)).
///
/// Not among them, because it would keep the sandbox from starting: `MemoryDenyWriteExecute` (QEMU translates code
/// where there is no KVM), `RestrictNamespaces` and `~@mount` (the file daemon confines itself by namespaces),
/// `RestrictSUIDSGID` (layers of packages have such files), `~@resources` (QEMU and the template maker set priorities).
const HARDENING: &str = "\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_VSOCK
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
UMask=0077
";

/// What only the system's manager can enforce: mounts, devices, capabilities. Taps need `/dev/net/tun`, and packets of
/// a bridge may come raw.
const HARDENING_OF_THE_SYSTEM: &str = "\
ProtectSystem=full
ProtectControlGroups=yes
ProtectKernelLogs=yes
DevicePolicy=closed
DeviceAllow=/dev/kvm rw
DeviceAllow=/dev/net/tun rw
DeviceAllow=/dev/vhost-net rw
DeviceAllow=/dev/vhost-vsock rw
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_BOOT CAP_SYS_TIME CAP_SYSLOG CAP_SYS_PACCT CAP_WAKE_ALARM
";

impl UnitPlan<'_> {
    /// The unit's name.
    #[must_use]
    pub fn unit(&self) -> String {
        unit_of(self.name)
    }

    /// The unit's file.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a path or a variable that a unit cannot hold.
    pub fn text(&self) -> Result<String, Error> {
        let name = self.name;
        let workspace = clean(&self.workspace.to_string_lossy()).replace('%', "%%");
        let mut environment = String::new();
        for (key, value) in self.environment {
            environment.push_str(&format!("Environment={}\n", word(&format!("{key}={value}"))?));
        }
        let executable = self.executable.to_str().ok_or_else(|| unfit(&self.executable.to_string_lossy()))?;
        let executable = word(executable)?;
        // The system's manager adds the field to every line; that of a user cannot (systemd.exec(5)), so there the
        // lines of viv bring it along, and those of commands have SYSLOG_IDENTIFIER and _SYSTEMD_USER_UNIT.
        let (ordering, hardening, field, target) = match self.scope {
            Scope::User => ("", "", String::new(), "default.target"),
            Scope::System => (
                "Wants=network-online.target\nAfter=network-online.target\n",
                HARDENING_OF_THE_SYSTEM,
                format!("LogExtraFields=VIV_SANDBOX={name}\n"),
                "multi-user.target",
            ),
        };
        Ok(format!(
            "\
# Written by viv enable {name}: changes are lost; `systemctl edit` makes ones that stay.
# viv disable {name} removes it.
[Unit]
Description=Vivarium sandbox {name} ({workspace})
{ordering}# A sandbox that cannot be started is given up after a while.
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
# What the machine is made from may be gone from the cache. It is made anew without what confines the unit: that takes
# newuidmap, which is set-user-ID.
ExecStartPre=+:{executable} internal-unit --prepare {name}
ExecStart=:{executable} internal-unit {name}
{environment}# Images may have to be fetched first.
TimeoutStartSec=30min
TimeoutStopSec=3min
# The process of the unit ends the sandbox in good order; what is left after that is killed.
KillMode=mixed
Restart=on-failure
RestartSec=5s
RestartPreventExitStatus={NOT_MENDED_BY_RESTART}
SyslogIdentifier=viv-{name}
{field}
{HARDENING}{hardening}
[Install]
WantedBy={target}
"
        ))
    }
}

/// The unit of a sandbox.
#[must_use]
pub fn unit_of(name: &str) -> String {
    format!("viv@{name}.service")
}

/// One word in quotes, without specifiers (systemd.syntax(7), "Quoting"). `:` before a command switches variables off.
fn word(text: &str) -> Result<String, Error> {
    let mut word = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => word.push_str("\\\""),
            '\\' => word.push_str("\\\\"),
            '%' => word.push_str("%%"),
            c if c.is_control() => return Err(unfit(text)),
            c => word.push(c),
        }
    }
    word.push('"');
    Ok(word)
}

fn unfit(text: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("a unit of systemd cannot hold {}", clean(text)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn text(scope: Scope, executable: &str, environment: &[(String, String)]) -> String {
        let workspace = Path::new("/home/u/100% of\nit");
        UnitPlan { name: "web-2", scope, executable: Path::new(executable), workspace, environment }.text().unwrap()
    }

    fn environment() -> Vec<(String, String)> {
        [("PATH", "/usr/bin:/home/u/it's \"mine\""), ("TMPDIR", "/tmp/100%\\$HOME")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn the_units() {
        insta::assert_snapshot!(text(Scope::User, "/home/u/my bin/100%/viv", &environment()));
        insta::assert_snapshot!(text(Scope::System, "/usr/bin/viv", &[]));
        let broken = [("PATH".to_owned(), "/a\nExecStart=/b".to_owned())];
        let plan = UnitPlan {
            name: "web",
            scope: Scope::User,
            executable: Path::new("/viv"),
            workspace: Path::new("/w"),
            environment: &broken,
        };
        let refused = plan.text().unwrap_err();
        assert_eq!(refused.to_string(), "a unit of systemd cannot hold PATH=/a\\nExecStart=/b");
    }

    #[test]
    fn systemd_finds_nothing_to_say_about_them() {
        if Command::new("systemd-analyze").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "there is no systemd-analyze: cargo xtask setup --test");
            eprintln!("SKIPPED: there is no systemd-analyze");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        // It looks whether the program is there.
        let executable = root.path().join("my 100% viv");
        std::fs::copy("/bin/true", &executable).unwrap();
        for (scope, flag) in [(Scope::User, "--user"), (Scope::System, "--system")] {
            let file = root.path().join(unit_of("web-2"));
            std::fs::write(&file, text(scope, executable.to_str().unwrap(), &environment())).unwrap();
            let mut verify = Command::new("systemd-analyze");
            // Nobody has to be logged in for it.
            verify.env("XDG_RUNTIME_DIR", root.path()).args(["verify", "--man=no", flag]).arg(&file);
            let output = verify.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            // Units of this machine that are not ours are not our business.
            let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("web-2")).collect();
            assert!(output.status.success() && about_ours.is_empty(), "{said}");
        }
    }
}
