//! Configuration files as trees of values, so that keys can be put into them and taken out.

use std::path::Path;

use serde_json::{Map, Value};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// <https://www.rfc-editor.org/rfc/rfc8259>
    Json,
    /// <https://toml.io/en/v1.0.0>
    Toml,
}

impl Format {
    /// That of a file of this name.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }
}

/// A file whose outermost value is a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    format: Format,
    root: Map<String, Value>,
}

impl Document {
    /// Nothing yet.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, root: Map::new() }
    }

    /// Reads a file; an empty one is an empty table.
    ///
    /// # Errors
    /// Says why it is none. Both parsers bound how deeply values nest.
    pub(crate) fn parse(format: Format, bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let root = match format {
            _ if text.trim().is_empty() => Map::new(),
            Format::Json => serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?,
            Format::Toml => {
                let table: toml::Table =
                    toml::from_str(text).map_err(|error| format!("it is not TOML: {}", error.message()))?;
                json_table(table)?
            }
        };
        Ok(Self { format, root })
    }

    /// The file's text.
    ///
    /// # Errors
    /// A value that the format does not have.
    pub(crate) fn text(&self) -> Result<String, String> {
        match self.format {
            Format::Json => {
                let mut text = serde_json::to_string_pretty(&self.root).map_err(|error| error.to_string())?;
                text.push('\n');
                Ok(text)
            }
            Format::Toml => toml::to_string(&toml_table(&self.root)?).map_err(|error| error.to_string()),
        }
    }

    /// Sees to it that this has all that `wanted` has; whether that changed anything.
    pub(crate) fn hold(&mut self, wanted: &Self) -> bool {
        hold(&mut self.root, &wanted.root)
    }

    /// Replaces each text in it, keys included.
    pub(crate) fn map_texts(&mut self, change: &dyn Fn(&str) -> String) {
        self.root = map_texts(std::mem::take(&mut self.root), change);
    }

    /// Only what is at these keys, in which a dot leads into a table; keys may hold dots themselves.
    pub(crate) fn only(&self, keys: &[String]) -> Self {
        let mut kept = Self::new(self.format);
        for key in keys {
            if let Some((path, value)) = lookup(&self.root, key) {
                put(&mut kept.root, &path, value.clone());
            }
        }
        kept
    }

    /// Takes out what is at a key.
    pub(crate) fn remove(&mut self, key: &str) {
        let Some((path, _)) = lookup(&self.root, key) else { return };
        let Some((last, tables)) = path.split_last() else { return };
        let mut here = &mut self.root;
        for table in tables {
            match here.get_mut(table) {
                Some(Value::Object(next)) => here = next,
                _ => return,
            }
        }
        here.remove(last);
    }

    /// The tree itself.
    pub(super) fn root_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.root
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

fn hold(there: &mut Map<String, Value>, wanted: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, value) in wanted {
        match (there.get_mut(key), value) {
            (Some(Value::Object(there)), Value::Object(wanted)) => changed |= hold(there, wanted),
            (Some(there), wanted) if there == wanted => {}
            _ => {
                there.insert(key.clone(), value.clone());
                changed = true;
            }
        }
    }
    changed
}

fn map_texts(table: Map<String, Value>, change: &dyn Fn(&str) -> String) -> Map<String, Value> {
    fn of_value(value: Value, change: &dyn Fn(&str) -> String) -> Value {
        match value {
            Value::String(text) => Value::String(change(&text)),
            Value::Array(values) => Value::Array(values.into_iter().map(|value| of_value(value, change)).collect()),
            Value::Object(table) => Value::Object(map_texts(table, change)),
            other => other,
        }
    }
    table.into_iter().map(|(key, value)| (change(&key), of_value(value, change))).collect()
}

/// What is at a key, and the way there. Of two keys that fit, the longer one is meant.
fn lookup<'t>(table: &'t Map<String, Value>, key: &str) -> Option<(Vec<String>, &'t Value)> {
    if let Some(value) = table.get(key) {
        return Some((vec![key.to_owned()], value));
    }
    key.rmatch_indices('.').find_map(|(at, _)| {
        let Some(Value::Object(inner)) = table.get(&key[..at]) else { return None };
        let (mut path, value) = lookup(inner, &key[at + 1..])?;
        path.insert(0, key[..at].to_owned());
        Some((path, value))
    })
}

fn put(table: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let next = table.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(next) = next {
                put(next, rest, value);
            }
        }
    }
}

fn json_table(table: toml::Table) -> Result<Map<String, Value>, String> {
    fn of_value(value: toml::Value) -> Result<Value, String> {
        Ok(match value {
            toml::Value::String(text) => Value::String(text),
            toml::Value::Integer(number) => number.into(),
            toml::Value::Float(number) => {
                serde_json::Number::from_f64(number).map(Value::Number).ok_or("it holds a number without a value")?
            }
            toml::Value::Boolean(truth) => Value::Bool(truth),
            toml::Value::Datetime(_) => return Err("it holds a date, which would be lost".to_owned()),
            toml::Value::Array(values) => Value::Array(values.into_iter().map(of_value).collect::<Result<_, _>>()?),
            toml::Value::Table(table) => Value::Object(json_table(table)?),
        })
    }
    table.into_iter().map(|(key, value)| Ok((key, of_value(value)?))).collect()
}

fn toml_table(table: &Map<String, Value>) -> Result<toml::Table, String> {
    fn of_value(value: &Value) -> Result<toml::Value, String> {
        Ok(match value {
            Value::Null => return Err("TOML has no null".to_owned()),
            Value::Bool(truth) => toml::Value::Boolean(*truth),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => toml::Value::Integer(whole),
                (None, Some(float)) => toml::Value::Float(float),
                (None, None) => return Err("TOML has no such number".to_owned()),
            },
            Value::String(text) => toml::Value::String(text.clone()),
            Value::Array(values) => toml::Value::Array(values.iter().map(of_value).collect::<Result<_, _>>()?),
            Value::Object(table) => toml::Value::Table(toml_table(table)?),
        })
    }
    table.iter().map(|(key, value)| Ok((key.clone(), of_value(value)?))).collect()
}
