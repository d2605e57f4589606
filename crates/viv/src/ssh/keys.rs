//! Keys: one pair of the user's for all sandboxes, one host key for each, and what ssh knows of them.
//!
//! ```text
//!   $XDG_STATE_HOME/viv/ssh/      0700
//!     lock                        held while anything here or a host key is made
//!     id_ed25519, id_ed25519.pub  the user's: the private half never leaves the host
//!     known_hosts                 of all sandboxes that have a host key
//!     config                      for `Include`
//!   a sandbox's own directory     0700, goes with it
//!     ssh_host_ed25519_key, .pub  the private half is handed into the guest with each connection
//! ```
//!
//! A host key is as old as the sandbox's record: one that is made anew under an old name has another, and the list of
//! known hosts, which is always written as a whole, has it before ssh looks.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind as IoErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::client::{IDENTITY, KNOWN_HOSTS};
use super::targets::Target;
use crate::error::{self, Error, ErrorKind};
use crate::output::clean::clean_lines;

/// A sandbox's private host key, in its directory.
const HOST_KEY: &str = "ssh_host_ed25519_key";

/// A longer file of a key is none, bytes.
const LONGEST_KEY_BYTES: u64 = 16 << 10;

/// The directory of what ssh needs, locked.
pub struct Keys {
    directory: PathBuf,
    _lock: File,
}

impl Keys {
    /// Opens the directory, which is made if missing, and waits until nobody else changes it.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let failed = || error::io(format!("{} cannot be used", directory.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed())?;
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(directory.join("lock"));
        let lock = lock.map_err(failed())?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed()(error.into()))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// The user's public key, a line of `authorized_keys`; the pair is made if there is none.
    ///
    /// # Errors
    /// If ssh-keygen cannot make one, or the file is not readable.
    pub fn user(&self) -> Result<String, Error> {
        make_pair(&self.directory, IDENTITY, "viv")?;
        read(&public_half(&self.directory.join(IDENTITY)))
    }

    /// A sandbox's private host key, in OpenSSH's format; the pair is made if there is none.
    ///
    /// # Errors
    /// As [`Keys::user`].
    pub fn host(&self, target: &Target) -> Result<String, Error> {
        make_pair(&target.directory, HOST_KEY, target.host())?;
        read(&target.directory.join(HOST_KEY))
    }

    /// Writes the list of known hosts: all of `targets` that have a key.
    ///
    /// # Errors
    /// The file system's.
    pub fn write_known_hosts(&self, targets: &[Target]) -> Result<(), Error> {
        let keys = targets.iter().map(|target| {
            // One without a key was never connected to; one that ends just now has none any more.
            (target.aliases.as_slice(), read(&public_half(&target.directory.join(HOST_KEY))).ok())
        });
        self.replace(KNOWN_HOSTS, &known_hosts(keys)).map(drop)
    }

    /// Replaces a file of the directory as a whole, if it is not so already; whether it was not.
    ///
    /// # Errors
    /// The file system's.
    pub fn replace(&self, name: &str, text: &str) -> Result<bool, Error> {
        let path = self.directory.join(name);
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(false);
        }
        replace_file(&path, text.as_bytes(), 0o600)
            .map_err(error::io(format!("{} cannot be written", path.display())))?;
        Ok(true)
    }
}

/// The list: a line for each host that has a key, `NAMES TYPE KEY` (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
fn known_hosts<'a>(keys: impl Iterator<Item = (&'a [String], Option<String>)>) -> String {
    let mut text = String::from("# Written by viv: changes are lost.\n");
    for (aliases, key) in keys {
        if let Some([kind, key]) = key.as_deref().and_then(|key| {
            let mut fields = key.split_ascii_whitespace();
            Some([fields.next()?, fields.next()?])
        }) {
            text.push_str(&format!("{} {kind} {key}\n", aliases.join(",")));
        }
    }
    text
}

