//! systemd: whether it is there, and having it take or drop a unit.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::plan::{Scope, UnitPlan, unit_of};
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind};
use crate::output::clean::clean_lines;
use crate::output::shell_words;
use crate::ssh::keys::replace_file;

/// A manager of systemd: the user's, or the system's.
#[derive(Debug, Clone)]
pub struct Manager {
    /// Whose it is.
    pub scope: Scope,
    /// `systemctl`.
    pub program: PathBuf,
    /// Where units are written.
    pub directory: PathBuf,
    /// Is there if systemd runs this machine (sd_booted(3)).
    pub booted: PathBuf,
}

impl Manager {
    /// Whoever is root has units of the system: what needs root, a bridge, is theirs alone, and root's user manager
    /// comes and goes with a login.
    ///
    /// # Errors
    /// If HOME is not set.
    pub fn of(host: &HostEnvironment) -> Result<Self, Error> {
        let (scope, directory) = if host.uid == 0 {
            (Scope::System, PathBuf::from("/etc/systemd/system"))
        } else {
            let configured = host.variables.get("XDG_CONFIG_HOME").filter(|path| path.starts_with('/'));
            let config = configured.map(PathBuf::from).or_else(|| Some(host.home.as_ref()?.join(".config")));
            let config = config.ok_or_else(|| Error::new(ErrorKind::NotFound, "HOME is not set"))?;
            (Scope::User, config.join("systemd/user"))
        };
        Ok(Self { scope, program: "systemctl".into(), directory, booted: "/run/systemd/system".into() })
    }

    /// Checks that there is one that answers.
    ///
    /// # Errors
    /// [`ErrorKind::NoServiceManager`], with what to do in place of it: `viv` is its path.
    pub fn check(&self, viv: &Path, name: &str) -> Result<(), Error> {
        if !self.booted.is_dir() {
            let viv = shell_words(&[viv.display().to_string()]);
            return Err(Error::new(ErrorKind::NoServiceManager, "systemd does not run this machine")
                .hint(format!("by cron: (crontab -l; echo '@reboot {viv} start {name}') | crontab -"))
                .hint(format!("by any other: a service that runs {viv} start {name} && exec {viv} wait {name}")));
        }
        match self.ask(&["show-environment"]) {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(unreachable(&String::from_utf8_lossy(&output.stderr))),
            Err(error) => Err(unreachable(&error.to_string())),
        }
    }

    /// The file of a sandbox's unit.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(unit_of(name))
    }

    /// Writes a unit, has it started with the login or the machine from now on, and starts it; returns when its
    /// sandbox is up.
    ///
    /// # Errors
    /// A directory that cannot be written, and [`ErrorKind::NoServiceManager`] for what systemd refuses.
    pub fn enable(&self, plan: &UnitPlan<'_>) -> Result<(), Error> {
        let text = plan.text()?;
        let file = self.file(plan.name);
        let failed = || error::io(format!("{} cannot be written", file.display()));
        std::fs::create_dir_all(&self.directory).map_err(failed())?;
        // Everyone may read what the system's manager runs; nothing in it is secret.
        replace_file(&file, text.as_bytes(), 0o644).map_err(failed())?;
        self.order(&["daemon-reload"])?;
        let unit = plan.unit();
        self.order(&["enable", &unit])?;
        // One that was given up may be mended by now. That none is to be forgotten is no failure.
        let _ = self.ask(&["reset-failed", &unit]);
        self.order(&["start", &unit]).map_err(|error| {
            error
                .hint(format!(
                    "journalctl {}--unit={unit}",
                    self.flag().map(|flag| format!("{flag} ")).unwrap_or_default()
                ))
                .hint(format!(
                    "it is tried again at the next login or start of the machine; viv disable {} ends that",
                    plan.name
                ))
        })
    }

    /// Stops a unit with its sandbox, and removes it; whether there was one.
    ///
    /// # Errors
    /// As [`Manager::enable`].
    pub fn disable(&self, name: &str) -> Result<bool, Error> {
        let file = self.file(name);
        if !file.exists() {
            return Ok(false);
        }
        let unit = unit_of(name);
        self.order(&["disable", "--now", &unit])?;
        std::fs::remove_file(&file).map_err(error::io(format!("{} cannot be removed", file.display())))?;
        self.order(&["daemon-reload"])?;
        // Only a unit that failed is remembered without its file; that there is none to forget is no failure.
        let _ = self.ask(&["reset-failed", &unit]);
        Ok(true)
    }

    fn flag(&self) -> Option<&'static str> {
        (self.scope == Scope::User).then_some("--user")
    }

    fn ask(&self, words: &[&str]) -> std::io::Result<Output> {
        Command::new(&self.program).args(self.flag()).args(words).stdin(Stdio::null()).output()
    }

    fn order(&self, words: &[&str]) -> Result<(), Error> {
        let failed = |why: &str| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let flag = self.flag().map(|flag| format!("{flag} ")).unwrap_or_default();
            let error =
                Error::new(ErrorKind::NoServiceManager, format!("systemctl {flag}{} failed", shell_words(&words)));
            error.source(clean_lines(why.trim()))
        };
        match self.ask(words) {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(failed(&String::from_utf8_lossy(&output.stderr))),
            Err(error) => Err(failed(&error.to_string())),
        }
    }
}

