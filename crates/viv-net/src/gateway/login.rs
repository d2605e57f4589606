//! Logins of subscriptions, as Claude Code and Codex keep them on the host: the guest has a sentinel, the
//! host refreshes. Refreshing invalidates the token that it is done with, so it happens under a lock
//! on the host, once, and what came of it is written back to where the host's own program finds it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::client::legacy::Client;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::answer::Trouble;
use super::client::{Connector, client};
use super::credential::{Secret, no_key, read_limited};
use super::{Login, LoginKind};

/// A token is refreshed when it holds for less than this.
const MARGIN: Duration = Duration::from_secs(300);

/// A refresh, and the wait for one of another sandbox.
const REFRESH_DEADLINE: Duration = Duration::from_secs(30);

/// A token that is younger and refused all the same is not what is wrong.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

/// Between two looks at a lock that another process holds.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// The longest answer of a token endpoint, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Codex refreshes what is older than this if the token does not say when it ends.
const CODEX_KEEPS: Duration = Duration::from_secs(8 * 24 * 3600);

/// A program's login, and when what was read of it ends.
pub(super) struct LoginFile {
    kind: LoginKind,
    path: PathBuf,
    token_url: String,
    client: Client<Connector, Full<Bytes>>,
    /// Seconds since the Unix epoch.
    expires: AtomicU64,
    /// When it was last refreshed here, likewise.
    refreshed: AtomicU64,
}

struct Tokens {
    access: Secret,
    refresh: Option<Secret>,
    account: Option<String>,
    /// Seconds since the Unix epoch.
    expires: u64,
}

impl LoginFile {
    pub(super) fn new(login: &Login, connector: Connector) -> Self {
        let usual = match login.kind {
            LoginKind::Claude => "https://console.anthropic.com/v1/oauth/token",
            LoginKind::Codex => "https://auth.openai.com/oauth/token",
        };
        Self {
            kind: login.kind,
            path: login.file.clone(),
            token_url: login.token_url.clone().unwrap_or_else(|| usual.to_owned()),
            client: client(connector),
            expires: AtomicU64::new(0),
            refreshed: AtomicU64::new(0),
        }
    }

    /// Whether the token that was read last should be read, and perhaps refreshed, anew.
    pub(super) fn expires_soon(&self) -> bool {
        now() + MARGIN.as_secs() >= self.expires.load(Ordering::Relaxed)
    }

    /// A token that holds for a while, and the account it is for. If one was refused it is another, from the file or,
    /// if asked for, by a refresh; one that was refreshed just now is not refreshed again for that.
    pub(super) async fn token(&self, refused: Option<(&Secret, bool)>) -> Result<(Secret, Option<String>), Trouble> {
        let good = |tokens: &Tokens| {
            now() + MARGIN.as_secs() < tokens.expires
                && refused.is_none_or(|(refused, _)| refused.expose() != tokens.access.expose())
        };
        let (_, mut tokens) = self.read().await?;
        if !good(&tokens) {
            let just_now = now() < self.refreshed.load(Ordering::Relaxed).saturating_add(REFRESH_INTERVAL.as_secs());
            if refused.is_some_and(|(_, refresh)| !refresh || just_now) {
                return Err(no_key("the upstream refuses the host's login"));
            }
            // Whoever had the lock before us may have refreshed it.
            let _lock = self.lock().await?;
            let (document, current) = self.read().await?;
            tokens = if good(&current) { current } else { self.refresh(document, current).await? };
        }
        self.expires.store(tokens.expires, Ordering::Relaxed);
        Ok((tokens.access, tokens.account))
    }

    async fn read(&self) -> Result<(Value, Tokens), Trouble> {
        let bytes = read_limited(&self.path)
            .await
            .map_err(|error| no_key(format!("the host's login cannot be read: {}", error.kind())))?;
        let document: Value = serde_json::from_slice(&bytes).map_err(|_| no_key("the host's login is not JSON"))?;
        let tokens = tokens(self.kind, &document).ok_or_else(|| {
            let program = match self.kind {
                LoginKind::Claude => "claude",
                LoginKind::Codex => "codex login",
            };
            no_key(format!("there is no login on the host: run `{program}` there"))
        })?;
        Ok((document, tokens))
    }

