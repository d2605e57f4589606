//! The text of a `devcontainer.json`, as <https://containers.dev/implementors/json_reference/> has it.
//!
//! It comes with a repository, which may be hostile: it is bounded in every way, and what it means is for
//! others to judge. JSON with comments and trailing commas is made plain JSON first, each character of
//! them a space, so that places stay right; serde_json then refuses what is nested too deeply.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The most of anything that comes in lists and tables.
const MAX_ITEMS: usize = 256;

/// The longest string, bytes.
const MAX_STRING_BYTES: usize = 64 << 10;

/// What a `devcontainer.json` says, variables not yet replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevContainer {
    /// A reference to an image of a registry.
    pub image: Option<String>,
    /// The key that says that an image has to be built.
    pub build: Option<&'static str>,
    /// Names of features.
    pub features: Vec<String>,
    /// Variables of every program.
    pub container_env: BTreeMap<String, String>,
    /// Variables of the programs that users run; none takes one away.
    pub remote_env: BTreeMap<String, Option<String>>,
    /// Whom the container runs as.
    pub container_user: Option<String>,
    /// Whom users are.
    pub remote_user: Option<String>,
    /// Where the workspace is inside.
    pub workspace_folder: Option<String>,
    /// Further mounts.
    pub mounts: Vec<DevMount>,
    /// Ports that are to be shown: `PORT`, `HOST_PORT:PORT` or `HOST:PORT`.
    pub ports: Vec<String>,
    /// What is to be run once, in the order of a container's life.
    pub commands: Vec<LifecycleCommand>,
    /// Processors that are needed at least.
    pub cpus: Option<u64>,
    /// Memory that is needed at least, bytes.
    pub memory: Option<u64>,
    /// Disk that is needed at least, bytes.
    pub storage: Option<u64>,
    /// Keys that mean nothing for a virtual machine of its own, or that ask for something of the host.
    pub without_effect: Vec<&'static str>,
    /// Keys that nobody knows.
    pub unknown: Vec<String>,
}

/// A mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevMount {
    /// `bind`, `volume` or something else.
    pub kind: String,
    /// The host's side.
    pub source: Option<String>,
    /// The guest's side.
    pub target: String,
    /// Whether the guest may not write.
    pub read_only: bool,
}

/// A command of a container's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleCommand {
    /// The key, and after a colon its name if it has one.
    pub name: String,
    /// What to run.
    pub run: Words,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Words {
    /// By a shell.
    Shell(String),
    /// A program with its arguments.
    Program(Vec<String>),
}

/// In the order of a container's life; what comes after is for editors.
const LIFECYCLE: [&str; 4] = ["onCreateCommand", "updateContentCommand", "postCreateCommand", "postStartCommand"];

/// They say that something has to be built.
const BUILD: [&str; 5] = ["build", "dockerFile", "dockerComposeFile", "service", "runServices"];

/// They are said to have no effect.
const WITHOUT_EFFECT: [&str; 7] =
    ["runArgs", "privileged", "capAdd", "securityOpt", "initializeCommand", "workspaceMount", "postAttachCommand"];

/// For editors, or so that nothing changes without them.
const SILENT: [&str; 14] = [
    "$schema",
    "name",
    "customizations",
    "settings",
    "extensions",
    "portsAttributes",
    "otherPortsAttributes",
    "shutdownAction",
    "overrideCommand",
    "userEnvProbe",
    "updateRemoteUserUID",
    "waitFor",
    "init",
    "overrideFeatureInstallOrder",
];

/// Reads the text of a `devcontainer.json`.
///
/// # Errors
/// Says what is wrong, with the place where it is no JSON.
pub fn parse(text: &str) -> Result<DevContainer, String> {
    let plain = without_comments(text)?;
    let document: Value = serde_json::from_str(&plain).map_err(|error| error.to_string())?;
    let Value::Object(document) = document else { return Err("it is not a JSON object".to_owned()) };
    let mut read = DevContainer::default();
    let mut commands = BTreeMap::new();
    for (key, value) in &document {
        take(key, value, &mut read, &mut commands).map_err(|why| format!("`{}`: {why}", key.escape_debug()))?;
    }
    read.commands = LIFECYCLE.iter().filter_map(|key| commands.remove(key)).flatten().collect();
    for (count, what) in [
        (read.commands.len(), "commands"),
        (read.mounts.len(), "mounts"),
        (read.ports.len(), "ports"),
        (read.container_env.len() + read.remote_env.len(), "variables"),
        (read.unknown.len(), "unknown keys"),
    ] {
        if count > MAX_ITEMS {
            return Err(format!("it has more than {MAX_ITEMS} {what}"));
        }
    }
    Ok(read)
}

