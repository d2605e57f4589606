//! The environment of a development shell, as `nix print-dev-env --json` prints it.
//!
//! What programs can be given is given to all of them: the variables that the shell exports. The rest, functions and
//! variables of bash's own, means something to the shell's hook only, so it is put into the script that runs the hook.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// Variables of the build that made the environment, or of the host: those that nix leaves out of a shell as well, and
/// those that say where a program is.
const NOT_TAKEN: [&str; 31] = [
    "BASHOPTS",
    "DIRSTACK",
    "EUID",
    "GROUPS",
    "HOME",
    "IFS",
    "LINENO",
    "LOGNAME",
    "NIX_BUILD_CORES",
    "NIX_BUILD_TOP",
    "NIX_ENFORCE_PURITY",
    "NIX_LOG_FD",
    "NIX_REMOTE",
    "OLDPWD",
    "PATH",
    "PPID",
    "PS4",
    "PWD",
    "SHELL",
    "SHELLOPTS",
    "SHLVL",
    "SSL_CERT_FILE",
    "TEMP",
    "TEMPDIR",
    "TERM",
    "TMP",
    "TMPDIR",
    "TZ",
    "UID",
    "USER",
    "_",
];

/// What bash itself sets, by how it begins.
const OF_BASH: [&str; 8] = ["BASH", "COMP_", "EPOCH", "FUNCNAME", "HIST", "HOSTTYPE", "MACHTYPE", "OPT"];

/// What nixpkgs says in place of a file with certificates: the image has its own.
const NO_CERTIFICATES: &str = "/no-cert-file.crt";

/// The most bytes of variables that every program gets: they travel in one message of 64 KiB. The script has them all.
const MOST_VARIABLE_BYTES: usize = 24 << 10;

/// A development shell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shell {
    /// The directories of its PATH.
    pub(super) path: Vec<String>,
    /// What every program gets.
    pub(super) variables: BTreeMap<String, String>,
    /// bash, which runs the script: a path, or its name.
    pub(super) bash: String,
    /// What bash is to do before a program, if that is more than variables can be.
    pub(super) script: Option<String>,
}

#[derive(Deserialize)]
struct Printed {
    #[serde(rename = "bashFunctions", default)]
    functions: BTreeMap<String, String>,
    variables: BTreeMap<String, Variable>,
}

#[derive(Deserialize)]
#[serde(try_from = "Tagged")]
enum Variable {
    Exported(String),
    Var(String),
    Array(Vec<String>),
    Associative(BTreeMap<String, String>),
    /// Of a nix to come.
    Unknown,
}

#[derive(Deserialize)]
struct Tagged {
    r#type: String,
    value: serde_json::Value,
}

impl TryFrom<Tagged> for Variable {
    type Error = serde_json::Error;

    fn try_from(tagged: Tagged) -> std::result::Result<Self, Self::Error> {
        Ok(match tagged.r#type.as_str() {
            "exported" => Self::Exported(serde_json::from_value(tagged.value)?),
            "var" => Self::Var(serde_json::from_value(tagged.value)?),
            "array" => Self::Array(serde_json::from_value(tagged.value)?),
            "associative" => Self::Associative(serde_json::from_value(tagged.value)?),
            _ => Self::Unknown,
        })
    }
}