    /// Waits for the lock beside the file, which every sandbox that uses this login takes.
    async fn lock(&self) -> Result<File, Trouble> {
        let failed = |error: io::Error| no_key(format!("the host's login cannot be locked: {}", error.kind()));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(beside(&self.path, ".viv-lock"))
            .map_err(failed)?;
        let taken = async {
            loop {
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => return Ok(()),
                    Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                        tokio::time::sleep(LOCK_INTERVAL).await;
                    }
                    Err(error) => return Err(failed(error.into())),
                }
            }
        };
        match tokio::time::timeout(REFRESH_DEADLINE, taken).await {
            Ok(taken) => taken.map(|()| file),
            Err(_) => Err(no_key("another process has been refreshing the host's login for too long")),
        }
    }

    async fn refresh(&self, mut document: Value, old: Tokens) -> Result<Tokens, Trouble> {
        let Some(refresh) = &old.refresh else {
            return Err(no_key("the host's login has ended and cannot be refreshed: log in again there"));
        };
        let failed = |error: io::Error| no_key(format!("the host's login cannot be written: {}", error.kind()));
        // The token refreshed with is void afterwards, so there must be a place for the new one before.
        let replacement = Replacement::begin(&self.path).map_err(failed)?;
        let answer = tokio::time::timeout(REFRESH_DEADLINE, self.ask(refresh))
            .await
            .unwrap_or_else(|_| Err(no_key("the host's login could not be refreshed in time")))?;
        let granted = |key: &str| answer.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let access = granted("access_token").ok_or_else(|| no_key("the refresh of the host's login gave no token"))?;
        match self.kind {
            LoginKind::Claude => {
                let lifetime = answer.get("expires_in").and_then(Value::as_u64).unwrap_or(3600);
                let login = &mut document["claudeAiOauth"];
                login["accessToken"] = access.into();
                login["expiresAt"] = now().saturating_add(lifetime).saturating_mul(1000).into();
                if let Some(refresh) = granted("refresh_token") {
                    login["refreshToken"] = refresh.into();
                }
            }
            LoginKind::Codex => {
                for key in ["access_token", "refresh_token", "id_token"] {
                    if let Some(token) = granted(key) {
                        document["tokens"][key] = token.into();
                    }
                }
                document["last_refresh"] = rfc3339(now()).into();
            }
        }
        let text = Zeroizing::new(
            serde_json::to_vec_pretty(&document).map_err(|_| no_key("the host's login cannot be written"))?,
        );
        replacement.finish(&text).map_err(failed)?;
        self.refreshed.store(now(), Ordering::Relaxed);
        tokens(self.kind, &document).ok_or_else(|| no_key("the refresh of the host's login gave no token"))
    }

    async fn ask(&self, refresh: &Secret) -> Result<Value, Trouble> {
        // The identifiers of the programs themselves, without which no token is granted.
        let body = match self.kind {
            LoginKind::Claude => json!({
                "grant_type": "refresh_token",
                "refresh_token": refresh.expose(),
                "client_id": "9d1c250a-e61b-44d9-88ed-5944d1962f5e",
            }),
            LoginKind::Codex => json!({
                "client_id": "app_EMoamEEZ73f0CkXaXp7hrann",
                "grant_type": "refresh_token",
                "refresh_token": refresh.expose(),
                "scope": "openid profile email",
            }),
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.token_url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|_| no_key("the address for refreshing the host's login is not one"))?;
        let failed = |_| no_key("the host's login cannot be refreshed: no answer");
        let response = self.client.request(request).await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(no_key(format!("the host's login cannot be refreshed: {status}; log in again there")));
        }
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let body = body.map_err(|_| no_key("the host's login cannot be refreshed: the answer broke off"))?.to_bytes();
        serde_json::from_slice(&body)
            .map_err(|_| no_key("the host's login cannot be refreshed: the answer is not JSON"))
    }
}

fn tokens(kind: LoginKind, document: &Value) -> Option<Tokens> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match kind {
        LoginKind::Claude => {
            let login = &document["claudeAiOauth"];
            Some(Tokens {
                access: Secret::new(text(&login["accessToken"])?),
                refresh: text(&login["refreshToken"]).map(Secret::new),
                account: None,
                expires: login["expiresAt"].as_u64().map_or(u64::MAX, |milliseconds| milliseconds / 1000),
            })
        }
        LoginKind::Codex => {
            let tokens = &document["tokens"];
            let access = text(&tokens["access_token"])?;
            let refreshed = document["last_refresh"].as_str().and_then(seconds);
            let expires =
                expiry(&access).or(refreshed.map(|at| at.saturating_add(CODEX_KEEPS.as_secs()))).unwrap_or(u64::MAX);
            let account = text(&tokens["account_id"]);
            let refresh = text(&tokens["refresh_token"]).map(Secret::new);
            Some(Tokens { access: Secret::new(access), refresh, account, expires })
        }
    }
}

/// When a JSON Web Token (RFC 7519) ends. Its signature is its audience's affair.
fn expiry(token: &str) -> Option<u64> {
    let claims = Zeroizing::new(URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?);
    serde_json::from_slice::<Value>(&claims).ok()?.get("exp")?.as_u64()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// New content for a file, which takes its place whole or not at all, readable by its owner alone. A
/// link, as whoever keeps settings elsewhere has, stays one.
struct Replacement {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Replacement {
    fn begin(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let temporary = beside(&path, &format!(".viv-{}", std::process::id()));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        Ok(Self { file, temporary, path })
    }

    fn finish(mut self, content: &[u8]) -> io::Result<()> {
        self.file.write_all(content)?;
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After a rename there is nothing there.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Days of the proleptic Gregorian calendar since 1970 as year, month and day.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Seconds since the Unix epoch as RFC 3339, in UTC.
fn rfc3339(seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A time of RFC 3339, in UTC, to the day, as seconds since the Unix epoch.
fn seconds(text: &str) -> Option<u64> {
    let wanted = text.get(..10)?;
    let year: u64 = text.get(..4)?.parse().ok()?;
    let first = year.checked_sub(1970)? * 365;
    // At most a leap day every four years later than that.
    (first..first + year / 4 + 366).find(|days| rfc3339(days * 86_400).starts_with(wanted)).map(|days| days * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_rfc_3339() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(at), text);
            assert_eq!(seconds(text), Some(at - at % 86_400));
        }
        for text in ["", "2026", "yesterday at noon", "1969-12-31T00:00:00Z", "2026-02-30T00:00:00Z"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_says_when_it_ends() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(expiry(&token("{\"exp\":1798761599}")), Some(1_798_761_599));
        for token in [token("{}"), token("x"), "opaque".to_owned(), "a.b.c".to_owned()] {
            assert_eq!(expiry(&token), None);
        }
    }
}
