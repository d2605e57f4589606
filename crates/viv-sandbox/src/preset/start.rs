//! From a preset to what is run. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Memory, Preset, npm_directory};

/// The words after an agent's name, sorted out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentWords {
    /// What stood before `--`, as one text; none if nothing did.
    pub prompt: Option<String>,
    /// What stood after it: the agent's own arguments.
    pub arguments: Vec<String>,
}

impl AgentWords {
    /// Sorts out the words after the agent's name.
    ///
    /// # Errors
    /// The first word before `--` that looks like a flag: it is neither viv's nor a prompt.
    pub fn sort(words: &[String]) -> Result<Self, String> {
        let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
        let (before, after) = words.split_at(end);
        let flag = |word: &&String| {
            word.len() > 1
                && word.starts_with('-')
                && !word.contains(char::is_whitespace)
                && word.parse::<f64>().is_err()
        };
        if let Some(flag) = before.iter().find(flag) {
            return Err(flag.clone());
        }
        let prompt = before.join(" ");
        Ok(Self {
            prompt: (!prompt.trim().is_empty()).then_some(prompt),
            arguments: after.iter().skip(1).cloned().collect(),
        })
    }
}

/// Where the prompt is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// There is none: the user will type one, or the agent's own arguments do without.
    None,
    /// Here, to be worked on at a terminal.
    First(String),
    /// Here, to be worked on without one.
    Headless(String),
    /// On the agent's standard input.
    Input,
}

/// How an agent is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRequest {
    /// The directory it works in, a path inside.
    pub workspace: String,
    /// Its user's home, a path inside.
    pub home: String,
    /// The model API that it is to use, instead of the preset's first.
    pub gateway: Option<String>,
    /// The port of the loopback interface at which model APIs answer.
    pub gateway_port: u16,
    /// What it is to do.
    pub prompt: Prompt,
    /// Its own arguments.
    pub arguments: Vec<String>,
}

/// What is run, and what has to be there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentStart {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables.
    pub environment: BTreeMap<String, String>,
    /// Memory in MiB, unless asked otherwise.
    pub memory_mib: Option<u64>,
    /// What replaces placeholders in its files: name and text.
    #[serde(skip)]
    pub(crate) values: Values,
}

/// What placeholders stand for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Values(Vec<(&'static str, String)>);

impl Values {
    /// The text with its placeholders replaced. Braces around anything else stand for themselves.
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            expanded.push_str(&rest[..open]);
            rest = &rest[open..];
            let inside = rest.find('}').map(|close| &rest[1..close]);
            let value = inside.and_then(|inside| {
                let npm = inside.strip_prefix("npm:").map(npm_directory);
                npm.or_else(|| self.0.iter().find(|(name, _)| *name == inside).map(|(_, value)| value.clone()))
            });
            match (inside, value) {
                (Some(inside), Some(value)) => {
                    expanded.push_str(&value);
                    rest = &rest[inside.len() + 2..];
                }
                _ => {
                    expanded.push('{');
                    rest = &rest[1..];
                }
            }
        }
        expanded.push_str(rest);
        expanded
    }
}

/// Refuses what is probably a placeholder misspelt: a word in braces and nothing else.
pub(super) fn check(text: &str) -> Result<(), String> {
    const KNOWN: [&str; 4] = ["workspace", "home", "gateway", "prompt"];
    for part in text.split('{').skip(1) {
        let Some((inside, _)) = part.split_once('}') else { continue };
        let word = !inside.is_empty() && inside.chars().all(|c| c.is_ascii_lowercase());
        if word && !KNOWN.contains(&inside) {
            return Err(format!(
                "there is no placeholder {{{inside}}}; there are {{{}}} and {{npm:NAME}}",
                KNOWN.join("}, {")
            ));
        }
    }
    Ok(())
}

impl Preset {
    /// What is run for a request.
    #[must_use]
    pub fn start(&self, request: &AgentRequest) -> AgentStart {
        let api = request.gateway.as_ref().or(self.gateway.first());
        let values = Values(vec![
            ("workspace", request.workspace.clone()),
            ("home", request.home.clone()),
            ("gateway", api.map_or_else(String::new, |api| format!("http://127.0.0.1:{}/{api}", request.gateway_port))),
        ]);
        let (words, prompt) = match &request.prompt {
            Prompt::None => (&self.interactive, None),
            Prompt::First(prompt) => (&self.interactive, Some(prompt)),
            Prompt::Headless(prompt) => (&self.headless, Some(prompt)),
            Prompt::Input => (&self.headless, None),
        };
        let mut command = Vec::with_capacity(words.len() + request.arguments.len());
        for word in words {
            let expanded = match (word.split_once("{prompt}"), prompt) {
                (None, _) => values.expand(word),
                (Some(_), None) => continue,
                // A prompt by itself must not be taken for a flag.
                (Some(("", "")), Some(prompt)) if prompt.starts_with('-') => format!(" {prompt}"),
                // Placeholders in the user's own words are no placeholders.
                (Some((before, after)), Some(prompt)) => {
                    format!("{}{prompt}{}", values.expand(before), values.expand(after))
                }
            };
            command.push(expanded);
        }
        command.extend(request.arguments.iter().cloned());
        AgentStart {
            command,
            environment: self.env.iter().map(|(name, value)| (name.clone(), values.expand(value))).collect(),
            memory_mib: self.memory.map(|Memory(mebibytes)| mebibytes),
            values,
        }
    }
}
