//! Variables in the values of a `devcontainer.json`, `${NAME}` and `${NAME:ARGUMENT:DEFAULT}`
//! (<https://containers.dev/implementors/json_reference/#variables-in-devcontainerjson>).

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::output::clean::clean;

/// The longest variable, bytes: so that a text of nothing but beginnings is read once.
const MAX_VARIABLE_BYTES: usize = 512;

/// What they are replaced by.
pub struct Variables<'a> {
    pub workspace: &'a Path,
    /// Where the workspace is inside, if not at its own path.
    pub folder: Option<&'a str>,
    pub container_env: &'a BTreeMap<String, String>,
}

/// One that has no value here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// A variable of the host's environment, which a project's file may not read.
    Host(String),
    /// A variable of the image's environment.
    Container(String),
}

impl Unknown {
    /// As it is written, more or less.
    pub fn name(&self) -> String {
        match self {
            Self::Host(name) => format!("${{localEnv:{}}}", clean(name)),
            Self::Container(name) => format!("${{containerEnv:{}}}", clean(name)),
        }
    }

    /// Why it has none, as a clause.
    pub fn why(&self) -> String {
        match self {
            Self::Host(name) => {
                format!("it is made from {} of this host, which a project's file may not read", clean(name))
            }
            Self::Container(name) => {
                format!("it is made from {} of the image, which is not known before the sandbox runs", clean(name))
            }
        }
    }

    /// What mends it.
    pub fn hint(&self) -> Option<String> {
        let Self::Host(name) = self else { return Some("give it with --env NAME=VALUE".to_owned()) };
        Some(format!("give it with --env NAME=VALUE, or --env {} for this host's", clean(name)))
    }
}

impl Variables<'_> {
    /// The text with its variables replaced, once: values are not looked at again. What has no value is
    /// nothing, and returned besides. What is no variable of these, such as a shell's, is left alone.
    pub fn replace(&self, text: &str) -> (String, Vec<Unknown>) {
        let (mut replaced, mut unknown) = (String::with_capacity(text.len()), Vec::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            replaced.push_str(before);
            let end = after.bytes().take(MAX_VARIABLE_BYTES).position(|byte| byte == b'}');
            let Some((name, after)) = end.and_then(|end| Some((after.get(..end)?, after.get(end + 1..)?))) else {
                replaced.push_str("${");
                rest = after;
                continue;
            };
            match self.value(name) {
                Some(Ok(value)) => replaced.push_str(&value),
                Some(Err(none)) => unknown.push(none),
                None => {
                    // There may be one within: `${a${localEnv:B}}`.
                    replaced.push_str("${");
                    rest = &rest[before.len() + 2..];
                    continue;
                }
            }
            rest = after;
        }
        replaced.push_str(rest);
        (replaced, unknown)
    }

    fn value(&self, variable: &str) -> Option<Result<String, Unknown>> {
        let (name, argument) = variable.split_once(':').unwrap_or((variable, ""));
        let base = |path: &Path| path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let own = self.workspace.to_string_lossy();
        let folder = self.folder.unwrap_or(&own);
        let (argument, default) = match argument.split_once(':') {
            Some((argument, default)) => (argument, Some(default.to_owned())),
            None => (argument, None),
        };
        Some(match name {
            "localWorkspaceFolder" => Ok(own.into_owned()),
            "localWorkspaceFolderBasename" => Ok(base(self.workspace)),
            "containerWorkspaceFolder" => Ok(folder.to_owned()),
            "containerWorkspaceFolderBasename" => Ok(base(Path::new(folder))),
            "devcontainerId" => Ok(hex::encode(&Sha256::digest(own.as_bytes())[..16])),
            "localEnv" | "env" => default.ok_or_else(|| Unknown::Host(argument.to_owned())),
            "containerEnv" => {
                // Only what needs no replacing itself.
                let known = self.container_env.get(argument).filter(|value| !value.contains("${")).cloned();
                known.or(default).ok_or_else(|| Unknown::Container(argument.to_owned()))
            }
            _ => return None,
        })
    }
}