fn take(
    key: &str,
    value: &Value,
    read: &mut DevContainer,
    commands: &mut BTreeMap<&'static str, Vec<LifecycleCommand>>,
) -> Result<(), String> {
    let known = |keys: &[&'static str]| keys.iter().find(|known| **known == key).copied();
    if value.is_null() || known(&SILENT).is_some() {
        return Ok(());
    }
    if let Some(key) = known(&BUILD) {
        read.build.get_or_insert(key);
        return Ok(());
    }
    if let Some(key) = known(&WITHOUT_EFFECT) {
        let asks = !matches!(value, Value::Bool(false)) && value.as_array().is_none_or(|array| !array.is_empty());
        if asks {
            read.without_effect.push(key);
        }
        return Ok(());
    }
    if let Some(key) = known(&LIFECYCLE) {
        commands.insert(key, lifecycle(key, value)?);
        return Ok(());
    }
    match key {
        "image" => read.image = Some(string(value)?),
        "features" => read.features = object(value)?.keys().cloned().collect(),
        "containerEnv" => {
            read.container_env = object(value)?
                .iter()
                .map(|(name, value)| Ok((name.clone(), scalar(value)?)))
                .collect::<Result<_, String>>()?;
        }
        "remoteEnv" => {
            let value_of = |value: &Value| if value.is_null() { Ok(None) } else { scalar(value).map(Some) };
            read.remote_env = object(value)?
                .iter()
                .map(|(name, value)| Ok((name.clone(), value_of(value)?)))
                .collect::<Result<_, String>>()?;
        }
        "containerUser" => read.container_user = Some(string(value)?),
        "remoteUser" => read.remote_user = Some(string(value)?),
        "workspaceFolder" => read.workspace_folder = Some(string(value)?),
        "mounts" => read.mounts = array(value)?.iter().map(mount).collect::<Result<_, _>>()?,
        "forwardPorts" => read.ports.extend(array(value)?.iter().map(scalar).collect::<Result<Vec<_>, _>>()?),
        "appPort" => match value {
            Value::Array(ports) => read.ports.extend(ports.iter().map(scalar).collect::<Result<Vec<_>, _>>()?),
            port => read.ports.push(scalar(port)?),
        },
        "hostRequirements" => {
            for (key, value) in object(value)? {
                match key.as_str() {
                    "cpus" => read.cpus = value.as_u64(),
                    "memory" => read.memory = Some(bytes(&scalar(value)?)?),
                    "storage" => read.storage = Some(bytes(&scalar(value)?)?),
                    "gpu" if *value != Value::Bool(false) => read.without_effect.push("hostRequirements.gpu"),
                    _ => {}
                }
            }
        }
        other => read.unknown.push(other.to_owned()),
    }
    Ok(())
}

/// A command is a string for a shell, an array of words, or an object of these by name.
fn lifecycle(key: &str, value: &Value) -> Result<Vec<LifecycleCommand>, String> {
    let words = |value: &Value| match value {
        Value::Array(words) => {
            let words: Vec<String> = words.iter().map(scalar).collect::<Result<_, _>>()?;
            if words.is_empty() { Err("it is empty".to_owned()) } else { Ok(Words::Program(words)) }
        }
        other => string(other).map(Words::Shell),
    };
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
        Value::Array(words) if words.is_empty() => Ok(Vec::new()),
        Value::Object(named) => named
            .iter()
            .map(|(name, value)| Ok(LifecycleCommand { name: format!("{key}:{name}"), run: words(value)? }))
            .collect(),
        value => Ok(vec![LifecycleCommand { name: key.to_owned(), run: words(value)? }]),
    }
}

/// An object, or `KEY=VALUE` pairs with commas as Docker's `--mount` has them.
fn mount(value: &Value) -> Result<DevMount, String> {
    let mut mount = DevMount { kind: "volume".to_owned(), ..DevMount::default() };
    let mut set = |key: &str, value: Option<String>| -> Result<(), String> {
        let text = |value: Option<String>| value.ok_or_else(|| format!("`{}` has no value", key.escape_debug()));
        match key {
            "type" => mount.kind = text(value)?,
            "source" | "src" => mount.source = Some(text(value)?),
            "target" | "destination" | "dst" => mount.target = text(value)?,
            "readonly" | "ro" => mount.read_only = !matches!(value.as_deref(), Some("false" | "0")),
            // Of propagation, labels and the like, nothing applies.
            _ => {}
        }
        Ok(())
    };
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                set(key, Some(scalar(value)?))?;
            }
        }
        value => {
            for pair in string(value)?.split(',') {
                match pair.split_once('=') {
                    Some((key, value)) => set(key.trim(), Some(value.to_owned()))?,
                    None => set(pair.trim(), None)?,
                }
            }
        }
    }
    if mount.target.is_empty() { Err("a mount has no target".to_owned()) } else { Ok(mount) }
}

