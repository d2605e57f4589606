//! Keys of the host: read where they are, kept no longer than they hold, never shown.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::answer::{Fault, Trouble};
use super::client::Connector;
use super::login::LoginFile;
use super::{Credential, LoginKind, PROXY_VARIABLES};
use crate::spec::Keys;

/// How long a command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// How long the output of one that has ended is waited for.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(1);

/// How long what it printed is used.
const COMMAND_KEEPS: Duration = Duration::from_secs(300);

/// How long a key that was refused, and was found to be the same still, is not asked for again: a
/// command may ask its user for a password each time.
const UNCHANGED_KEEPS: Duration = Duration::from_secs(30);

/// The most that is read of a file or a command, in bytes.
const LONGEST_SOURCE: usize = 64 * 1024;

/// A secret: wiped when dropped, never shown.
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// What a call is made with.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) secret: Arc<Secret>,
    /// A login's: whose, and under which account.
    pub(super) login: Option<(LoginKind, Option<String>)>,
}

impl Key {
    fn is(&self, other: &Self) -> bool {
        self.secret.expose() == other.secret.expose()
    }
}

/// One upstream's key.
pub(super) struct Source {
    credential: Credential,
    keys: Arc<Keys>,
    login: Option<LoginFile>,
    held: Mutex<Option<Held>>,
}

struct Held {
    key: Key,
    since: Instant,
    /// What the file was when it was read.
    file: Option<Stamp>,
    /// When it was last asked for anew and found to be the same.
    unchanged: Option<Instant>,
}

type Stamp = (u64, u64, Option<SystemTime>);

impl Source {
    pub(super) fn new(credential: &Credential, keys: &Arc<Keys>, connector: &Connector) -> Self {
        let login = match credential {
            Credential::Login(login) => Some(LoginFile::new(login, connector.clone())),
            _ => None,
        };
        Self { credential: credential.clone(), keys: Arc::clone(keys), login, held: Mutex::new(None) }
    }

    /// The key, if the upstream wants one. Callers wait for each other: what one has read or refreshed,
    /// all use.
    pub(super) async fn key(&self) -> Result<Option<Key>, Trouble> {
        if matches!(self.credential, Credential::None) {
            return Ok(None);
        }
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && self.holds(held)
        {
            return Ok(Some(held.key.clone()));
        }
        let fresh = self.read(None).await?;
        let key = fresh.key.clone();
        *held = Some(fresh);
        Ok(Some(key))
    }

    /// Another key than one that the upstream has refused, if there is one. Whether the key as such was refused
    /// (401) or what it was used for (403) decides whether a login is refreshed.
    pub(super) async fn other_than(&self, refused: &Key, refresh: bool) -> Option<Key> {
        let mut held = self.held.lock().await;
        if let Some(held) = &*held {
            if !held.key.is(refused) {
                return Some(held.key.clone());
            }
            if held.unchanged.is_some_and(|at| at.elapsed() < UNCHANGED_KEEPS)
                && !matches!(self.credential, Credential::File(_))
            {
                return None;
            }
        }
        match self.read(Some((refused, refresh))).await {
            Ok(fresh) if !fresh.key.is(refused) => {
                let key = fresh.key.clone();
                *held = Some(fresh);
                Some(key)
            }
            _ => {
                if let Some(held) = &mut *held {
                    held.unchanged = Some(Instant::now());
                }
                None
            }
        }
    }

    fn holds(&self, held: &Held) -> bool {
        match &self.credential {
            Credential::Env(_) | Credential::None => true,
            Credential::File(path) => held.file.is_some() && stamp(path) == held.file,
            Credential::Command(_) => held.since.elapsed() < COMMAND_KEEPS,
            Credential::Login(login) => {
                stamp(&login.file) == held.file && self.login.as_ref().is_some_and(|login| !login.expires_soon())
            }
        }
    }

    async fn read(&self, refused: Option<(&Key, bool)>) -> Result<Held, Trouble> {
        let mut file = None;
        let mut login = None;
        let secret = match &self.credential {
            Credential::None => Secret::new(String::new()),
            Credential::Env(variable) => {
                let missing = || no_key(format!("the variable {variable} is not set on the host"));
                Secret::new(self.keys.get(variable).filter(|value| !value.is_empty()).ok_or_else(missing)?.to_owned())
            }
            Credential::File(path) => {
                file = stamp(path);
                read_file(path).await?
            }
            Credential::Command(arguments) => run(arguments, &self.keys).await?,
            Credential::Login(spec) => {
                let Some(source) = &self.login else { return Err(no_key("the login is not set up")) };
                let (token, account) = source.token(refused.map(|(key, refresh)| (&*key.secret, refresh))).await?;
                file = stamp(&spec.file);
                login = Some((spec.kind, account));
                token
            }
        };
        let printable = secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
        if !printable {
            return Err(no_key("the host's key has characters that no key has"));
        }
        Ok(Held { key: Key { secret: Arc::new(secret), login }, since: Instant::now(), file, unchanged: None })
    }
}

/// For the guest to read: what is wrong, without a word of what was read.
pub(super) fn no_key(message: impl Into<String>) -> Trouble {
    Trouble::new(Fault::Key, message)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
}

