//! `viv ssh`, `viv ssh-config`, and the proxy that ssh runs

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use viv_sandbox::{Paths, Record};

use super::run::failure_of_exec;
use super::{block_on, conclude};
use crate::cli::ssh::{SshArguments, SshConfigArguments};
use crate::commands::Limits;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::clean::clean;
use crate::output::{Printer, print, print_json};
use crate::ssh::client::{self, CONFIGURATION, Entry};
use crate::ssh::keys::{self, Keys};
use crate::ssh::server::{self, Served};
use crate::ssh::targets::{self, Target};
use crate::terminal::{self, Descriptor, End, Session, SessionOptions, Signals, Streams};

/// Becomes ssh.
///
/// # Errors
/// A sandbox that does not run, an ssh that is not there.
pub fn ssh(arguments: &SshArguments) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    let targets = targets::all(&paths)?;
    let target = targets::find(&targets, &arguments.sandbox)?;
    target.running()?;
    // ssh looks for the key before the proxy is started.
    Keys::open(&crate::ssh::directory(&paths))?.user()?;
    let mut ssh = Command::new("ssh");
    // Of several values ssh takes the first.
    ssh.args(arguments.options.iter().flat_map(|option| ["-o", option]));
    ssh.args(crate::ssh::client(&paths, &host)?.options(target.host()));
    if terminal::wanted() {
        ssh.arg("-t");
    }
    ssh.args(["--", target.host()]).args(&arguments.command);
    Err(keys::missing_client("ssh", ssh.exec()).into())
}

/// Serves one connection of ssh: bytes of ours to an sshd inside, and back.
///
/// # Errors
/// A sandbox that does not run or has no sshd.
pub fn proxy(host: &str, printer: &Printer) -> Result<u8, Failure> {
    let paths = Paths::from_environment()?;
    let targets = targets::all(&paths)?;
    let target = targets::called(&targets, host).ok_or_else(|| unknown(host))?;
    let record = target.running()?;
    let (host_key, authorized_key) = {
        let keys = Keys::open(&crate::ssh::directory(&paths))?;
        let both = (keys.host(target)?, keys.user()?);
        // Before the server's first byte: ssh looks at its list after that.
        keys.write_known_hosts(&targets)?;
        both
    };
    let served = Served { host_key: &host_key, authorized_key: &authorized_key, directory: &target.workspace };
    block_on(serve(&paths, record, &served.program()?, printer))?
}

async fn serve(
    paths: &Paths,
    record: &Record,
    program: &viv_proto::message::Exec,
    printer: &Printer,
) -> Result<u8, Failure> {
    // Ctrl-C at the user's terminal is for ssh to deal with: we end when it does.
    let mut signals =
        Signals::listen_to(&[libc::SIGTERM, libc::SIGHUP]).map_err(error::io("cannot listen to signals"))?;
    let _ignored = Signals::listen_to(&[libc::SIGINT, libc::SIGQUIT]).map_err(error::io("cannot listen to signals"))?;
    let started = match viv_sandbox::exec_in(paths, record, program).await {
        // Without a shell there is no sshd.
        Err(error) if *error.kind() == viv_sandbox::ErrorKind::ProgramNotFound => return Err(no_server(record).into()),
        started => started.map_err(failure_of_exec)?,
    };
    let streams = Streams {
        stdin: Box::new(Descriptor::stdin()),
        stdout: Box::new(Descriptor::stdout()),
        stderr: Box::new(Descriptor::stderr()),
    };
    let options = SessionOptions { terminal: false, timeout: None, detach: None };
    let session =
        Session::begin(started.writer, streams, options).map_err(error::io("cannot pass on what ssh says"))?;
    let (end, _) = session.run(started.reader, &mut signals, std::future::pending()).await;
    match &end {
        End::Exited(report) if report.code == server::NO_SERVER => Err(no_server(record).into()),
        End::Disconnected(_) => Err(Error::new(
            ErrorKind::SandboxLost,
            format!("sandbox {} ended while ssh was connected", record.called()),
        )
        .into()),
        _ => conclude(&end, printer, Limits { memory: record.memory_mib << 20, disk: None, timeout: None }),
    }
}

fn no_server(record: &Record) -> Error {
    let name = record.called();
    Error::new(ErrorKind::NotFound, format!("the image of sandbox {name} has no OpenSSH server"))
        .hint("add it to [run] or to its own section in viv.toml: packages = [\"openssh-server\"], and start it anew")
        .hint(format!(
            "once, where the sandbox may reach its mirror: viv exec --root {name} -- apt-get install -y openssh-server"
        ))
        .hint("viv run -p openssh-server …")
}