fn bounded(text: &str) -> Result<String, String> {
    if text.len() > MAX_STRING_BYTES {
        return Err(format!("a string is longer than {MAX_STRING_BYTES} bytes"));
    }
    if text.contains('\0') { Err("a string has a NUL in it".to_owned()) } else { Ok(text.to_owned()) }
}

fn string(value: &Value) -> Result<String, String> {
    value.as_str().ok_or_else(|| "a string is needed".to_owned()).and_then(bounded)
}

fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        value => string(value),
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| "an object is needed".to_owned())
}

fn array(value: &Value) -> Result<&[Value], String> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| "an array is needed".to_owned())
}

/// A number of bytes, `4gb` or `512mb`; powers of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "kb" => 10,
        "mb" => 20,
        "gb" => 30,
        "tb" => 40,
        _ => return Err("not a size such as 4gb".to_owned()),
    };
    let number: u64 = digits.trim().parse().map_err(|_| "not a size such as 4gb".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "that is more than any host has".to_owned())
}

/// Plain JSON with spaces where comments and trailing commas were.
fn without_comments(text: &str) -> Result<String, String> {
    let source = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut plain = source.as_bytes().to_vec();
    // The last comma, if nothing has come after it, and what came before it.
    let mut comma = None;
    let mut before = b'[';
    let mut at = 0;
    while let Some(&byte) = plain.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(&byte) = plain.get(at)
                    && byte != b'"'
                {
                    at += if byte == b'\\' { 2 } else { 1 };
                }
                comma = None;
                before = b'"';
            }
            b'/' if plain.get(at + 1) == Some(&b'/') => {
                while let Some(byte) = plain.get_mut(at)
                    && *byte != b'\n'
                {
                    *byte = b' ';
                    at += 1;
                }
                continue;
            }
            b'/' if plain.get(at + 1) == Some(&b'*') => {
                let Some(length) = plain[at + 2..].windows(2).position(|end| end == b"*/") else {
                    return Err("a comment does not end".to_owned());
                };
                let comment = &mut plain[at..at + length + 4];
                comment.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at += length + 4;
                continue;
            }
            b',' if !matches!(before, b'[' | b'{' | b',') => {
                comma = Some(at);
                before = b',';
            }
            b']' | b'}' => {
                if let Some(comma) = comma.take() {
                    plain[comma] = b' ';
                }
                before = byte;
            }
            byte if byte.is_ascii_whitespace() => {}
            byte => {
                comma = None;
                before = byte;
            }
        }
        at += 1;
    }
    // Whole characters were replaced, so this does not fail.
    String::from_utf8(plain).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_trailing_commas() {
        let same = |text: &str| serde_json::from_str::<Value>(&without_comments(text).unwrap()).map_err(|_| ());
        let json = serde_json::json!({"a": [1, 2], "b": "// no /* comment */ ,]"});
        assert_eq!(
            same("\u{feff}{ // ünï\n \"a\": [1, /* two\n */ 2,], \"b\": \"// no /* comment */ ,]\", }"),
            Ok(json)
        );
        assert_eq!(same(r#"{"a": "\\", /**/ "b": "\",}",}"#), Ok(serde_json::json!({"a": "\\", "b": "\",}"})));
        for bad in ["[,]", "[1,,]", "{,}", "[1 2]", "/", "{\"a\": \"b"] {
            assert_eq!(same(bad), Err(()), "{bad}");
        }
        assert!(without_comments("{ /* ").is_err());
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn places_stay_right() {
        assert_eq!(parse("{ // one\n  \"image\": x }").unwrap_err(), "expected value at line 2 column 12");
        assert_eq!(parse("{ \"image\": 3 }").unwrap_err(), "`image`: a string is needed");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("4gb"), Ok(4 << 30));
        assert_eq!(bytes("512MB"), Ok(512 << 20));
        for bad in ["", "gb", "4xb", "-1gb", "99999999999999tb"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