/// Reads a file of the host, without blocking others should it lie on a slow disk.
pub(super) async fn read_limited(path: &Path) -> Result<Zeroizing<Vec<u8>>, std::io::Error> {
    let path: PathBuf = path.to_owned();
    tokio::task::spawn_blocking(move || {
        // Room for all of it at once: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_SOURCE + 1));
        std::fs::File::open(path)?.take(LONGEST_SOURCE as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    })
    .await
    .unwrap_or_else(|_| Err(std::io::Error::other("reading was given up")))
}

async fn read_file(path: &Path) -> Result<Secret, Trouble> {
    let bytes = read_limited(path).await;
    let bytes = bytes.map_err(|error| no_key(format!("the host's key file cannot be read: {}", error.kind())))?;
    first_line(&bytes).ok_or_else(|| no_key("the first line of the host's key file is no key"))
}

/// The first line, without space around it, if there is one.
fn first_line(bytes: &[u8]) -> Option<Secret> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?.trim();
    (!text.is_empty() && bytes.len() <= LONGEST_SOURCE).then(|| Secret::new(text.to_owned()))
}

/// Runs a command of the host's user, in a process group of its own so that nothing of it stays. It may
/// need the host's proxy, which is among the keys.
async fn run(arguments: &[String], keys: &Keys) -> Result<Secret, Trouble> {
    let Some((program, rest)) = arguments.split_first() else {
        return Err(no_key("the command for the host's key is empty"));
    };
    let mut command = Command::new(program);
    command.envs(PROXY_VARIABLES.iter().filter_map(|name| Some((name, keys.get(name)?))));
    command.args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true);
    let failed = |what: &str| no_key(format!("the host's command for the key, `{program}`, {what}"));
    let mut child = command.spawn().map_err(|error| failed(&format!("cannot be started: {}", error.kind())))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_SOURCE + 1));
    let finished = tokio::time::timeout(COMMAND_DEADLINE, async {
        let Some(output) = child.stdout.take() else { return child.wait().await };
        let mut output = output.take(LONGEST_SOURCE as u64 + 1);
        let reading = output.read_to_end(&mut bytes);
        tokio::pin!(reading);
        tokio::select! {
            read = &mut reading => {
                read?;
                child.wait().await
            }
            status = child.wait() => {
                // An agent that it has left running may hold its output open.
                let _ = tokio::time::timeout(OUTPUT_DEADLINE, reading).await;
                status
            }
        }
    })
    .await;
    match finished {
        Ok(status) => {
            group.0 = None;
            match status {
                Ok(status) if status.success() => {
                    first_line(&bytes).ok_or_else(|| failed("printed no key on its first line"))
                }
                Ok(status) => Err(failed(&format!("failed: {status}"))),
                Err(error) => Err(failed(&format!("failed: {}", error.kind()))),
            }
        }
        Err(_) => Err(failed(&format!("took longer than {} seconds", COMMAND_DEADLINE.as_secs()))),
    }
}

/// A process group that is killed if it is given up, while its leader has not been waited for.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let key = Key { secret: Arc::new(Secret::new("canary".into())), login: None };
        assert!(!format!("{key:?}").contains("canary"));
    }

    #[test]
    fn a_key_is_the_first_line() {
        let line = |text: &str| first_line(text.as_bytes()).map(|secret| secret.expose().to_owned());
        assert_eq!(line("  key \r\nlogin: me\n").as_deref(), Some("key"));
        assert_eq!(line("key").as_deref(), Some("key"));
        for text in ["", "\nkey", "\u{0}".repeat(LONGEST_SOURCE + 1).as_str()] {
            assert_eq!(line(text), None);
        }
        assert!(first_line(&[0xff, b'\n']).is_none());
    }

    #[tokio::test]
    async fn a_command_is_run_without_a_shell_and_its_failures_are_named() {
        let mut keys = Keys::default();
        keys.insert("https_proxy", "http://proxy:3128".to_owned());
        let run = async |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            run(&arguments, &keys).await.map(|secret| secret.expose().to_owned()).map_err(|trouble| trouble.message)
        };
        assert_eq!(run(&["printf", "%s\\nmore", "$HOME;x"]).await.as_deref(), Ok("$HOME;x"));
        assert_eq!(run(&["printenv", "https_proxy"]).await.as_deref(), Ok("http://proxy:3128"));
        // What stays behind does not keep the key from being used.
        assert_eq!(run(&["sh", "-c", "sleep 60 & echo key; kill -0 $!"]).await.as_deref(), Ok("key"));
        insta::assert_snapshot!(run(&["sh", "-c", "echo canary; exit 3"]).await.unwrap_err(), @"the host's command for the key, `sh`, failed: exit status: 3");
        insta::assert_snapshot!(run(&["true"]).await.unwrap_err(), @"the host's command for the key, `true`, printed no key on its first line");
        insta::assert_snapshot!(run(&["no-such-command-anywhere"]).await.unwrap_err(), @"the host's command for the key, `no-such-command-anywhere`, cannot be started: entity not found");
        insta::assert_snapshot!(run(&[]).await.unwrap_err(), @"the command for the host's key is empty");
    }
}