/// Reads what nix printed.
pub(super) fn parse(json: &[u8]) -> Result<Shell> {
    let printed: Printed = serde_json::from_slice(json).map_err(|error| {
        Error::new(ErrorKind::Build, "nix printed an environment that is not as expected").source(error)
    })?;
    let text = |name: &str| match printed.variables.get(name) {
        Some(Variable::Exported(value) | Variable::Var(value)) => value.as_str(),
        _ => "",
    };
    let path = text("PATH").split(':').filter(|directory| directory.starts_with('/')).map(str::to_owned).collect();
    let exported: BTreeMap<&str, &str> = printed
        .variables
        .iter()
        .filter_map(|(name, variable)| match variable {
            Variable::Exported(value) if is_taken(name, value) => Some((name.as_str(), value.as_str())),
            _ => None,
        })
        .collect();
    let variables = fitting(&exported);
    let needs_script = !text("shellHook").trim().is_empty() || variables.len() < exported.len();
    let bash = Some(text("BASH")).filter(|bash| bash.starts_with("/nix/store/")).unwrap_or("bash").to_owned();
    let script = needs_script.then(|| script(&printed));
    Ok(Shell { path, variables, bash, script })
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_taken(name: &str, value: &str) -> bool {
    is_name(name)
        && !NOT_TAKEN.contains(&name)
        && !OF_BASH.iter().any(|prefix| name.starts_with(prefix))
        && value != NO_CERTIFICATES
        && !value.contains('\0')
}

/// The smallest of them that fit together.
fn fitting(exported: &BTreeMap<&str, &str>) -> BTreeMap<String, String> {
    let mut by_size: Vec<(&str, &str)> = exported.iter().map(|(name, value)| (*name, *value)).collect();
    by_size.sort_by_key(|(name, value)| name.len() + value.len());
    let mut bytes = 0;
    by_size
        .into_iter()
        .take_while(|(name, value)| {
            bytes += name.len() + value.len() + 2;
            bytes <= MOST_VARIABLE_BYTES
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// All of the shell in bash's language, and at its end the hook.
fn script(printed: &Printed) -> String {
    let mut script = String::new();
    for (name, variable) in &printed.variables {
        let text = match variable {
            Variable::Exported(value) | Variable::Var(value) => value.as_str(),
            _ => "",
        };
        if !is_taken(name, text) {
            continue;
        }
        // Writing to a string does not fail.
        let _ = match variable {
            Variable::Exported(value) => writeln!(script, "declare -x {name}={}", quoted(value)),
            Variable::Var(value) => writeln!(script, "declare {name}={}", quoted(value)),
            Variable::Array(values) => {
                let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
                writeln!(script, "declare -a {name}=({})", values.join(" "))
            }
            Variable::Associative(values) => {
                let values: Vec<String> =
                    values.iter().map(|(key, value)| format!("[{}]={}", quoted(key), quoted(value))).collect();
                writeln!(script, "declare -A {name}=({})", values.join(" "))
            }
            Variable::Unknown => Ok(()),
        };
    }
    for (name, body) in printed.functions.iter().filter(|(name, _)| is_function_name(name)) {
        let _ = writeln!(script, "{name} ()\n{{\n{body}\n}}");
    }
    script.push_str("eval \"${shellHook:-}\"\n");
    script
}

fn is_function_name(name: &str) -> bool {
    is_name(&name.replace(['-', '.', ':', '+'], "_"))
}

/// A word of the shell that means its text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exported_variables_are_for_all_and_the_rest_for_the_hook() {
        let json = r#"{
            "bashFunctions": {"greet": "    echo \"$1\";", "a b": "x"},
            "variables": {
                "BASH": {"type": "var", "value": "/nix/store/x-bash/bin/bash"},
                "PATH": {"type": "exported", "value": "/nix/store/a/bin:relative:/nix/store/b/bin"},
                "HOME": {"type": "exported", "value": "/homeless-shelter"},
                "TMPDIR": {"type": "exported", "value": "/build"},
                "SSL_CERT_FILE": {"type": "exported", "value": "/x"},
                "NIX_SSL_CERT_FILE": {"type": "exported", "value": "/no-cert-file.crt"},
                "GREETING": {"type": "exported", "value": "it's\nme"},
                "mode": {"type": "var", "value": "x"},
                "list": {"type": "array", "value": ["a", "b c"]},
                "map": {"type": "associative", "value": {"k": "v'"}},
                "later": {"type": "of a nix to come", "value": [1]},
                "shellHook": {"type": "exported", "value": "greet hi"}
            }
        }"#;
        let shell = parse(json.as_bytes()).unwrap();
        insta::assert_debug_snapshot!((&shell.path, &shell.variables, &shell.bash));
        insta::assert_snapshot!(shell.script.unwrap());
    }

    #[test]
    fn without_a_hook_there_is_nothing_to_run() {
        let json =
            br#"{"variables": {"A": {"type": "exported", "value": "b"}, "shellHook": {"type": "var", "value": "\n"}}}"#;
        let shell = parse(json).unwrap();
        assert_eq!(shell.script, None);
        assert_eq!(shell.bash, "bash");
        assert_eq!(shell.variables, BTreeMap::from([("A".to_owned(), "b".to_owned())]));
    }

    #[test]
    fn what_is_too_large_for_all_is_left_to_the_script() {
        let large = "x".repeat(MOST_VARIABLE_BYTES);
        let json = format!(
            r#"{{"variables": {{"A": {{"type": "exported", "value": "{large}"}}, "B": {{"type": "exported", "value": "b"}}}}}}"#
        );
        let shell = parse(json.as_bytes()).unwrap();
        assert_eq!(shell.variables.keys().collect::<Vec<_>>(), ["B"]);
        assert!(shell.script.unwrap().contains(&large));
    }

    #[test]
    fn what_is_no_environment_is_refused() {
        for bad in ["", "{}", "[]", r#"{"variables": {"A": {"type": "exported"}}}"#, r#"{"variables": 1}"#] {
            assert_eq!(*parse(bad.as_bytes()).unwrap_err().kind(), ErrorKind::Build, "{bad}");
        }
    }
}
