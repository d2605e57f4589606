//! What an answer used, read from its bytes as they pass by.
//!
//! Providers tell tokens at different places: Anthropic input at the beginning and output at the end of a
//! stream, OpenAI all of it in the last event, Gemini so far with each. What they have not told yet is
//! estimated at four bytes of text a token, so that a stream that is cut counts too.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::Dialect;
use super::scan::{Found, Interest, Scanner, Watch};
use super::sse::Events;

/// Bytes of text that are taken for one token where nobody has counted.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens, by what they cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tokens {
    /// Input that was neither read from the provider's cache nor written to it.
    #[serde(default)]
    pub input: u64,
    /// Input read from the provider's cache.
    #[serde(default)]
    pub cached: u64,
    /// Input written to the provider's cache.
    #[serde(default)]
    pub cache_write: u64,
    /// Output, reasoning included.
    #[serde(default)]
    pub output: u64,
}

impl Tokens {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.cached).saturating_add(self.cache_write).saturating_add(self.output)
    }
}

const fn text(path: &'static [&'static str]) -> Watch {
    Watch { path, interest: Interest::Text }
}

const fn length(path: &'static [&'static str]) -> Watch {
    Watch { path, interest: Interest::Length }
}

/// Indices of these are matched on in [`Reading::note`].
static WATCHES: &[Watch] = &[
    text(&["model"]),
    text(&["message", "model"]),
    text(&["response", "model"]),
    text(&["modelVersion"]),
    // From here on: usage.
    text(&["usage"]),
    text(&["message", "usage"]),
    text(&["response", "usage"]),
    text(&["usageMetadata"]),
    // From here on: the answer is whole.
    text(&["delta", "stop_reason"]),
    text(&["choices", "finish_reason"]),
    text(&["candidates", "finishReason"]),
    // From here on: output.
    Watch { path: &["delta"], interest: Interest::StringLength },
    length(&["delta", "text"]),
    length(&["delta", "thinking"]),
    length(&["delta", "partial_json"]),
    length(&["content", "text"]),
    length(&["choices", "delta", "content"]),
    length(&["choices", "delta", "reasoning_content"]),
    length(&["choices", "delta", "tool_calls"]),
    length(&["choices", "message", "content"]),
    length(&["candidates", "content", "parts"]),
];

const FIRST_USAGE: usize = 4;
const RESPONSE_USAGE: usize = 6;
const FIRST_END: usize = 8;
const FIRST_OUTPUT: usize = 11;

/// Reads one answer.
#[derive(Debug)]
pub struct Meter {
    scanner: Scanner,
    /// Where the stream is, if it is one.
    events: Option<Events>,
    reading: Reading,
}

#[derive(Debug, Default)]
struct Reading {
    model: Option<String>,
    tokens: Tokens,
    /// The provider has told input, or output, at least once.
    told_input: bool,
    told_output: bool,
    /// Bytes of output since it told last.
    untold: u64,
    whole: bool,
    responses: bool,
}

impl Meter {
    /// For an answer that is a stream of server-sent events, or else one JSON text.
    #[must_use]
    pub fn new(stream: bool) -> Self {
        Self { scanner: Scanner::new(WATCHES), events: stream.then(Events::new), reading: Reading::default() }
    }

    /// Reads bytes up to the end of an event, at most, and returns how many they were and whether an
    /// event ended. What is no stream has no events.
    pub fn read(&mut self, bytes: &[u8]) -> (usize, bool) {
        let Self { scanner, events, reading } = self;
        let mut scan = |bytes: &[u8]| scanner.push(bytes, &mut |found| reading.note(&found));
        let Some(events) = events else {
            scan(bytes);
            return (bytes.len(), false);
        };
        let (passed, ended) = events.next(bytes, &mut scan);
        if ended {
            scanner.reset();
        }
        (passed, ended)
    }

    /// Whether an event could be added here.
    #[must_use]
    pub fn between_events(&self) -> bool {
        self.events.as_ref().is_some_and(Events::between)
    }

