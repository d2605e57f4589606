//! The example workflow is one that GitHub Actions would take: YAML, of documented keys, with whole expressions.
//!
//! <https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax>

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use yaml_rust2::{Yaml, YamlLoader};

const OF_WORKFLOW: &[&str] = &["name", "run-name", "on", "permissions", "env", "defaults", "concurrency", "jobs"];

const OF_JOB: &[&str] = &[
    "name",
    "permissions",
    "needs",
    "if",
    "runs-on",
    "environment",
    "concurrency",
    "outputs",
    "env",
    "defaults",
    "steps",
    "timeout-minutes",
    "strategy",
    "continue-on-error",
    "container",
    "services",
    "uses",
    "with",
    "secrets",
];

const OF_STEP: &[&str] = &[
    "id",
    "if",
    "name",
    "uses",
    "run",
    "working-directory",
    "shell",
    "with",
    "env",
    "continue-on-error",
    "timeout-minutes",
];

/// Events that start a workflow, of those that an example may use, and what each of them takes.
const OF_EVENTS: &[(&str, &[&str])] = &[
    ("issues", &["types"]),
    ("issue_comment", &["types"]),
    ("pull_request", &["types", "branches", "branches-ignore", "paths", "paths-ignore"]),
    ("push", &["branches", "branches-ignore", "tags", "tags-ignore", "paths", "paths-ignore"]),
    ("schedule", &[]),
    ("workflow_dispatch", &["inputs"]),
];

/// What an expression may begin a name with.
const CONTEXTS: &[&str] =
    &["github", "env", "vars", "job", "jobs", "steps", "runner", "secrets", "strategy", "matrix", "needs", "inputs"];

const FUNCTIONS: &[&str] = &[
    "contains",
    "startsWith",
    "endsWith",
    "format",
    "join",
    "toJSON",
    "fromJSON",
    "hashFiles",
    "success",
    "always",
    "cancelled",
    "failure",
    "true",
    "false",
    "null",
];

fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/github-actions");
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(directory).expect("the examples").map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    found
}

/// The keys of a mapping, which have to be among those known.
fn keys<'y>(what: &str, yaml: &'y Yaml, known: &[&str]) -> BTreeSet<&'y str> {
    let mapping = yaml.as_hash().unwrap_or_else(|| panic!("{what} is no mapping"));
    let keys: BTreeSet<&str> = mapping.keys().map(|key| key.as_str().expect("a key is text")).collect();
    for key in &keys {
        assert!(known.contains(key), "{what}: no such key: {key}");
    }
    keys
}

#[test]
fn examples_are_workflows() {
    let examples = examples();
    assert!(!examples.is_empty());
    for path in examples {
        let text = std::fs::read_to_string(&path).expect("a workflow is text");
        let documents = YamlLoader::load_from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let [workflow] = &documents[..] else { panic!("{}: not one document", path.display()) };
        check_workflow(workflow);
        expressions_of(workflow, "workflow");
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            assert!(!line.contains('\t'), "a tab in {line:?}");
        }
    }
}

fn check_workflow(workflow: &Yaml) {
    let of_workflow = keys("the workflow", workflow, OF_WORKFLOW);
    assert!(of_workflow.contains("on") && of_workflow.contains("jobs") && of_workflow.contains("permissions"));
    let events: Vec<&str> = OF_EVENTS.iter().map(|(event, _)| *event).collect();
    for event in keys("on", &workflow["on"], &events) {
        let known = OF_EVENTS.iter().find(|(known, _)| *known == event).expect("it was found").1;
        if !workflow["on"][event].is_null() {
            keys(event, &workflow["on"][event], known);
        }
    }
    for (name, job) in workflow["jobs"].as_hash().expect("jobs are a mapping") {
        let name = name.as_str().expect("a job's name is text");
        let of_job = keys(name, job, OF_JOB);
        assert!(of_job.contains("runs-on") && of_job.contains("timeout-minutes"), "{name}");
        let steps = job["steps"].as_vec().expect("steps are a list");
        assert!(!steps.is_empty());
        for step in steps {
            check_step(step);
        }
    }
}

fn check_step(step: &Yaml) {
    let of_step = keys("a step", step, OF_STEP);
    assert!(of_step.contains("uses") != of_step.contains("run"), "one of uses and run: {of_step:?}");
    assert!(!of_step.contains("with") || of_step.contains("uses"), "{of_step:?}");
    if let Some(action) = step["uses"].as_str() {
        let (name, reference) = action.split_once('@').expect("an action of a version");
        assert!(name.split('/').count() >= 2 && !reference.is_empty(), "{action}");
    }
    if let Some(script) = step["run"].as_str() {
        // What others wrote (titles, bodies, inputs) comes by the environment, or it would be part of the script.
        assert!(!script.contains("${{"), "an expression in a script: {script}");
    }
}

/// Checks every expression in a document.
fn expressions_of(yaml: &Yaml, what: &str) {
    match yaml {
        Yaml::String(text) => {
            let mut rest = text.as_str();
            while let Some((_, after)) = rest.split_once("${{") {
                let (expression, behind) = after.split_once("}}").unwrap_or_else(|| panic!("{what}: {text}"));
                check_expression(expression, text);
                rest = behind;
            }
            if what == "if" && !text.contains("${{") {
                check_expression(text, text);
            }
        }
        Yaml::Array(list) => list.iter().for_each(|item| expressions_of(item, what)),
        Yaml::Hash(mapping) => {
            mapping.iter().for_each(|(key, value)| expressions_of(value, key.as_str().unwrap_or(what)));
        }
        _ => {}
    }
}

fn check_expression(expression: &str, text: &str) {
    // Strings are in single quotes, a quote in one is doubled.
    let code: String = expression.split('\'').step_by(2).collect::<Vec<_>>().join(" ");
    assert_eq!(expression.matches('\'').count() % 2, 0, "{text}");
    assert_eq!(code.matches('(').count(), code.matches(')').count(), "{text}");
    let names = code.split(|c: char| !(c.is_alphanumeric() || "._-".contains(c))).filter(|name| !name.is_empty());
    for name in names.filter(|name| !name.starts_with(|c: char| c.is_ascii_digit())) {
        let first = name.split('.').next().unwrap_or_default();
        assert!(CONTEXTS.contains(&first) || FUNCTIONS.contains(&first), "{first} in {text}");
    }
}
