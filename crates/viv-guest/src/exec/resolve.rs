//! From what was asked to what is executed: user, program, environment.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use viv_proto::message::{Exec, FailureKind, TerminalSize};

use super::environment::{environment, is_valid};
use crate::accounts::{self, Account, Identity, Unknown};
use crate::error::{Result, error};
use crate::sys::Credentials;

/// A program ready to be started.
pub(super) struct Plan {
    /// As the user named it, for messages.
    pub name: String,
    pub program: CString,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    pub directory: CString,
    pub credentials: Credentials,
    pub terminal: Option<TerminalSize>,
}

/// Resolves a request against the account files and the file system of this machine. `common` is the
/// environment of every program.
pub(super) fn resolve(wanted: &Exec, common: &BTreeMap<String, String>) -> Result<Plan> {
    // Without the files there are only numbers.
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(|path| accounts::read(Path::new(path)).unwrap_or_default());
    let Identity { account, groups } = accounts::identify(&passwd, &group, &wanted.user).map_err(|unknown| {
        let what = match unknown {
            Unknown::User(name) => format!("user `{name}`"),
            Unknown::Group(name) => format!("group `{name}`"),
        };
        error(FailureKind::UnknownUser, format!("there is no {what} inside"))
    })?;
    let credentials = Credentials { uid: account.uid, gid: account.gid, groups };
    let variables = environment(&account, common, &wanted.env);
    if let Some((name, _)) = variables.iter().find(|(name, value)| !is_valid(name, value)) {
        return Err(error(FailureKind::BadRequest, format!("`{name}` cannot be an environment variable")));
    }
    let directory = if wanted.cwd.is_empty() { account.home.as_str() } else { wanted.cwd.as_str() };
    let (name, program, arguments) = match wanted.argv.split_first() {
        None => login_shell(&account, &|file| access(file, &credentials))?,
        Some((name, _)) => {
            let path = variables.get("PATH").map_or("", String::as_str);
            let program = find_program(name, path, Path::new(directory), &|file| access(file, &credentials))?;
            (name.clone(), program, wanted.argv.clone())
        }
    };
    Ok(Plan {
        name,
        program: c_string(program.as_os_str().as_bytes().to_vec())?,
        arguments: arguments.into_iter().map(c_string).collect::<Result<_>>()?,
        environment: variables
            .iter()
            .map(|(name, value)| c_string(format!("{name}={value}")))
            .collect::<Result<_>>()?,
        directory: c_string(directory)?,
        credentials,
        terminal: wanted.terminal,
    })
}

/// A login shell is told so by the dash before its name.
fn login_shell(account: &Account, access: &dyn Fn(&Path) -> Access) -> Result<(String, PathBuf, Vec<String>)> {
    let shell = PathBuf::from(&account.shell);
    if access(&shell) == Access::Missing {
        let message =
            format!("there is no shell inside for {}, no {}: name a program to run", account.name, account.shell);
        return Err(error(FailureKind::NotFound, message));
    }
    let base = shell.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((account.shell.clone(), shell, vec![format!("-{base}")]))
}

fn c_string(bytes: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(bytes)
        .map_err(|reason| error(FailureKind::BadRequest, "a zero byte in an argument or a path").source(reason))
}

/// What can be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Missing,
    NotExecutable,
    Executable,
}

fn access(file: &Path, credentials: &Credentials) -> Access {
    let Ok(facts) = fs::metadata(file) else {
        return Access::Missing;
    };
    let mode = facts.mode();
    let allowed = if credentials.uid == 0 {
        mode & 0o111
    } else if facts.uid() == credentials.uid {
        mode & 0o100
    } else if facts.gid() == credentials.gid || credentials.groups.contains(&facts.gid()) {
        mode & 0o010
    } else {
        mode & 0o001
    };
    if facts.is_file() && allowed != 0 { Access::Executable } else { Access::NotExecutable }
}

