use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::error::Error;
use crate::settings::file::{self, Configuration, Trust};

/// Whether a document is what a schema says, as far as the words of JSON Schema go that ours use.
fn accepts(schema: &Value, document: &Value) -> bool {
    let words = schema.as_object().unwrap();
    words.iter().all(|(word, wanted)| match word.as_str() {
        "$schema" | "title" | "description" => true,
        "type" => match wanted.as_str().unwrap() {
            "object" => document.is_object(),
            "array" => document.is_array(),
            "string" => document.is_string(),
            "boolean" => document.is_boolean(),
            "integer" => document.is_i64(),
            "number" => document.is_number(),
            other => panic!("{other}"),
        },
        "enum" => wanted.as_array().unwrap().contains(document),
        "anyOf" => wanted.as_array().unwrap().iter().any(|one| accepts(one, document)),
        "not" => !accepts(wanted, document),
        "properties" => document.as_object().is_none_or(|fields| {
            let declared = wanted.as_object().unwrap();
            fields.iter().all(|(name, value)| declared.get(name).is_none_or(|schema| accepts(schema, value)))
        }),
        "additionalProperties" => document.as_object().is_none_or(|fields| {
            let declared = |name: &str| schema["properties"].get(name).is_some();
            let mut others = fields.iter().filter(|(name, _)| !declared(name)).map(|(_, value)| value);
            match wanted {
                Value::Bool(false) => others.count() == 0,
                schema => others.all(|value| accepts(schema, value)),
            }
        }),
        "required" => document.as_object().is_none_or(|fields| {
            wanted.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
        }),
        "items" => document.as_array().is_none_or(|items| items.iter().all(|item| accepts(wanted, item))),
        "minItems" => document.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
        "minLength" => document.as_str().is_none_or(|text| text.len() as u64 >= wanted.as_u64().unwrap()),
        "minimum" => document.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
        "maximum" => document.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
        "pattern" => document.as_str().is_none_or(|text| matches_pattern(wanted.as_str().unwrap(), text)),
        other => panic!("{other} is not known here"),
    })
}

/// The three patterns there are.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match pattern {
        "^[0-9]+$" => digits(text),
        "^[0-9]+[KMGTkmgt]([Ii]?[Bb])?$" => {
            let text = text.to_ascii_uppercase();
            let text = text.strip_suffix("IB").or(text.strip_suffix('B')).unwrap_or(&text);
            text.strip_suffix(['K', 'M', 'G', 'T']).is_some_and(digits)
        }
        "^([0-9]+|([0-9]+(ms|s|m|h|d))+)$" => digits(text) || crate::settings::values::parse_duration(text).is_ok(),
        other => panic!("{other}"),
    }
}

fn parse(whose: Whose, text: &str) -> Result<Configuration, Error> {
    let workspace = Path::new("/nowhere/project");
    let trust = match whose {
        Whose::Project => Trust::Project { workspace },
        Whose::User => Trust::User { home: Some(Path::new("/home/ann")) },
    };
    file::parse(text, Path::new("viv.toml"), trust)
}

/// Whether a file is refused for what no value in its place could mend: where something stands, or of what kind it is.
fn is_misshapen(whose: Whose, text: &str) -> Option<String> {
    let message = parse(whose, text).err()?.to_string();
    let shapes = [
        "unknown key",
        "unknown section",
        "does not fit here",
        "is needed, not",
        "must be a table",
        "the same setting",
        "it is true or false",
        "must be true or false",
        "`source` is missing",
        "does not say which directory",
        "belongs into",
        "is not taken from a project's file: it would",
        "is not taken from a project's file: it takes",
        "is not taken from a project's file: it is about",
    ];
    shapes.iter().any(|shape| message.contains(shape)).then_some(message)
}

fn to_json(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

#[test]
fn the_schemas_are_those_that_are_published() {
    for (whose, file) in [(Whose::Project, "viv.schema.json"), (Whose::User, "config.schema.json")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(file);
        let wanted = text(whose);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "docs/reference/{file} is not current: run `cargo xtask docs`");
    }
}