fn unknown(host: &str) -> Error {
    let error = Error::new(ErrorKind::NotFound, format!("there is no sandbox for ssh's host {}", clean(host)));
    error.hint("viv ps; for ssh, a sandbox is called viv-NAME, or viv-ID with the whole id")
}

/// What became of the file to include, for `--json`.
#[derive(Debug, Serialize)]
struct Written<'a> {
    /// Where it is.
    file: &'a Path,
    /// Whether it was not so before.
    changed: bool,
    /// Whether ssh reads it.
    included: bool,
    /// What ssh has to read for that, above everything else.
    include_line: &'a str,
    /// The names of the sandboxes listed in it.
    hosts: Vec<&'a str>,
}

/// Writes the file that ssh includes, and has it included if asked to.
///
/// # Errors
/// Files that cannot be read or written, paths that ssh's configuration cannot hold.
pub fn config(arguments: &SshConfigArguments) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let paths = Paths::from_environment()?;
    let client = crate::ssh::client(&paths, &host)?;
    let targets = targets::all(&paths)?;
    let entries: Vec<Entry> = targets.iter().map(Target::entry).collect();
    let text = client.file_text(&entries);
    if arguments.print {
        print(&text)?;
        return Ok(0);
    }
    let keys = Keys::open(&client.directory)?;
    keys.user()?;
    keys.write_known_hosts(&targets)?;
    let changed = keys.replace(CONFIGURATION, &text)?;
    let file = client.directory.join(CONFIGURATION);
    let include_line = client.include_line();
    let home = host.home.as_deref().ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "HOME is not set, so where ssh's configuration is cannot be told")
    })?;
    let included = included(home, &file, &include_line, arguments.install)?;
    let hosts: Vec<&str> = entries.iter().map(|entry| entry.host.as_str()).collect();
    if arguments.json {
        print_json(&Written { file: &file, changed, included, include_line: &include_line, hosts })?;
    } else {
        let listed = if hosts.is_empty() { "no sandbox yet".to_owned() } else { hosts.join(", ") };
        let mut text = format!("{} has {listed}\n", file.display());
        if !included {
            text.push_str(&format!(
                "ssh does not read it yet: put this line above everything else in ~/.ssh/config, or have it put there\n\
                 by viv ssh-config --install\n{include_line}\n"
            ));
        }
        print(&text)?;
    }
    Ok(0)
}

/// Whether ssh's configuration includes the file, in the end.
fn included(home: &Path, file: &Path, line: &str, install: bool) -> Result<bool, Error> {
    let directory = home.join(".ssh");
    let configuration = directory.join("config");
    let failed = || error::io(format!("{} cannot be changed", configuration.display()));
    let old = match std::fs::read(&configuration) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        old => old.map_err(error::io(format!("{} cannot be read", configuration.display())))?,
    };
    if client::includes(&String::from_utf8_lossy(&old), file, home) {
        return Ok(true);
    }
    if !install {
        return Ok(false);
    }
    make_private(&directory).map_err(failed())?;
    let mut text =
        format!("# Sandboxes of viv. Above everything else: what comes first counts.\n{line}\n\n").into_bytes();
    text.extend(old);
    // Where the file is a link, as with those who keep such files in a repository, what it points to is replaced.
    let target = final_target(&configuration);
    keys::replace_file(&target, &text, 0o600).map_err(failed())?;
    Ok(true)
}

fn make_private(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn final_target(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_include_is_put_there_once_and_first() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("state/viv/ssh/config");
        let line = format!("Include \"{}\"", file.display());
        let configuration = home.path().join(".ssh/config");
        assert!(!included(home.path(), &file, &line, false).unwrap());
        assert!(!configuration.exists());
        assert!(included(home.path(), &file, &line, true).unwrap());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&home.path().join(".ssh")), mode(&configuration)], [0o700, 0o600]);
        let text = std::fs::read(&configuration).unwrap();
        assert!(included(home.path(), &file, &line, true).unwrap());
        assert_eq!(std::fs::read(&configuration).unwrap(), text);
    }

    #[test]
    fn what_was_there_stays_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config-of-viv");
        let line = format!("Include \"{}\"", file.display());
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let kept = home.path().join("dotfiles-ssh");
        let old = [b"Host *\n  # \xff\n  ".as_slice(), line.as_bytes()].concat();
        std::fs::write(&kept, &old).unwrap();
        symlink("../dotfiles-ssh", home.path().join(".ssh/config")).unwrap();
        assert!(!included(home.path(), &file, &line, false).unwrap(), "below Host it counts for some only");
        assert!(included(home.path(), &file, &line, true).unwrap());
        assert!(home.path().join(".ssh/config").is_symlink());
        let new = std::fs::read(&kept).unwrap();
        assert!(new.ends_with(&old) && included(home.path(), &file, &line, false).unwrap());
    }
}
