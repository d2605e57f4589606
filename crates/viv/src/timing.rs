//! `viv run --timing`: where the time went, on the host and inside.

use std::time::Duration;

use serde::Serialize;
use viv_proto::message::Mark;
use viv_sandbox::HostMark;

use crate::output::{JsonEvent, Printer, table};

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

/// When each part of a run was done, as far as it has come.
#[derive(Debug)]
pub struct Clock {
    began: HostMark,
    marks: Vec<HostMark>,
    told: Told,
}

/// The last part of a run that came to its end.
const STOPPED: &str = "stopped";

/// The last part of one that did not.
const ENDED_EARLY: &str = "ended early";

impl Clock {
    /// The run begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { began: HostMark::now("began"), marks: Vec::new(), told: Told::default() }
    }

    /// A part was done just now.
    pub fn mark(&mut self, name: &str) {
        self.marks.push(HostMark::now(name));
    }

    /// A part was done so long after the last mark.
    pub fn mark_later(&mut self, name: &str, after: Duration) {
        let last = self.marks.last().unwrap_or(&self.began).at_ns;
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.marks.push(HostMark { name: name.to_owned(), at_ns: last.saturating_add(after) });
    }

    /// Others told of their parts.
    pub fn heard(&mut self, told: Told) {
        self.told = told;
    }

    /// Shows where the time went; until when the run ended early, if it did.
    pub fn show(&mut self, printer: &Printer, succeeded: bool) {
        if !succeeded && self.marks.last().is_none_or(|mark| mark.name != STOPPED) {
            self.mark(ENDED_EARLY);
        }
        let spans = spans(&self.began, &self.marks, &self.told);
        printer.event(&JsonEvent::Timing { spans: &spans, total_us: total_us(&spans) });
        printer.note(render(&spans).trim_end());
    }
}

/// What every part of the host's is called that people see.
const HOST: &[(&str, &str)] = &[
    ("settings", "read the settings, planned the sandbox"),
    ("artifacts", "looked for kernel and image"),
    ("monitor", "started the monitor"),
    ("started", "cloned the disk, started VMM and file daemon"),
    ("link", "waited for the guest"),
    ("control port", "reached its control port"),
    ("shares", "waited for the file daemon"),
    ("configured", "had the guest become this sandbox"),
    ("clock", "set the guest's clock right"),
    ("ready", "told viv that it is up"),
    ("base", "waited for the workspace's files to be kept"),
    ("program started", "started the program"),
    ("program refused", "tried to start the program"),
    ("first output", "waited for its first output"),
    ("program ended", "waited for its end"),
    (STOPPED, "flushed the shares, ended and removed everything"),
    (ENDED_EARLY, "ended early"),
];

/// The same of the guest's parts.
const GUEST: &[(&str, &str)] = &[
    (FIRMWARE, "VMM and firmware started"),
    (KERNEL, "kernel booted"),
    (RESTORE, "machine restored"),
    ("early", "first file systems mounted"),
    ("modules", "modules loaded"),
    ("disks", "disks mounted"),
    ("overlay", "overlay mounted"),
    ("switch", "root switched"),
    ("furnish", "root furnished"),
    ("link open", "link opened"),
    (SESSION, "session begun"),
    ("configure", "request received"),
    ("user", "user made"),
    ("clock, randomness", "clock set, randomness added"),
    ("names", "names written"),
    ("shares", "shares mounted"),
    ("answer", "answer written"),
];

const FIRMWARE: &str = "firmware";
const KERNEL: &str = "kernel";
const RESTORE: &str = "restore";

/// The guest's mark of the session that the host's link is.
const SESSION: &str = "session";

/// The guest's first mark after a boot.
const INIT: &str = "init";

/// The parts of a run. Those of client and monitor follow each other without a gap; each is followed
/// by the guest's parts that it waited for, which is those that ended during it.
#[must_use]
pub fn spans(began: &HostMark, client: &[HostMark], told: &Told) -> Vec<Span> {
    let since = |mark: &HostMark| mark.at_ns.saturating_sub(began.at_ns) / 1000;
    let own = client.iter().map(|mark| (mark, Place::Client));
    let mut host: Vec<(&HostMark, Place)> = own.chain(told.monitor.iter().map(|mark| (mark, Place::Monitor))).collect();
    host.sort_by_key(|(mark, _)| mark.at_ns);
    // A start that was tried twice has the first of these twice.
    let time_of = |name: &str| told.monitor.iter().rev().find(|mark| mark.name == name).map(since);
    let guest = match (time_of("started"), time_of("link"), time_of("configured")) {
        (Some(started), Some(linked), Some(answered)) => guest(&told.guest, [started, linked, answered]),
        _ => Vec::new(),
    };
    let mut spans = Vec::new();
    let mut last = 0;
    for (mark, place) in host {
        let end_us = since(mark);
        spans.push(Span { name: mark.name.clone(), place, start_us: last, end_us });
        let within = guest.iter().filter(|span| last < span.end_us && span.end_us <= end_us);
        // What began before it was a wait of the guest's own, for this to begin.
        spans.extend(within.map(|span| Span { start_us: span.start_us.max(last), ..span.clone() }));
        last = end_us;
    }
    spans
}

