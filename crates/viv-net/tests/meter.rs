//! The bounded, stable-Rust side of the fuzz target `meter`: random answers, and real ones that are damaged.

#[path = "support/meter.rs"]
mod meter;

use proptest::collection::vec;
use proptest::prelude::*;

const ANSWERS: &str = concat!(
    "event: message_start\ndata: {\"message\":{\"model\":\"claude-x\",\"usage\":{\"input_tokens\":10,",
    "\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\r\n\r\n: ping\n\n",
    "data: {\"delta\":{\"text\":\"h\\u00e9 \\\"\",\"stop_reason\":null},\"usage\":{\"output_tokens\":20}}\n\n",
    "data: {\"type\":\"response.completed\",\"delta\":\"x\",\"response\":{\"model\":\"gpt-x\",\"usage\":",
    "{\"input_tokens\":110,\"input_tokens_details\":{\"cached_tokens\":100}}}}\r\r",
    "data: [{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hi\"}]},\"finishReason\":\"STOP\"}],",
    "\"usageMetadata\":{\"promptTokenCount\":18446744073709551615,\"candidatesTokenCount\":18446744073709551615}}]\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"hi\",\"tool_calls\":[1,{\"a\":[]}]}}],\"usage\":null}\n\ndata: [DONE]\n\n",
);

proptest! {
    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..512)) {
        meter::any_answer(&bytes);
    }

    #[test]
    fn random_words_of_the_language(words in vec(prop::sample::select(vec![
        "data:", " ", "\n", "\r", "\r\n", "{", "}", "[", "]", ":", ",", "\"", "\\", "\"usage\"", "\"delta\"", "\"model\"",
        "\"text\"", "\"choices\"", "\"input_tokens\"", "1", "null", "x",
    ]), 0..64)) {
        meter::any_answer(words.concat().as_bytes());
    }

    #[test]
    fn damaged_answers(
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        again in any::<prop::sample::Index>(),
    ) {
        let mut bytes = ANSWERS.as_bytes().to_vec();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let again = bytes[again.index(bytes.len())..].to_vec();
        bytes.truncate(cut.index(bytes.len() + 1));
        bytes.extend_from_slice(&again);
        meter::any_answer(&bytes);
    }
}
