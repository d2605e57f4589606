//! Secrets that the user chose to give to a sandbox: in memory, for the ordinary user alone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use tokio::sync::{Mutex, OnceCell};
use viv_proto::message::{DeployKey, Exec, FailureKind, Secret, User};

use crate::boot;
use crate::error::{Context, Result, error};
use crate::{accounts, exec};

/// Where they are.
pub const DIRECTORY: &str = "/run/secrets";

/// All of them together, in bytes.
pub const MAX_TOTAL_BYTES: u64 = 1024 * 1024;

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// The file of the deploy key, beside the secrets.
const DEPLOY_KEY: &str = "deploy_key";

/// What ssh reads beside its own configuration.
const SSH_CONFIGURATION: &str = "/etc/ssh/ssh_config.d/viv.conf";

/// A sandbox's secrets.
#[derive(Default)]
pub struct Secrets {
    /// Whether there is a place for them; held while one is written.
    mounted: Mutex<bool>,
    deploy_key: OnceCell<DeployKey>,
}

impl Secrets {
    /// Puts a secret in its place; one of the same name is replaced in one step.
    ///
    /// # Errors
    /// [`FailureKind::BadRequest`] for a name that is not one, [`FailureKind::Internal`] if there is no
    /// room for it.
    pub async fn put(&self, secret: &Secret, user: &User) -> Result<()> {
        check_name(&secret.name)?;
        let mut mounted = self.mounted.lock().await;
        mount(&mut mounted)?;
        let failed = || format!("cannot keep the secret {} (all together may have 1 MiB)", secret.name);
        write(Path::new(DIRECTORY), &secret.name, secret.value.as_bytes(), user).context(failed)
    }

    /// The public half of the deploy key, which is made when it is first asked for.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] if the image has no ssh-keygen.
    pub async fn deploy_key(&self, user: &User) -> Result<DeployKey> {
        self.deploy_key.get_or_try_init(|| self.make_deploy_key(user)).await.cloned()
    }

    async fn make_deploy_key(&self, user: &User) -> Result<DeployKey> {
        let mut mounted = self.mounted.lock().await;
        mount(&mut mounted)?;
        // Made where nobody but root looks, and put beside the secrets as they are.
        let making = PathBuf::from(DIRECTORY).join(".making");
        let made = make_key(&making, user).await;
        // What is left is in memory, and root's.
        let _ = fs::remove_dir_all(&making);
        made
    }
}

async fn make_key(making: &Path, user: &User) -> Result<DeployKey> {
    let failed = || "cannot keep the deploy key".to_owned();
    fs::DirBuilder::new().mode(0o700).create(making).context(failed)?;
    let file = making.join(DEPLOY_KEY);
    let arguments = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f"];
    let mut argv: Vec<String> = arguments.map(str::to_owned).into();
    argv.push(file.to_string_lossy().into_owned());
    let wanted = Exec { argv, env: Default::default(), cwd: "/".to_owned(), user: "root".to_owned(), terminal: None };
    let code = exec::run_quietly(&wanted).await.map_err(|reason| {
        let message = "cannot make a deploy key: it takes ssh-keygen (of openssh-client) inside";
        error(reason.kind().0, message).source(reason)
    })?;
    if code != 0 {
        return Err(error(FailureKind::Internal, format!("cannot make a deploy key: ssh-keygen failed with {code}")));
    }
    let public = accounts::read(&file.with_extension("pub")).context(failed)?;
    let private = accounts::read(&file).context(failed)?;
    write(Path::new(DIRECTORY), DEPLOY_KEY, private.as_bytes(), user).context(failed)?;
    configure_ssh(Path::new(SSH_CONFIGURATION)).context(|| "cannot tell ssh of the deploy key".to_owned())?;
    Ok(DeployKey { public: public.trim_end().to_owned() })
}

/// The keys that ssh would try by itself come after it.
fn configure_ssh(path: &Path) -> io::Result<()> {
    let text = format!(
        "IdentityFile {DIRECTORY}/{DEPLOY_KEY}\nIdentityFile ~/.ssh/id_ed25519\nIdentityFile ~/.ssh/id_ecdsa\n\
         IdentityFile ~/.ssh/id_rsa\n"
    );
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

/// A name is one path component that hides from no listing.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.starts_with('.') || !name.chars().all(plain) {
        return Err(error(
            FailureKind::BadRequest,
            "a secret's name is up to 64 letters, digits, dots, dashes and underscores, and begins with no dot",
        ));
    }
    Ok(())
}

/// A file system of their own, because of its size; without swap where the kernel can (6.4).
fn mount(mounted: &mut bool) -> Result<()> {
    if !*mounted {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let options = format!("mode=0755,size={MAX_TOTAL_BYTES}");
        boot::mount_on("tmpfs", DIRECTORY, "tmpfs", flags, &format!("{options},noswap"))
            .or_else(|_| boot::mount_on("tmpfs", DIRECTORY, "tmpfs", flags, &options))?;
        *mounted = true;
    }
    Ok(())
}

fn write(directory: &Path, name: &str, value: &[u8], user: &User) -> io::Result<()> {
    // Nobody else writes here, and only one at a time.
    let new = directory.join(".new");
    let written = || {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(value)?;
        fchown(&file, Some(user.uid), Some(user.gid))?;
        file.set_permissions(fs::Permissions::from_mode(0o400))?;
        fs::rename(&new, directory.join(name))
    };
    written().inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_secret_is_replaced_as_a_whole_and_is_the_users() {
        let directory = tempfile::tempdir().unwrap();
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let user = User { name: "agent".into(), uid, gid, home: "/home/agent".into() };
        for value in ["first, longer", "second"] {
            write(directory.path(), "TOKEN", value.as_bytes(), &user).unwrap();
            assert_eq!(fs::read_to_string(directory.path().join("TOKEN")).unwrap(), value);
        }
        let facts = fs::metadata(directory.path().join("TOKEN")).unwrap();
        assert_eq!((facts.mode() & 0o7777, facts.uid()), (0o400, uid));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_are_one_plain_component() {
        for name in ["A", "api-key", "x.pem", &"a".repeat(64)] {
            check_name(name).unwrap();
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "a\0", "\u{e9}", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn ssh_tries_the_deploy_key_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ssh_config.d/viv.conf");
        configure_ssh(&path).unwrap();
        assert!(fs::read_to_string(path).unwrap().starts_with("IdentityFile /run/secrets/deploy_key\n"));
    }
}
