//! The record of calls: one JSON line when a call begins, one when it ends, and some between. The last
//! line of a call counts, so an egress that was killed has lost nothing but the last tokens of the
//! calls that were under way.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::meter::Tokens;
use super::{Error, ErrorKind};

/// The record's name in [`crate::spec::EgressSpec::directory`].
pub const USAGE_FILE: &str = "usage.jsonl";

/// One call of a model API. Requests that ask for nothing to be made (GET, HEAD) are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which call of the sandbox, from 1.
    pub call: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The upstream's name in the configuration.
    pub upstream: String,
    /// The agent's number.
    pub agent: u32,
    /// The model, once it is known: as the answer names it, else as the request does.
    pub model: Option<String>,
    /// What it used so far.
    #[serde(flatten)]
    pub tokens: Tokens,
    /// What that costs, in millionths of a US dollar; none if the model has no price.
    pub microdollars: Option<u64>,
    /// The HTTP status answered; none while the call is under way, or if the egress ended with it.
    pub status: Option<u16>,
    /// Whether any of the tokens are an estimate.
    #[serde(default)]
    pub estimated: bool,
}

/// What one agent used of one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine {
    /// The agent's number.
    pub agent: u32,
    /// The model, if it was ever known.
    pub model: Option<String>,
    /// Calls that were let through.
    pub requests: u64,
    /// Those that were answered with a status of 400 or more.
    pub errors: u64,
    /// Those without an end: under way, or lost with an egress.
    pub unfinished: u64,
    /// What they used.
    #[serde(flatten)]
    pub tokens: Tokens,
    /// What that costs, in millionths of a US dollar; none if the model has no price.
    pub microdollars: Option<u64>,
    /// Calls whose tokens are, at least in part, an estimate.
    pub estimated: u64,
}

/// Calls added up by agent and model, in that order.
#[must_use]
pub fn summarize(records: &[Record]) -> Vec<UsageLine> {
    let mut lines: BTreeMap<(u32, Option<&str>), UsageLine> = BTreeMap::new();
    for record in records {
        let line = lines.entry((record.agent, record.model.as_deref())).or_insert_with(|| UsageLine {
            agent: record.agent,
            model: record.model.clone(),
            requests: 0,
            errors: 0,
            unfinished: 0,
            tokens: Tokens::default(),
            microdollars: None,
            estimated: 0,
        });
        line.requests += 1;
        line.errors += u64::from(record.status.is_some_and(|status| status >= 400));
        line.unfinished += u64::from(record.status.is_none());
        line.estimated += u64::from(record.estimated);
        let (sum, tokens) = (&mut line.tokens, &record.tokens);
        sum.input = sum.input.saturating_add(tokens.input);
        sum.cached = sum.cached.saturating_add(tokens.cached);
        sum.cache_write = sum.cache_write.saturating_add(tokens.cache_write);
        sum.output = sum.output.saturating_add(tokens.output);
        if let Some(cost) = record.microdollars {
            line.microdollars = Some(line.microdollars.unwrap_or(0).saturating_add(cost));
        }
    }
    lines.into_values().collect()
}

/// The calls in a record, in the order they began. Lines that are not whole are left out, as the last one
/// may be after a crash; no file is no calls.
///
/// # Errors
///
/// [`ErrorKind::Usage`] if the file is there and cannot be read.
pub fn read_usage(path: &Path) -> Result<Vec<Record>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::new(ErrorKind::Usage, format!("{} cannot be read", path.display())).source(error)),
    }
}

pub(super) fn parse(bytes: &[u8]) -> Vec<Record> {
    let mut calls = BTreeMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(record) = serde_json::from_slice::<Record>(line) {
            calls.insert(record.call, record);
        }
    }
    calls.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_call_counts_and_a_torn_one_does_not() {
        let record = |call, agent, status, output| Record {
            call,
            at_ms: 1,
            upstream: "anthropic".into(),
            agent,
            model: Some("m".into()),
            tokens: Tokens { input: 10, output, ..Tokens::default() },
            microdollars: (agent == 0).then_some(output),
            status,
            estimated: status.is_none(),
        };
        let lines =
            [record(1, 0, None, 0), record(2, 1, None, 5), record(1, 0, Some(200), 7), record(3, 0, Some(529), 0)];
        let mut text: String = lines.iter().map(|line| serde_json::to_string(line).expect("JSON") + "\n").collect();
        text += "{\"call\":4,\"at_ms\":1,\"upstr";
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(USAGE_FILE);
        assert_eq!(read_usage(&path).expect("no file"), []);
        std::fs::write(&path, text).expect("written");
        let records = read_usage(&path).expect("read");
        assert_eq!(records, [lines[2].clone(), lines[1].clone(), lines[3].clone()]);
        insta::assert_snapshot!(serde_json::to_string_pretty(&summarize(&records)).expect("JSON"), @r#"
        [
          {
            "agent": 0,
            "model": "m",
            "requests": 2,
            "errors": 1,
            "unfinished": 0,
            "input": 20,
            "cached": 0,
            "cache_write": 0,
            "output": 7,
            "microdollars": 7,
            "estimated": 0
          },
          {
            "agent": 1,
            "model": "m",
            "requests": 1,
            "errors": 0,
            "unfinished": 1,
            "input": 10,
            "cached": 0,
            "cache_write": 0,
            "output": 5,
            "microdollars": null,
            "estimated": 1
          }
        ]
        "#);
        assert_eq!(read_usage(directory.path()).expect_err("a directory").kind(), &ErrorKind::Usage);
    }
}