#[test]
fn every_example_is_as_the_schema_says_and_is_read() {
    let sections = [
        ("run", definitions::ALL, ""),
        ("image", definitions::IN_IMAGE, ""),
        ("sandboxes.db", definitions::OF_NAMED_SANDBOX, "workspace = \"/srv/db\"\n"),
    ];
    for (section, settings, rest) in sections {
        for setting in settings {
            let rest = if setting.key == "workspace" { "" } else { rest };
            let text = format!("[{section}]\n{rest}{} = {}\n", setting.key, setting.example);
            assert!(accepts(&schema(Whose::User), &to_json(&text)), "{text}");
            assert!(parse(Whose::User, &text).is_ok(), "{text}");
            let of_project = format!("[{section}]\n{} = {}\n", setting.key, setting.example);
            let accepted = accepts(&schema(Whose::Project), &to_json(&of_project));
            let refused = matches!(setting.project, ProjectRule::Refused | ProjectRule::UserOnly);
            assert_eq!(accepted, !refused, "{of_project}");
            assert_eq!(is_misshapen(Whose::Project, &of_project).is_some(), refused, "{of_project}");
        }
    }
}

#[test]
fn what_the_schema_refuses_is_refused() {
    for text in [
        "cpus = 1",
        "[runs]",
        "[run]\nmemmory = \"4G\"",
        "[run]\ncpus = true",
        "[run]\ncpus = 0",
        "[run]\nmemory = 4",
        "[run]\nmounts = [{ destination = \"/a\" }]",
        "[run]\naccel = \"hvf\"",
        "[run]\nallow = \"a.example\"",
        "[run]\nimage = \"debian\"\n[image]\nfrom = \"debian\"",
        "[run]\npackages = []\n[image]\npackages = [\"git\"]\n[run.env]\nA = 1.5",
        "[sandbox]\npersist = \"yes\"",
        "[sandbox]\non-start = [[]]",
        "[sandbox]\nworkspace = \"/x\"",
        "[sandbox]\ntimeout = \"1s\"",
        "[sandboxes.a]\nname = \"b\"",
        "[gateway.a]\nurl = \"http://x\"",
    ] {
        assert!(!accepts(&schema(Whose::Project), &to_json(text)), "{text}");
        assert!(parse(Whose::Project, text).is_err(), "{text}");
    }
}

/// A value that is often of the right kind.
fn value() -> impl Strategy<Value = String> {
    let scalar = select(vec![
        "1",
        "0",
        "70",
        "-1",
        "1.5",
        "true",
        "false",
        "\"\"",
        "\"4G\"",
        "\"90s\"",
        "\"live\"",
        "\"clone\"",
        "\"auto\"",
        "\"qemu\"",
        "\"debian\"",
        "\"a.example\"",
        "\"8080\"",
        "\"/srv/x\"",
        "\"name\"",
    ]);
    let array = proptest::collection::vec(scalar.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", ")));
    let table = scalar.clone().prop_map(|value| format!("{{ A = {value} }}"));
    let mount = scalar.clone().prop_map(|value| format!("[{{ source = \"/a\", read-only = {value} }}]"));
    let nested = scalar.clone().prop_map(|value| format!("[[{value}]]"));
    prop_oneof![4 => scalar.prop_map(str::to_owned), 3 => array, 1 => table, 1 => mount, 1 => nested]
}

fn document() -> impl Strategy<Value = String> {
    let keys: Vec<&str> = definitions::OF_NAMED_SANDBOX
        .iter()
        .chain(definitions::ALL)
        .chain(definitions::IN_IMAGE)
        .map(|setting| setting.key)
        .chain(["colour"])
        .collect();
    let sections = select(vec!["run", "image", "sandbox", "sandboxes.a", "sandboxes.b"]);
    let section = (sections, proptest::collection::btree_map(select(keys), value(), 0..4)).prop_map(|(name, keys)| {
        let lines: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        (name, lines.join("\n"))
    });
    proptest::collection::vec(section, 0..3).prop_map(|sections| {
        let sections: std::collections::BTreeMap<_, _> = sections.into_iter().collect();
        sections.iter().map(|(name, lines)| format!("[{name}]\n{lines}\n")).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_the_schema_accepts_the_reader_accepts_in_shape(text in document(), user in any::<bool>()) {
        let whose = if user { Whose::User } else { Whose::Project };
        let misshapen = is_misshapen(whose, &text);
        if accepts(&schema(whose), &to_json(&text)) {
            prop_assert_eq!(misshapen, None, "{}", text);
        }
    }
}
