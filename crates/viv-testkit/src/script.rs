//! What the model does next, derived from a request alone: parallel agents and resumed sessions need no
//! state here.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// The agents' own shell tools, best first.
const SHELL_TOOLS: [&str; 9] = [
    "Bash",
    "bash",
    "run_shell_command",
    "exec_command",
    "shell_command",
    "shell",
    "local_shell",
    "execute_command",
    "run_command",
];

/// What stands before a script in a prompt.
const IN_PROMPT: &str = "FAKE_SCRIPT=";

/// How texts begin that clients put into a conversation on their own: no prompts of anyone's.
const INJECTED: [&str; 13] = [
    "<system-reminder>",
    "<environment_context>",
    "<user_instructions>",
    "<permissions",
    "# AGENTS.md",
    "<session_context>",
    "<skills_instructions>",
    "<turn_aborted>",
    "<INSTRUCTIONS>",
    "<apps_instructions>",
    "<plugins_instructions>",
    "<collaboration_mode>",
    "<model_switch>",
];

/// One turn of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What it does.
    pub action: Action,
    /// How long it takes before it says anything.
    pub delay: Option<Duration>,
    /// What it says before it calls a tool.
    pub say: Option<String>,
}

/// What a model does in a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Calls the agent's shell tool, whatever its name, with this command.
    Shell(String),
    /// Calls a tool by name.
    Tool {
        /// Its name.
        name: String,
        /// Its input.
        input: Value,
    },
    /// Says this, and is done.
    Text(String),
}

impl Step {
    /// Runs a command with the agent's shell tool.
    pub fn shell(command: impl Into<String>) -> Self {
        Self { action: Action::Shell(command.into()), delay: None, say: None }
    }

    /// Calls a tool.
    pub fn tool(name: impl Into<String>, input: Value) -> Self {
        Self { action: Action::Tool { name: name.into(), input }, delay: None, say: None }
    }

    /// Says something, and ends.
    pub fn text(text: impl Into<String>) -> Self {
        Self { action: Action::Text(text.into()), delay: None, say: None }
    }

    /// The same, later.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The same, with words before it.
    #[must_use]
    pub fn saying(mut self, text: impl Into<String>) -> Self {
        self.say = Some(text.into());
        self
    }

    /// A step as JSON: `{"shell": "ls"}`, `{"tool": "Read", "input": {}}` or `{"text": "done"}`, with
    /// `delay` in seconds and `say`.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let mut step = if let Some(command) = text("shell") {
            Self::shell(command)
        } else if let Some(name) = text("tool") {
            Self::tool(name, value.get("input").cloned().unwrap_or_else(|| json!({})))
        } else {
            Self::text(text("text")?)
        };
        step.delay =
            value.get("delay").and_then(Value::as_f64).and_then(|delay| Duration::try_from_secs_f64(delay).ok());
        step.say = text("say").map(str::to_owned);
        Some(step)
    }
}

/// The last prompt of a conversation, and how many turns the model has had since.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    prompt: String,
    turns: usize,
}

impl Position {
    /// The model, or a tool, has spoken.
    pub(crate) fn turn(&mut self) {
        self.turns += 1;
    }

    /// The user's side has: a prompt, unless a client has put in all of it.
    pub(crate) fn said<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) {
        let real: Vec<&str> = texts.into_iter().filter(|text| !is_injected(text)).collect();
        if !real.is_empty() {
            *self = Self { prompt: real.join("\n"), turns: 0 };
        }
    }

    /// The step for this turn: of the script in the prompt, if there is one, else of this one.
    pub(crate) fn step(&self, script: &[Step]) -> Step {
        let done = || Step::text("done");
        let Some((_, text)) = self.prompt.rsplit_once(IN_PROMPT) else {
            return script.get(self.turns).cloned().unwrap_or_else(done);
        };
        match serde_json::Deserializer::from_str(text).into_iter::<Vec<Value>>().next() {
            Some(Ok(steps)) => steps.get(self.turns).and_then(Step::from_json).unwrap_or_else(done),
            _ => Step::text("the script in the prompt is not JSON"),
        }
    }
}

fn is_injected(text: &str) -> bool {
    let text = text.trim_start();
    text.is_empty() || INJECTED.iter().any(|start| text.starts_with(start))
}

/// The texts of a message's content, which is one or a list of blocks.
pub(crate) fn texts(content: &Value) -> Vec<&str> {
    match content {
        Value::String(text) => vec![text],
        Value::Array(blocks) => blocks.iter().filter_map(|block| block.get("text")?.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Tool and arguments for a step, if the tools on offer can do it.
pub(crate) fn call(step: &Step, tools: &Map<String, Value>) -> Option<(String, Value)> {
    match &step.action {
        Action::Text(_) => None,
        Action::Tool { name, input } => Some((name.clone(), input.clone())),
        Action::Shell(command) => {
            let known = SHELL_TOOLS.iter().find(|name| tools.contains_key(**name)).map(|name| (*name).to_owned());
            let like = |name: &&String| {
                let name = name.to_ascii_lowercase();
                ["shell", "bash", "exec", "command", "terminal"].iter().any(|part| name.contains(part))
            };
            let name = known.or_else(|| tools.keys().find(like).cloned())?;
            let arguments = shell_arguments(command, &tools[&name]);
            Some((name, arguments))
        }
    }
}

fn shell_arguments(command: &str, schema: &Value) -> Value {
    let mut arguments = Map::new();
    let property = |key: &str| schema.get("properties").and_then(|properties| properties.get(key));
    let key = ["command", "cmd", "script"].into_iter().find(|key| property(key).is_some()).unwrap_or("command");
    let is_list = property(key).is_some_and(|property| kind(property) == "array");
    arguments.insert(key.into(), if is_list { json!(["bash", "-lc", command]) } else { command.into() });
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !arguments.contains_key(required) {
            arguments.insert(required.into(), property(required).map_or_else(|| "scripted step".into(), smallest));
        }
    }
    arguments.into()
}

fn kind(schema: &Value) -> String {
    let kind = schema.get("type");
    let kind = kind.and_then(|kind| kind.get(0)).or(kind).and_then(Value::as_str);
    kind.unwrap_or(if schema.get("properties").is_some() { "object" } else { "string" }).to_ascii_lowercase()
}

/// The smallest value that fits a JSON schema, for requests that want one.
pub(crate) fn smallest(schema: &Value) -> Value {
    if let Some(value) = schema.get("const").or_else(|| schema.get("enum")?.get(0)) {
        return value.clone();
    }
    if let Some(first) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.get(0)) {
        return smallest(first);
    }
    match kind(schema).as_str() {
        "object" => {
            let properties = schema.get("properties").and_then(Value::as_object);
            properties
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.clone(), smallest(value)))
                .collect::<Map<_, _>>()
                .into()
        }
        "array" => json!([]),
        "boolean" => json!(false),
        "integer" | "number" => json!(1),
        "null" => Value::Null,
        _ => json!("scripted step"),
    }
}
