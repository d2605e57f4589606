//! The trace event format of Chrome and Perfetto.
//!
//! <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>

use serde_json::{Value, json};

use super::{Place, Start};

/// Each start as a process, each place as a thread of it.
pub fn events(starts: &[Start]) -> Value {
    let mut events = Vec::new();
    for (process, start) in starts.iter().enumerate() {
        let name = |what: &str, thread: usize, name: &str| json!({ "ph": "M", "name": what, "pid": process, "tid": thread, "args": { "name": name } });
        events.push(name("process_name", 0, start.title));
        for (thread, place) in Place::ALL.into_iter().enumerate() {
            events.push(name("thread_name", thread, place.name()));
            events.extend(start.spans.iter().filter(|span| span.place == place).map(|span| {
                let duration = span.end_us.saturating_sub(span.start_us);
                json!({
                    "ph": "X", "name": span.name, "pid": process, "tid": thread,
                    "ts": span.start_us, "dur": duration,
                })
            }));
        }
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_an_event_of_its_place() {
        let events = events(&[super::super::tests::start()]);
        let complete = |event: &&Value| event["ph"] == "X";
        let events = events["traceEvents"].as_array().unwrap();
        assert_eq!(events.iter().filter(complete).count(), 5);
        let configured = events.iter().find(|event| event["name"] == "configured").unwrap();
        let expected = json!({
            "ph": "X", "name": "configured", "pid": 0, "tid": 1, "ts": 12_000, "dur": 188_000,
        });
        assert_eq!(*configured, expected);
    }
}
