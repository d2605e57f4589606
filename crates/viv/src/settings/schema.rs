//! JSON schemas of the configuration files (JSON Schema, draft 2020-12), from the one list of settings: for editors
//! that complete and check TOML by one.

use serde_json::{Map, Value, json};

use super::definitions::{self, ProjectRule, Setting, Shape};

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// `viv.toml`: without what only the user may ask for.
    Project,
    /// `config.toml`.
    User,
}

/// The schema of a configuration file.
#[must_use]
pub fn schema(whose: Whose) -> Value {
    let mut properties = Map::new();
    let mut put = |name: &str, schema: Value| {
        properties.insert(name.to_owned(), schema);
    };
    put("run", section("Every sandbox of this directory", definitions::ALL, whose));
    put("image", section("What is in the sandboxes", definitions::IN_IMAGE, whose));
    let mut named = section("A sandbox of this name", definitions::OF_NAMED_SANDBOX, whose);
    match whose {
        Whose::Project => {
            put("sandbox", section("The project's own sandbox", definitions::OF_OWN_SANDBOX, whose));
        }
        Whose::User => {
            named["required"] = json!(["workspace"]);
            put("gateway", gateway());
            put("prices", prices());
        }
    }
    put("sandboxes", table("Further sandboxes, by name", named));
    let (title, about) = match whose {
        Whose::Project => ("viv.toml", "What a project asks of its sandboxes"),
        Whose::User => ("config.toml", "What you ask of all your sandboxes"),
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": about,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        // Two places for the same.
        "not": { "anyOf": [
            { "properties": { "run": { "required": ["image"] }, "image": { "required": ["from"] } }, "required": ["run", "image"] },
            { "properties": { "run": { "required": ["packages"] }, "image": { "required": ["packages"] } }, "required": ["run", "image"] },
        ] },
    })
}

/// The schema as it is published: `docs/reference/viv.schema.json` and `config.schema.json`.
#[must_use]
pub fn text(whose: Whose) -> String {
    format!("{:#}\n", schema(whose))
}

fn section(about: &str, settings: &[&Setting], whose: Whose) -> Value {
    let taken = |setting: &&&Setting| {
        whose == Whose::User || !matches!(setting.project, ProjectRule::Refused | ProjectRule::UserOnly)
    };
    let properties: Map<String, Value> =
        settings.iter().filter(taken).map(|setting| (setting.key.to_owned(), property(setting))).collect();
    let mut schema = json!({
        "description": about,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if ["image", "from"].iter().all(|key| properties.contains_key(*key)) {
        schema["not"] = json!({ "required": ["image", "from"] });
    }
    schema
}

fn property(setting: &Setting) -> Value {
    let mut schema = shape(setting.shape);
    let trust = match setting.project {
        ProjectRule::Trusted => " (in viv.toml: once trusted, see `viv net trust`)",
        ProjectRule::BeneathWorkspace => " (in viv.toml: only paths beneath the workspace)",
        _ => "",
    };
    schema["description"] = json!(format!("{}. Default: {}{trust}", setting.help, setting.default));
    schema
}

fn shape(shape: Shape) -> Value {
    let text = || json!({ "type": "string" });
    match shape {
        Shape::Text => text(),
        Shape::OneOf(texts) => json!({ "enum": texts }),
        Shape::Number { least, most } => json!({ "anyOf": [
            { "type": "integer", "minimum": least, "maximum": most },
            { "type": "string", "pattern": "^[0-9]+$" },
        ] }),
        Shape::Size => json!({ "type": "string", "pattern": "^[0-9]+[KMGTkmgt]([Ii]?[Bb])?$" }),
        Shape::Duration => json!({ "anyOf": [
            { "type": "integer", "minimum": 1 },
            { "type": "string", "pattern": "^([0-9]+|([0-9]+(ms|s|m|h|d))+)$" },
        ] }),
        Shape::Truth => json!({ "type": "boolean" }),
        Shape::TruthOrText => json!({ "anyOf": [{ "type": "boolean" }, text()] }),
        Shape::Texts => json!({ "type": "array", "items": text() }),
        Shape::TextTable => table_of(text()),
        Shape::Scalars => table_of(json!({ "anyOf": [text(), { "type": "integer" }] })),
        Shape::Mounts => {
            let parts = json!({ "source": text(), "destination": text(), "read-only": { "type": "boolean" } });
            let mount = json!({
                "type": "object", "properties": parts, "required": ["source"], "additionalProperties": false,
            });
            json!({ "type": "array", "items": { "anyOf": [text(), mount] } })
        }
        Shape::Commands => {
            let words = json!({ "type": "array", "items": text(), "minItems": 1 });
            json!({ "type": "array", "items": { "anyOf": [{ "type": "string", "minLength": 1 }, words] } })
        }
    }
}

fn table_of(values: Value) -> Value {
    json!({ "type": "object", "additionalProperties": values })
}

fn table(about: &str, values: Value) -> Value {
    let mut table = table_of(values);
    table["description"] = json!(about);
    table
}

fn gateway() -> Value {
    let text = json!({ "type": "string" });
    let api = json!({
        "type": "object",
        "properties": { "url": text, "protocol": { "enum": ["anthropic", "openai", "gemini"] }, "key": text },
        "additionalProperties": false,
    });
    table("Model APIs, by name", api)
}

fn prices() -> Value {
    let dollars = json!({ "type": "number", "minimum": 0, "maximum": 1_000_000 });
    let price = json!({
        "type": "object",
        "properties": { "input": dollars, "output": dollars, "cached": dollars, "cache-write": dollars },
        "required": ["input", "output"],
        "additionalProperties": false,
    });
    table("US dollars per million tokens, by the beginning of the model's name", price)
}

#[cfg(test)]
mod tests;