fn unreachable(why: &str) -> Error {
    Error::new(ErrorKind::NoServiceManager, "systemd does not answer")
        .source(clean_lines(why.trim()))
        .hint("in a shell without a login of its own, such as of su: export XDG_RUNTIME_DIR=/run/user/$(id -u)")
        .hint("loginctl enable-linger, for a user manager that is there without a login")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A manager whose `systemctl` writes down what it is told, and fails at what is in `refused`.
    fn manager(root: &Path, refused: &str) -> Manager {
        let program = root.join("systemctl");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>{}/log\ncase \" $* \" in *\" {refused} \"*) echo no >&2; exit 1;; esac\n",
            root.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let booted = root.join("booted");
        let _ = fs::create_dir(&booted);
        Manager { scope: Scope::User, program, directory: root.join("systemd/user"), booted }
    }

    fn log(root: &Path) -> String {
        fs::read_to_string(root.join("log")).unwrap_or_default()
    }

    fn plan() -> UnitPlan<'static> {
        let (executable, workspace) = (Path::new("/opt/viv"), Path::new("/home/u/web"));
        UnitPlan { name: "web", scope: Scope::User, executable, workspace, environment: &[] }
    }

    #[test]
    fn what_is_enabled_is_undone_by_disable() {
        let root = tempfile::tempdir().unwrap();
        let manager = manager(root.path(), "nothing");
        manager.enable(&plan()).unwrap();
        let file = root.path().join("systemd/user/viv@web.service");
        assert_eq!(fs::read_to_string(&file).unwrap(), plan().text().unwrap());
        manager.enable(&plan()).unwrap();
        assert!(manager.disable("web").unwrap());
        assert!(!file.exists());
        assert!(!manager.disable("web").unwrap());
        let enable = "--user daemon-reload\n--user enable viv@web.service\n--user reset-failed viv@web.service\n--user start viv@web.service\n";
        let disable =
            "--user disable --now viv@web.service\n--user daemon-reload\n--user reset-failed viv@web.service\n";
        assert_eq!(log(root.path()), format!("{enable}{enable}{disable}"));
    }

    #[test]
    fn what_systemd_refuses_is_said_with_where_to_look() {
        let root = tempfile::tempdir().unwrap();
        let refused = manager(root.path(), "start").enable(&plan()).unwrap_err();
        assert_eq!(refused.to_string(), "systemctl --user start viv@web.service failed");
        assert_eq!(refused.hints()[0], "journalctl --user --unit=viv@web.service");
        // It is there, and can be disabled.
        assert!(manager(root.path(), "nothing").disable("web").unwrap());
    }

    #[test]
    fn without_systemd_others_are_named() {
        let root = tempfile::tempdir().unwrap();
        let mut manager = manager(root.path(), "nothing");
        manager.check(Path::new("/opt/viv"), "web").unwrap();
        manager.booted = root.path().join("missing");
        let refused = manager.check(Path::new("/opt/my viv"), "web").unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::NoServiceManager);
        assert!(refused.hints()[0].contains("@reboot '/opt/my viv' start web"), "{:?}", refused.hints());
        let silent = self::manager(root.path(), "show-environment").check(Path::new("/opt/viv"), "web").unwrap_err();
        assert_eq!(silent.to_string(), "systemd does not answer");
    }
}