/// The guest's parts. Its clock is its own, and a busy emulator's loses time, so it is set by what both
/// sides know: the session began when the host had its link, the last mark was made as the guest
/// answered. The host's times are those of the VMM's start, the link, and the answer.
fn guest(marks: &[Mark], [started_us, linked_us, answered_us]: [u64; 3]) -> Vec<Span> {
    let (Some(first), Some(last)) = (marks.first(), marks.last()) else { return Vec::new() };
    let session = marks.iter().rposition(|mark| mark.name == SESSION);
    let session_us = session.map_or(0, |position| marks[position].at_us);
    // Whatever it tells, it can have done nothing before it was started, nor after it answered.
    let before_session = |guest_us: u64| {
        linked_us.saturating_sub(session_us.saturating_sub(guest_us)).clamp(started_us, linked_us.max(started_us))
    };
    let after_session = |guest_us: u64| {
        answered_us.saturating_sub(last.at_us.saturating_sub(guest_us)).clamp(linked_us, answered_us.max(linked_us))
    };
    let mut parts = Vec::new();
    if first.name == INIT {
        // By its clock, its kernel was started at zero.
        parts.push((FIRMWARE, before_session(0)));
        parts.push((KERNEL, before_session(first.at_us)));
    } else {
        parts.push((RESTORE, before_session(first.at_us)));
    }
    parts.extend(marks.iter().enumerate().skip(1).map(|(position, mark)| {
        let early = session.is_some_and(|session| position <= session);
        (mark.name.as_str(), if early { before_session(mark.at_us) } else { after_session(mark.at_us) })
    }));
    let mut start_us = started_us;
    let span = |(name, end_us): (&str, u64)| {
        let span = Span { name: name.to_owned(), place: Place::Guest, start_us: start_us.min(end_us), end_us };
        start_us = end_us;
        span
    };
    parts.into_iter().map(span).collect()
}

/// How long all of it took.
fn total_us(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.end_us).max().unwrap_or(0)
}

/// The table for people.
#[must_use]
pub fn render(spans: &[Span]) -> String {
    // Numbers end in the same column, whatever their size.
    let milliseconds = |us: u64| format!("{:>8.1}", us as f64 / 1000.0);
    let row = |span: &Span| {
        let (who, indent, meanings) = match span.place {
            Place::Client => ("viv", "", HOST),
            Place::Monitor => ("monitor", "", HOST),
            Place::Guest => ("guest", "  ", GUEST),
        };
        let meaning = meanings.iter().find(|(name, _)| *name == span.name).map_or(span.name.as_str(), |known| known.1);
        vec![
            milliseconds(span.start_us),
            milliseconds(span.end_us.saturating_sub(span.start_us)),
            format!("{indent}{who}"),
            format!("{indent}{meaning}"),
        ]
    };
    let total = vec![String::new(), milliseconds(total_us(spans)), String::new(), "in all".to_owned()];
    let rows: Vec<Vec<String>> = spans.iter().map(row).chain([total]).collect();
    table(&["BEGAN MS", " TOOK MS", "WHO", "WHAT"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str, at_ms: u64) -> HostMark {
        HostMark { name: name.into(), at_ns: 1_000_000_000 + at_ms * 1_000_000 }
    }

    fn inside(marks: &[(&str, u64)]) -> Vec<Mark> {
        marks.iter().map(|(name, at_us)| Mark { name: (*name).into(), at_us: *at_us }).collect()
    }

    fn monitor() -> Vec<HostMark> {
        [("monitor", 12), ("started", 15), ("link", 150), ("configured", 200)].map(|(name, at)| mark(name, at)).into()
    }

    fn client() -> Vec<HostMark> {
        let marks = [("settings", 2), ("artifacts", 3), ("ready", 201), ("program ended", 1260), (STOPPED, 1300)];
        marks.map(|(name, at)| mark(name, at)).into()
    }

    #[test]
    fn a_restored_machine() {
        let marks = [("session", 5_000_000), ("configure", 5_010_000), ("names", 5_040_000), ("answer", 5_060_000)];
        let told = Told { monitor: monitor(), guest: inside(&marks) };
        let spans = spans(&mark("began", 0), &client(), &told);
        insta::assert_snapshot!(render(&spans));
        insta::assert_json_snapshot!(spans.last());
    }

    #[test]
    fn a_booted_machine() {
        let marks = [("init", 80_000), ("early", 90_000), ("session", 110_000), ("answer", 160_000)];
        let told = Told { monitor: monitor(), guest: inside(&marks) };
        insta::assert_snapshot!(render(&spans(&mark("began", 0), &client(), &told)));
    }

    #[test]
    fn a_run_that_failed_shows_how_far_it_came() {
        let mut clock = Clock { began: mark("began", 0), marks: client()[..2].to_vec(), told: Told::default() };
        clock.show(&Printer::new(crate::cli::Verbosity { verbose: false, quiet: true }, false), false);
        assert_eq!(clock.marks.len(), 3);
        clock.marks.truncate(2);
        clock.marks.push(mark(ENDED_EARLY, 120_000));
        clock.heard(Told { monitor: vec![mark("monitor", 12)], guest: Vec::new() });
        insta::assert_snapshot!(render(&spans(&clock.began, &clock.marks, &clock.told)));
    }

    #[test]
    fn parts_of_the_host_follow_each_other_and_those_of_the_guest_lie_within() {
        let nonsense = [("a", u64::MAX), ("b", 0), ("c", 7)];
        let told = Told { monitor: monitor(), guest: inside(&nonsense) };
        let all = spans(&mark("began", 0), &client(), &told);
        let (guest, host): (Vec<&Span>, Vec<&Span>) = all.iter().partition(|span| span.place == Place::Guest);
        assert!(host.windows(2).all(|pair| pair[0].end_us == pair[1].start_us));
        assert!(guest.iter().all(|span| (15_000..=200_000).contains(&span.start_us) && span.end_us <= 200_000));
        let _ = render(&all);
    }
}