/// Finds a program as a shell does: with a slash it is a path, else the first executable file of
/// that name in `path`; one that is not executable is remembered for the message.
fn find_program(name: &str, path: &str, directory: &Path, access: &dyn Fn(&Path) -> Access) -> Result<PathBuf> {
    let not_found = || error(FailureKind::NotFound, format!("{name}: not found"));
    let not_executable = |file: &Path| {
        let reason = if file.is_dir() { "is a directory" } else { "permission denied" };
        error(FailureKind::NotExecutable, format!("{}: {reason}", file.display()))
    };
    if name.contains('/') {
        let file = directory.join(name);
        return match access(&file) {
            Access::Missing => Err(not_found()),
            Access::NotExecutable => Err(not_executable(&file)),
            // Relative to the directory it starts in, which the kernel knows by then.
            Access::Executable => Ok(PathBuf::from(name)),
        };
    }
    if name.is_empty() {
        return Err(not_found());
    }
    let mut seen = None;
    for entry in path.split(':') {
        // An empty entry means the current directory.
        let file = directory.join(entry).join(name);
        match access(&file) {
            Access::Executable => return Ok(file),
            Access::NotExecutable if !file.is_dir() => seen = seen.or(Some(file)),
            _ => {}
        }
    }
    Err(seen.map_or_else(not_found, |file| not_executable(&file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str, path: &str) -> std::result::Result<PathBuf, FailureKind> {
        let access = |file: &Path| match &*file.to_string_lossy().replace("/./", "/") {
            "/bin/tool" | "/srv/tool" | "/srv/sub/tool" | "/opt/other" => Access::Executable,
            "/first/tool" | "/opt/data" => Access::NotExecutable,
            _ => Access::Missing,
        };
        find_program(name, path, Path::new("/srv"), &access).map_err(|refusal| refusal.kind().0)
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert_eq!(lookup("tool", "/none:/first:/bin"), Ok("/bin/tool".into()));
        assert_eq!(lookup("tool", "/none:/first"), Err(FailureKind::NotExecutable));
        assert_eq!(lookup("tool", "/none"), Err(FailureKind::NotFound));
        assert_eq!(lookup("tool", ":/bin"), Ok("/srv/tool".into()));
        assert_eq!(lookup("tool", "sub:/bin"), Ok("/srv/sub/tool".into()));
        assert_eq!(lookup("", "/bin"), Err(FailureKind::NotFound));
    }

    #[test]
    fn a_slash_makes_it_a_path() {
        assert_eq!(lookup("/opt/other", ""), Ok("/opt/other".into()));
        assert_eq!(lookup("./tool", "/bin"), Ok("./tool".into()));
        assert_eq!(lookup("sub/tool", "/bin"), Ok("sub/tool".into()));
        assert_eq!(lookup("/opt/data", "/bin"), Err(FailureKind::NotExecutable));
        assert_eq!(lookup("./none", "/bin"), Err(FailureKind::NotFound));
    }

    #[test]
    fn without_a_shell_there_is_no_login() {
        let account = |shell: &str| Account {
            name: "agent".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/agent".into(),
            shell: shell.into(),
        };
        let access = |file: &Path| if file == Path::new("/bin/ash") { Access::Executable } else { Access::Missing };
        let (name, program, arguments) = login_shell(&account("/bin/ash"), &access).unwrap();
        assert_eq!((name.as_str(), program, arguments), ("/bin/ash", "/bin/ash".into(), vec!["-ash".to_owned()]));
        let refusal = login_shell(&account("/bin/sh"), &access).unwrap_err();
        assert_eq!(refusal.kind().0, FailureKind::NotFound);
        assert_eq!(refusal.to_string(), "there is no shell inside for agent, no /bin/sh: name a program to run");
    }

    #[test]
    fn permission_bits_are_those_of_the_user() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let facts = fs::metadata(&file).unwrap();
        let set = |mode| {
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        let owner = Credentials { uid: facts.uid() + 1, gid: facts.gid(), groups: vec![] };
        let other = Credentials { uid: facts.uid() + 1, gid: facts.gid() + 1, groups: vec![] };
        set(0o010);
        assert_eq!(access(&file, &owner), Access::Executable);
        assert_eq!(access(&file, &other), Access::NotExecutable);
        set(0o001);
        assert_eq!(access(&file, &other), Access::Executable);
        assert_eq!(access(&file, &owner), Access::NotExecutable);
        assert_eq!(access(directory.path(), &Credentials { uid: 0, gid: 0, groups: vec![] }), Access::NotExecutable);
        assert_eq!(access(&directory.path().join("none"), &owner), Access::Missing);
    }
}
