//! `viv run --timing`: where the time went, on the host and inside.

use serde::Serialize;
use viv_proto::message::Mark;
use viv_sandbox::HostMark;

use crate::output::table;

/// Where a part was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The `viv` that was typed.
    Client,
    /// The process that owns the sandbox.
    Monitor,
    /// The machine.
    Guest,
}

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// What was done.
    pub name: String,
    /// By whom.
    #[serde(rename = "where")]
    pub place: Place,
    /// Microseconds from the start of `viv`.
    pub start_us: u64,
    /// The same, when it was done.
    pub end_us: u64,
}

/// What the monitor and the guest told of a start.
#[derive(Debug, Default)]
pub struct Told {
    /// The monitor's marks.
    pub monitor: Vec<HostMark>,
    /// The guest's, the last of them as it answered.
    pub guest: Vec<Mark>,
}

/// What every part is called that people see.
const MEANINGS: &[(&str, &str)] = &[
    ("settings", "settings read, sandbox planned"),
    ("artifacts", "kernel and image found"),
    ("monitor", "the monitor started"),
    ("started", "template opened, disk cloned, VMM and file daemon started"),
    ("link", "the guest answered"),
    ("control port", "its control port answered"),
    ("shares", "the shares were ready"),
    ("configured", "the guest became this sandbox"),
    ("clock", "its clock was set right"),
    ("ready", "viv knew"),
    ("program started", "the program started"),
    ("first output", "its first output came"),
    ("program ended", "it ended"),
    ("stopped", "shares flushed, everything ended and removed"),
];

/// The parts of a run, in the order they ended. Each begins where the one before it, in the same
/// line of work, ended; client and monitor take turns, the guest works while the monitor waits.
#[must_use]
pub fn spans(began: &HostMark, client: &[HostMark], told: &Told) -> Vec<Span> {
    let since = |at_ns: u64| at_ns.saturating_sub(began.at_ns) / 1000;
    let mut host: Vec<(&HostMark, Place)> = client
        .iter()
        .map(|mark| (mark, Place::Client))
        .chain(told.monitor.iter().map(|mark| (mark, Place::Monitor)))
        .collect();
    host.sort_by_key(|(mark, _)| mark.at_ns);
    let mut spans = Vec::new();
    let mut last = 0;
    for (mark, place) in host {
        let end_us = since(mark.at_ns);
        spans.push(Span { name: mark.name.clone(), place, start_us: last, end_us });
        last = end_us;
        if mark.name == "configured" {
            spans.extend(guest(&told.guest, end_us));
        }
    }
    spans
}

/// The guest's parts. Its clock is its own: its last mark was made as it answered, which the host
/// heard at `answered_us`.
fn guest(marks: &[Mark], answered_us: u64) -> Vec<Span> {
    let Some(end) = marks.last().map(|mark| mark.at_us) else { return Vec::new() };
    let at = |mark: &Mark| answered_us.saturating_sub(end.saturating_sub(mark.at_us));
    let pairs = marks.iter().zip(marks.iter().skip(1));
    pairs
        .map(|(before, mark)| Span {
            name: mark.name.clone(),
            place: Place::Guest,
            start_us: at(before),
            end_us: at(mark),
        })
        .collect()
}

/// The table for people.
#[must_use]
pub fn render(spans: &[Span]) -> String {
    let milliseconds = |us: u64| format!("{:.1}", us as f64 / 1000.0);
    let rows: Vec<Vec<String>> = spans
        .iter()
        .map(|span| {
            let meaning = MEANINGS.iter().find(|(name, _)| *name == span.name && span.place != Place::Guest);
            let indent = if span.place == Place::Guest { "  inside: " } else { "" };
            vec![
                milliseconds(span.end_us),
                milliseconds(span.end_us.saturating_sub(span.start_us)),
                crate::output::name_of(&span.place),
                format!("{indent}{}", meaning.map_or(span.name.as_str(), |(_, meaning)| meaning)),
            ]
        })
        .collect();
    table(&["AT MS", "TOOK MS", "WHO", "WHAT WAS DONE BY THEN"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str, at_ms: u64) -> HostMark {
        HostMark { name: name.into(), at_ns: 1_000_000_000 + at_ms * 1_000_000 }
    }

    #[test]
    fn each_part_begins_where_the_one_before_ended() {
        let inside = |name: &str, at_us| Mark { name: name.into(), at_us };
        let told = Told {
            monitor: vec![mark("monitor", 12), mark("started", 15), mark("configured", 200)],
            guest: vec![inside("configure", 5_000_000), inside("names", 5_040_000), inside("answer", 5_060_000)],
        };
        let client = [mark("settings", 2), mark("artifacts", 3), mark("ready", 201), mark("stopped", 260)];
        let spans = spans(&mark("began", 0), &client, &told);
        insta::assert_snapshot!(render(&spans));
        insta::assert_json_snapshot!(spans.last());
    }

    #[test]
    fn a_guest_that_tells_nonsense_breaks_nothing() {
        let inside = |name: &str, at_us| Mark { name: name.into(), at_us };
        let told = Told {
            monitor: vec![mark("configured", 5)],
            guest: vec![inside("a", u64::MAX), inside("b", 0), inside("c", 7)],
        };
        for span in spans(&mark("began", 0), &[], &told) {
            let _ = render(&[span]);
        }
    }
}