/// Makes a pair without a passphrase, if there is none. The public half comes last: with it, the pair is whole.
fn make_pair(directory: &Path, name: &str, comment: &str) -> Result<(), Error> {
    let (private, public) = (directory.join(name), public_half(&directory.join(name)));
    if public.exists() && private.exists() {
        return Ok(());
    }
    let failed = || error::io(format!("a key cannot be kept in {}", directory.display()));
    let making = directory.join(format!(".{name}.making"));
    let remove = |path: &Path| match fs::remove_dir_all(path) {
        Err(error) if error.kind() != IoErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    remove(&making).map_err(failed())?;
    DirBuilder::new().mode(0o700).create(&making).map_err(failed())?;
    let made = ssh_keygen(&making.join(name), comment).and_then(|()| {
        fs::rename(making.join(name), &private).map_err(failed())?;
        fs::rename(public_half(&making.join(name)), &public).map_err(failed())
    });
    // What is left over is removed before the next is made.
    let _ = remove(&making);
    made
}

fn ssh_keygen(file: &Path, comment: &str) -> Result<(), Error> {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"]).arg(file);
    keygen.stdin(Stdio::null()).stdout(Stdio::null());
    let output = keygen.output().map_err(|error| missing_client("ssh-keygen", error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = clean_lines(&String::from_utf8_lossy(&output.stderr));
    Err(Error::new(ErrorKind::Io, "ssh-keygen could not make a key").source(format!("{}: {said}", output.status)))
}

/// A program of OpenSSH could not be started.
pub fn missing_client(program: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::NotFound, format!("{program} cannot be run: this takes OpenSSH on this machine"))
        .source(error)
        .hint("apt-get install openssh-client, dnf install openssh-clients, apk add openssh-client")
}

fn public_half(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn read(path: &Path) -> Result<String, Error> {
    use std::io::Read;
    let failed = || error::io(format!("the key {} cannot be read", path.display()));
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(LONGEST_KEY_BYTES).read_to_string(&mut text)).map_err(failed())?;
    Ok(text)
}

/// Replaces a file in one step.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut partial = path.file_name().unwrap_or_default().to_owned();
    partial.push(format!(".viv-{}", std::process::id()));
    let partial = path.with_file_name(partial);
    let written = || {
        let mut file = File::options().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(content)?;
        // A power cut must not leave an empty configuration in the place of a good one.
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    // Of a process that had our number and was killed.
    let _ = fs::remove_file(&partial);
    written().inspect_err(|_| drop(fs::remove_file(&partial)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn target(directory: &Path, aliases: &[&str]) -> Target {
        Target {
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            directory: directory.to_owned(),
            workspace: "/w".into(),
            record: None,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_made_once_and_go_with_their_sandbox() {
        if Command::new("ssh-keygen").arg("-?").output().is_err() {
            eprintln!("SKIPPED: there is no ssh-keygen");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("state/viv/ssh");
        let [first, second] = ["first", "second"].map(|name| root.path().join(name));
        fs::create_dir(&first).unwrap();
        fs::create_dir(&second).unwrap();
        let keys = Keys::open(&directory).unwrap();
        let user = keys.user().unwrap();
        assert!(user.starts_with("ssh-ed25519 ") && user == keys.user().unwrap(), "{user}");
        assert_eq!([mode(&directory), mode(&directory.join(IDENTITY))], [0o700, 0o600]);

        let (first, second) = (target(&first, &["viv-web", "viv-3f2a91c0"]), target(&second, &["viv-api"]));
        let host = keys.host(&first).unwrap();
        assert!(host.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n") && host == keys.host(&first).unwrap());
        let targets = [first, second];
        keys.write_known_hosts(&targets).unwrap();
        let known = fs::read_to_string(directory.join(KNOWN_HOSTS)).unwrap();
        assert_eq!(known.lines().count(), 2, "the other one has no key yet: {known}");
        assert!(known.contains("\nviv-web,viv-3f2a91c0 ssh-ed25519 AAAA"), "{known}");
        assert_ne!(keys.host(&targets[1]).unwrap(), host);

        // Made anew, it is another.
        fs::remove_dir_all(&targets[0].directory).unwrap();
        fs::create_dir(&targets[0].directory).unwrap();
        assert_ne!(keys.host(&targets[0]).unwrap(), host);
        keys.write_known_hosts(&targets).unwrap();
        let anew = fs::read_to_string(directory.join(KNOWN_HOSTS)).unwrap();
        assert!(anew.lines().count() == 3 && anew != known, "{anew}");
        assert!(!keys.replace(KNOWN_HOSTS, &anew).unwrap(), "it is so already");
        let left = fs::read_dir(&directory).unwrap().chain(fs::read_dir(&targets[0].directory).unwrap());
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(!left.iter().any(|name| name.contains(".viv-") || name.contains("making")), "{left:?}");
    }

    #[test]
    fn half_a_pair_is_none() {
        if Command::new("ssh-keygen").arg("-?").output().is_err() {
            eprintln!("SKIPPED: there is no ssh-keygen");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let keys = Keys::open(root.path()).unwrap();
        fs::write(root.path().join(IDENTITY), "what a crash left").unwrap();
        fs::create_dir(root.path().join(format!(".{IDENTITY}.making"))).unwrap();
        assert!(keys.user().unwrap().starts_with("ssh-ed25519 "));
        assert!(fs::read_to_string(root.path().join(IDENTITY)).unwrap().starts_with("-----BEGIN"));
    }
}
