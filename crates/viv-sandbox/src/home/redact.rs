//! Finding what looks like a secret in configuration that is to be copied.
//!
//! A heuristic, which errs on the side of leaving out: what is left out is named, so that it can be given as a
//! secret or through the gateway.

use serde_json::{Map, Value};

/// How tokens begin, and how many characters follow at least.
const TOKENS: [(&str, usize); 16] = [
    ("sk-", 16),
    ("ghp_", 16),
    ("gho_", 16),
    ("ghu_", 16),
    ("ghs_", 16),
    ("ghr_", 16),
    ("github_pat_", 16),
    ("glpat-", 16),
    ("xoxb-", 16),
    ("xoxp-", 16),
    ("xapp-", 16),
    ("AKIA", 16),
    ("AIza", 30),
    ("npm_", 30),
    ("eyJ", 40),
    ("-----BEGIN ", 10),
];

/// Words that make the name of a key that of a secret.
const SECRET_WORDS: [&str; 14] = [
    "key",
    "apikey",
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "credentials",
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "oauth",
];

/// Takes texts that look like secrets out of a tree; names where they were.
pub(super) fn redact(table: &mut Map<String, Value>) -> Vec<String> {
    let mut removed = Vec::new();
    of_table(table, "", &mut removed);
    removed
}

fn of_table(table: &mut Map<String, Value>, place: &str, removed: &mut Vec<String>) {
    let at = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    table.retain(|key, value| {
        let secret = match value {
            Value::String(text) => !text.is_empty() && (is_secret_name(key) || has_token(text)) && !is_reference(text),
            _ => false,
        };
        if secret {
            removed.push(at(key));
        }
        !secret
    });
    for (key, value) in table.iter_mut() {
        of_value(value, &at(key), removed);
    }
}

fn of_value(value: &mut Value, place: &str, removed: &mut Vec<String>) {
    match value {
        Value::Object(table) => of_table(table, place, removed),
        Value::Array(values) => {
            let mut after_flag = false;
            for (index, value) in values.iter_mut().enumerate() {
                let place = format!("{place}[{index}]");
                let Value::String(text) = value else {
                    of_value(value, &place, removed);
                    after_flag = false;
                    continue;
                };
                let flag = text.starts_with('-');
                let (name, given) = text.split_once('=').unwrap_or((text.as_str(), ""));
                let secret_flag = flag && is_secret_name(name);
                let secret = after_flag && !flag || secret_flag && !given.is_empty() || has_token(text);
                after_flag = secret_flag && given.is_empty();
                if secret && !is_reference(text) && !is_reference(given) {
                    // An argument's place has to stay, or others would move.
                    let kept = if secret_flag { format!("{name}=") } else { String::new() };
                    *text = kept;
                    removed.push(place);
                }
            }
        }
        _ => {}
    }
}

/// Whether a key of this name usually holds a secret.
fn is_secret_name(name: &str) -> bool {
    let mut words: Vec<String> = Vec::new();
    let mut lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() {
            lower = false;
            words.push(String::new());
            continue;
        }
        if words.is_empty() || lower && c.is_uppercase() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(c.to_lowercase());
        }
        lower = c.is_lowercase();
    }
    // The name of a variable is no secret.
    words.iter().any(|word| SECRET_WORDS.contains(&word.as_str())) && !words.iter().any(|word| word == "env")
}

/// Whether a text stands for a variable: `${NAME}`, `$NAME`, `{env:NAME}`.
fn is_reference(text: &str) -> bool {
    let text = text.strip_prefix("Bearer ").unwrap_or(text);
    let name = text
        .strip_prefix("${")
        .or_else(|| text.strip_prefix("{env:"))
        .and_then(|rest| rest.strip_suffix('}'))
        .or_else(|| text.strip_prefix('$'));
    name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// Whether a text holds what is made like a token, or a URL with a password.
pub(super) fn has_token(text: &str) -> bool {
    let token = TOKENS.iter().any(|(start, length)| {
        text.match_indices(start).any(|(at, _)| {
            let begins = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            let follows = text[at + start.len()..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || "-_.+/= ".contains(*c))
                .take_while(|c| *c != ' ' || start.starts_with('-'))
                .count();
            begins && follows >= *length
        })
    });
    let password = text.match_indices("://").any(|(at, _)| {
        let rest = &text[at + 3..];
        let authority = &rest[..rest.find(|c: char| c == '/' || c.is_whitespace() || c == '"').unwrap_or(rest.len())];
        authority
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, word)| !word.is_empty()))
    });
    token || password
}

/// Whether a file of this name usually holds credentials.
pub(super) fn is_secret_file(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let begins =
        [".env", ".credentials", "credentials", "auth.json", "oauth", ".netrc", ".npmrc", ".pypirc", "id_", ".git"];
    let ends = [".pem", ".key", ".p12", ".pfx", ".keystore", "credentials.json", "creds.json"];
    begins.iter().any(|start| name.starts_with(start)) && name != ".gitignore"
        || ends.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
        for name in [
            "API_KEY",
            "apiKey",
            "GITHUB_TOKEN",
            "x-api-key",
            "Authorization",
            "clientSecret",
            "DB_PASSWORD",
            "--api-key",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["keybindings", "maxTokens", "env_key", "bearer_token_env_var", "model", "authors", "monkey"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out_wherever_it_is() {
        let mut value: Value = serde_json::from_str(
            r#"{
                "mcpServers": {
                    "a": {"command": "npx", "args": ["-y", "server", "--token", "hunter2", "--api-key=hunter2", "--port", "80"],
                          "env": {"API_KEY": "hunter2", "LEVEL": "debug", "GITHUB_TOKEN": "${GITHUB_TOKEN}"}},
                    "b": {"url": "https://me:hunter2@example.com/mcp", "headers": {"Authorization": "Bearer hunter2"}},
                    "c": {"args": ["ghp_0123456789abcdef0123", "--url=postgres://u:hunter2@h/db"], "env": {"X": "sk-ant-0123456789abcdef"}}
                },
                "maxTokens": 7, "theme": "dark"
            }"#,
        )
        .unwrap();
        let removed = redact(value.as_object_mut().unwrap());
        let text = value.to_string();
        for secret in ["hunter2", "ghp_", "sk-ant"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        insta::assert_json_snapshot!((removed, value));
    }

    #[test]
    fn tokens_in_texts() {
        for text in
            ["use sk-ant-api03-abcdefghijklmnop", "-----BEGIN OPENSSH PRIVATE KEY-----", "x=ghp_abcdefghij0123456789"]
        {
            assert!(has_token(text), "{text}");
        }
        for text in [
            "a task-oriented text",
            "sk-short",
            "see https://user@example.com/x",
            "the eyJ prefix",
            "risk-assessment-of-everything",
        ] {
            assert!(!has_token(text), "{text}");
        }
        for name in
            [".env", ".env.local", ".credentials.json", "oauth_creds.json", "auth.json", "server.pem", "id_ed25519"]
        {
            assert!(is_secret_file(name), "{name}");
        }
        for name in ["SKILL.md", ".gitignore", "environment.md", "authoring.md"] {
            assert!(!is_secret_file(name), "{name}");
        }
    }
}