    /// What was used so far; output that was not told yet is estimated.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        let mut tokens = self.reading.tokens;
        tokens.output = tokens.output.saturating_add(self.reading.untold.div_ceil(BYTES_PER_TOKEN));
        tokens
    }

    /// What was used by an answer that ends here, and whether any of it is an estimate: as
    /// [`Meter::tokens`], and input from the request's size if the provider told none.
    #[must_use]
    pub fn total(&self, request_bytes: u64) -> (Tokens, bool) {
        let mut tokens = self.tokens();
        if !self.reading.told_input {
            tokens.input = request_bytes.div_ceil(BYTES_PER_TOKEN);
        }
        let told = self.reading.told_input && self.reading.told_output && self.reading.untold == 0;
        let cut = self.events.is_some() && !self.reading.whole;
        (tokens, cut || !told)
    }

    /// Whether the provider has told anything.
    #[must_use]
    pub fn told(&self) -> bool {
        self.reading.told_input || self.reading.told_output
    }

    /// The model that answers, if it says so.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.reading.model.as_deref()
    }

    /// Whether all of the model's output has passed, whatever else follows.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.reading.whole
    }

    /// Which stream format it is.
    pub(super) fn dialect(&self) -> Dialect {
        if self.reading.responses { Dialect::Responses } else { Dialect::Plain }
    }
}

impl Reading {
    fn note(&mut self, found: &Found<'_>) {
        match *found {
            Found::Length(_, bytes) => self.untold = self.untold.saturating_add(bytes),
            Found::Text(watch, text) => {
                let Ok(value) = serde_json::from_slice::<Value>(text) else { return };
                debug_assert!(watch < FIRST_OUTPUT);
                if value.is_null() {
                    // Named, but not known yet.
                } else if watch < FIRST_USAGE {
                    self.model = value.as_str().and_then(model_name).or(self.model.take());
                    self.responses |= WATCHES[watch].path[0] == "response";
                } else if watch < FIRST_END {
                    self.usage(&value);
                    self.whole |= watch == RESPONSE_USAGE;
                } else {
                    self.whole = true;
                }
            }
        }
    }

    fn usage(&mut self, usage: &Value) {
        let number = |path: &[&str]| path.iter().try_fold(usage, |value, key| value.get(key)).and_then(Value::as_u64);
        let first = |paths: &[&[&str]]| paths.iter().find_map(|path| number(path));
        let cached = first(&[
            &["cache_read_input_tokens"],
            &["input_tokens_details", "cached_tokens"],
            &["prompt_tokens_details", "cached_tokens"],
            &["cachedContentTokenCount"],
        ]);
        // Anthropic counts what is cached beside the rest, the others within it.
        let beside =
            usage.get("cache_read_input_tokens").is_some() || usage.get("cache_creation_input_tokens").is_some();
        if let Some(input) = first(&[&["input_tokens"], &["prompt_tokens"], &["promptTokenCount"]]) {
            let tools = number(&["toolUsePromptTokenCount"]).unwrap_or(0);
            let within = if beside { 0 } else { cached.unwrap_or(0) };
            self.tokens.input = input.saturating_sub(within).saturating_add(tools);
            self.told_input = true;
        }
        if let Some(cached) = cached {
            self.tokens.cached = cached;
        }
        if let Some(written) = number(&["cache_creation_input_tokens"]) {
            self.tokens.cache_write = written;
        }
        let thoughts = number(&["thoughtsTokenCount"]);
        let output = first(&[&["output_tokens"], &["completion_tokens"], &["candidatesTokenCount"]]);
        if output.is_some() || thoughts.is_some() {
            self.tokens.output = output.unwrap_or(0).saturating_add(thoughts.unwrap_or(0));
            self.told_output = true;
            self.untold = 0;
        }
    }
}

