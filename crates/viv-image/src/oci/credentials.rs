//! Logins, as podman and Docker keep them. None of them is ever part of an error or of what is kept.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::access::RegistryAccess;
use crate::error::{Error, ErrorKind, Result, io_error};

/// A larger file is no such file. Bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What a helper may say. Bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// How long a helper may take: some ask their user something.
const HELPER_DEADLINE: Duration = Duration::from_secs(120);

/// A secret, kept out of debugging output.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How a registry is to know the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Password {
        user: String,
        password: Secret,
    },
    /// Exchanged for a token that is good for one repository.
    IdentityToken(Secret),
}

impl Credential {
    /// A user without a name is an identity token's.
    fn new(user: String, secret: Secret) -> Self {
        if user == "<token>" { Self::IdentityToken(secret) } else { Self::Password { user, password: secret } }
    }
}

/// What is looked for: the registry's names, and the repository within.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// As the reference has it.
    pub registry: &'a str,
    /// Where it is served; another host for the registry that is meant where none is named.
    pub host: &'a str,
    pub repository: &'a str,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// `USER:PASSWORD` in base64.
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Secret,
}

/// The login for a repository, from the first file that has one; `None` for an anonymous client.
pub(super) fn find(access: &RegistryAccess, wanted: Wanted<'_>) -> Result<Option<Credential>> {
    for path in &access.credential_files {
        let Some(file) = read(path)? else { continue };
        if let Some(found) = in_file(access, &file, path, wanted)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<File>> {
    let opened = match fs::File::open(path) {
        Ok(opened) => opened,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(io_error("read", path)(error)),
    };
    let mut text = Zeroizing::new(Vec::new());
    opened.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(io_error("read", path))?;
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    // serde's error quotes what it found, and that may be a secret.
    serde_json::from_slice(&text).map(Some).map_err(|why| {
        let message =
            format!("{} is no file with logins (line {}, column {})", path.display(), why.line(), why.column());
        Error::new(ErrorKind::Unauthorized, message).hint("docker login or podman login writes such a file")
    })
}

fn in_file(access: &RegistryAccess, file: &File, path: &Path, wanted: Wanted<'_>) -> Result<Option<Credential>> {
    let names = [wanted.registry, wanted.host];
    let helper = names.iter().find_map(|name| file.cred_helpers.get(*name)).filter(|name| !name.is_empty());
    if let Some(store) = helper {
        return ask(access, store, wanted, HELPER_DEADLINE);
    }
    if let Some(entry) = entry(file, wanted)
        && let Some(found) = entry.credential(path)?
    {
        return Ok(Some(found));
    }
    match file.creds_store.as_ref().filter(|name| !name.is_empty()) {
        Some(store) => ask(access, store, wanted, HELPER_DEADLINE),
        None => Ok(None),
    }
}

/// The entry of the longest name: podman keeps logins for a namespace and for a single repository,
/// Docker keeps addresses.
fn entry<'a>(file: &'a File, wanted: Wanted<'_>) -> Option<&'a Entry> {
    let plain = |key: &str| -> String {
        let stripped = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        // Of an address only the host counts; it has the version of the interface behind it.
        stripped.map_or(key, |rest| rest.split('/').next().unwrap_or(rest)).trim_end_matches('/').to_owned()
    };
    let mut name = wanted.repository;
    loop {
        for registry in [wanted.registry, wanted.host] {
            let full = if name.is_empty() { registry.to_owned() } else { format!("{registry}/{name}") };
            if let Some((_, entry)) = file.auths.iter().find(|(key, _)| plain(key) == full) {
                return Some(entry);
            }
        }
        if name.is_empty() {
            return None;
        }
        name = name.rsplit_once('/').map_or("", |(above, _)| above);
    }
}

impl Entry {
    /// `None` for what Docker leaves behind where a store has the login.
    fn credential(&self, path: &Path) -> Result<Option<Credential>> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.expose().is_empty()) {
            return Ok(Some(Credential::IdentityToken(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.expose().is_empty()) {
            let settings = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let decoded = GeneralPurpose::new(&alphabet::STANDARD, settings).decode(auth.expose().trim()).ok();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).map(Zeroizing::new);
            let (user, password) = text.as_ref().and_then(|text| text.split_once(':')).ok_or_else(|| {
                Error::new(ErrorKind::Unauthorized, format!("{} has a login that cannot be read", path.display()))
                    .hint("log in again, with docker login or podman login")
            })?;
            // Docker pads with NUL bytes.
            let password = Secret::new(password.trim_end_matches('\0').to_owned());
            return Ok(Some(Credential::new(user.to_owned(), password)));
        }
        Ok(self.username.clone().zip(self.password.clone()).map(|(user, secret)| Credential::new(user, secret)))
    }
}

/// Asks a helper, in `/` (<https://github.com/docker/docker-credential-helpers>).
fn ask(access: &RegistryAccess, store: &str, wanted: Wanted<'_>, deadline: Duration) -> Result<Option<Credential>> {
    let name = format!("docker-credential-{}", store.escape_debug());
    let program = access.helper(store).ok_or_else(|| {
        Error::new(ErrorKind::MissingTool, format!("{name}, which keeps the logins, is not there"))
            .hint(format!("install it to /usr/local/bin, or log in to {} anew without it", wanted.registry))
    })?;
    // Docker calls the registry that is meant where none is named by its oldest address.
    let server =
        if wanted.registry == wanted.host { wanted.host.to_owned() } else { format!("https://{}/v1/", wanted.host) };
    let failed = |why: &str| Error::new(ErrorKind::Unauthorized, format!("{name} {why}"));
    let (status, output) = run(&program, &server, deadline).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => failed(&format!("gave no login within {} seconds", deadline.as_secs())),
        _ => io_error("run", &program)(error),
    })?;
    if !status {
        // The one failure with a meaning of its own; what else it says may hold anything.
        let unknown = output.windows(21).any(|part| part == b"credentials not found");
        return if unknown { Ok(None) } else { Err(failed("failed")) };
    }
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| failed("gave an answer that is no login"))?;
    Ok(Some(Credential::new(answer.username, answer.secret)))
}

/// Whether it succeeded, and what it said.
fn run(program: &Path, server: &str, deadline: Duration) -> io::Result<(bool, Zeroizing<Vec<u8>>)> {
    let mut command = Command::new(program);
    command.arg("get").current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (sender, receiver) = mpsc::channel();
    let server = server.to_owned();
    // Not joined: a helper's own children may keep the pipe open after it.
    std::thread::spawn(move || {
        let talk = || -> io::Result<_> {
            let mut answer = Zeroizing::new(Vec::new());
            if let (Some(mut input), Some(output)) = (input, output) {
                match input.write_all(server.as_bytes()) {
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    _ => drop(input),
                }
                output.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
            }
            Ok(answer)
        };
        let _ = sender.send(talk());
    });
    let said = receiver.recv_timeout(deadline);
    if said.is_err() {
        child.kill()?;
    }
    let status = child.wait()?;
    let answer = said.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok((status.success(), answer))
}

#[cfg(test)]
mod tests;