/// A model's name as it may be recorded: short, of printable characters, and without Gemini's
/// `models/` before it.
pub(super) fn model_name(text: &str) -> Option<String> {
    const LONGEST: usize = 128;
    let name = text.strip_prefix("models/").unwrap_or(text);
    let fits = !name.is_empty() && name.len() <= LONGEST && name.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, stream: bool, piece: usize) -> Meter {
        let mut meter = Meter::new(stream);
        for mut piece in text.as_bytes().chunks(piece) {
            while !piece.is_empty() {
                let (passed, _) = meter.read(piece);
                piece = &piece[passed..];
            }
        }
        meter
    }

    fn tokens(input: u64, cached: u64, cache_write: u64, output: u64) -> Tokens {
        Tokens { input, cached, cache_write, output }
    }

    const ANTHROPIC: &str = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":",
        "{\"input_tokens\":10,\"cache_creation_input_tokens\":3,\"cache_read_input_tokens\":500,\"output_tokens\":1}}}\n\n",
        "event: content_block_delta\ndata: {\"delta\":{\"type\":\"text_delta\",\"text\":\"123456\"}}\n\n",
        "event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":20}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    const RESPONSES: &str = concat!(
        "data: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-x\",\"usage\":null}}\n\n",
        "data: {\"type\":\"response.output_text.delta\",\"delta\":\"123456\"}\n\n",
        "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-x\",\"usage\":{\"input_tokens\":110,",
        "\"input_tokens_details\":{\"cached_tokens\":100},\"output_tokens\":20,\"total_tokens\":130}}}\n\n",
    );
    const CHAT: &str = concat!(
        "data: {\"model\":\"gpt-x\",\"choices\":[{\"delta\":{\"content\":\"123456\"},\"finish_reason\":null}]}\n\n",
        "data: {\"model\":\"gpt-x\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":110,\"completion_tokens\":20,\"prompt_tokens_details\":",
        "{\"cached_tokens\":100}}}\n\ndata: [DONE]\n\n",
    );
    const GEMINI: &str = concat!(
        "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"123456\"}]}}],\"usageMetadata\":",
        "{\"promptTokenCount\":110},\"modelVersion\":\"gemini-x\"}\r\n\r\n",
        "data: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":110,",
        "\"cachedContentTokenCount\":100,\"candidatesTokenCount\":15,\"thoughtsTokenCount\":5}}\r\n\r\n",
    );

    #[test]
    fn streams_of_every_provider_are_counted_whatever_the_pieces() {
        for (stream, model, expected) in [
            (ANTHROPIC, "claude-x", tokens(10, 500, 3, 20)),
            (RESPONSES, "gpt-x", tokens(10, 100, 0, 20)),
            (CHAT, "gpt-x", tokens(10, 100, 0, 20)),
            (GEMINI, "gemini-x", tokens(10, 100, 0, 20)),
        ] {
            for piece in 1..stream.len() {
                let meter = read(stream, true, piece);
                assert_eq!(meter.total(999), (expected, false), "{model} in pieces of {piece}");
                assert_eq!(meter.model(), Some(model));
                assert!(meter.is_whole() && meter.between_events());
            }
        }
    }

    #[test]
    fn plain_answers_of_every_provider_are_counted() {
        for (answer, expected) in [
            (
                r#"{"model":"m","content":[{"text":"hi"}],"usage":{"input_tokens":10,"cache_read_input_tokens":7,"output_tokens":20}}"#,
                tokens(10, 7, 0, 20),
            ),
            (
                r#"{"model":"m","usage":{"input_tokens":10,"input_tokens_details":{"cached_tokens":7},"output_tokens":20}}"#,
                tokens(3, 7, 0, 20),
            ),
            (r#"{"model":"m","usage":{"prompt_tokens":10,"completion_tokens":20}}"#, tokens(10, 0, 0, 20)),
            (
                r#"[{"modelVersion":"models/m","usageMetadata":{"promptTokenCount":10}},{"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":20}}]"#,
                tokens(10, 0, 0, 20),
            ),
        ] {
            let meter = read(answer, false, 5);
            assert_eq!(meter.total(999), (expected, false), "{answer}");
            assert_eq!(meter.model(), Some("m"));
        }
    }

    #[test]
    fn a_stream_that_is_cut_is_estimated_from_what_was_seen() {
        // `"123456"` with its quotes: two tokens.
        let cut = |stream: &str, at: &str| read(&stream[..stream.find(at).expect("is in it")], true, 9);
        assert_eq!(cut(ANTHROPIC, "event: message_delta").total(999), (tokens(10, 500, 3, 3), true));
        assert_eq!(cut(RESPONSES, "data: {\"type\":\"response.completed").total(401), (tokens(101, 0, 0, 2), true));
        assert_eq!(cut(CHAT, "data: {\"choices\":[],").total(400).0.input, 100);
        assert!(!cut(ANTHROPIC, "event: message_delta").is_whole());
    }

    #[test]
    fn what_says_nothing_is_an_estimate_of_the_request() {
        assert_eq!(read("<html>busy</html>", false, 3).total(40), (tokens(10, 0, 0, 0), true));
        assert_eq!(
            read("{\"usage\":{\"input_tokens\":-1,\"output_tokens\":\"x\"}}", false, 3).total(0),
            (Tokens::default(), true)
        );
    }

    #[test]
    fn a_models_name_is_short_and_printable() {
        assert_eq!(model_name("models/gemini-2.5-pro").as_deref(), Some("gemini-2.5-pro"));
        for name in ["", "a b", "a\u{1b}[31m", &"x".repeat(129)] {
            assert_eq!(model_name(name), None);
        }
    }
}
