//! What a named sandbox can be, and what becomes of it. Pure: nothing else decides.
//!
//! ```text
//!             start               its programs can run          pause
//!   stopped ─────────► starting ───────────────────────► running ─────► paused
//!    ▲  ▲  failed ────────┘ │                             │  ▲ ◄─────────┘  │
//!    │  │    ▲   start      │ stop, kill             stop,│     resume      │ stop, kill
//!    │  │    │              ▼                        kill ▼                 │
//!    │  │    │           stopping ◄────────────────────────┴────────────────┘
//!    │  │    │              │
//!    │  └────┼──────────────┘ its machine has ended: as asked, by itself, with the host
//!    │       └─ from any of these: its machine crashed, its monitor was killed, it could not start
//!    └───────── from any of these: as above, without having been asked
//! ```
//!
//! [`request`] says what a user's wish comes to in a state, [`observe`] what a look at the machine makes of
//! it: what is seen counts, whatever was written down.

use serde::{Deserialize, Serialize};

/// What a named sandbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has no machine: it was never started, or ended in good order.
    Stopped,
    /// Its machine boots, or is made ready for its first programs.
    Starting,
    /// Programs can be run.
    Running,
    /// Its machine stands still.
    Paused,
    /// Its machine is about to end.
    Stopping,
    /// It has no machine, and that was nobody's wish.
    Failed,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Stopped, Self::Starting, Self::Running, Self::Paused, Self::Stopping, Self::Failed];

    /// Whether it has no machine and nobody is making one.
    #[must_use]
    pub fn is_at_rest(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// Its name as users read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a user wants of a named sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// A machine that runs.
    Start,
    /// No machine; what it holds is flushed first.
    Stop,
    /// No machine, at once.
    Kill,
    /// A machine that stands still.
    Pause,
    /// A machine that goes on.
    Resume,
    /// Another name, or work on its disk.
    Change,
    /// That it is forgotten, with all it had.
    Remove,
}

impl Request {
    /// Every request.
    pub const ALL: [Self; 7] =
        [Self::Start, Self::Stop, Self::Kill, Self::Pause, Self::Resume, Self::Change, Self::Remove];
}

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is done, and this is the state meanwhile.
    Do(State),
    /// It is so already.
    Already,
    /// Someone else is about to change the state; it is asked again then.
    Wait,
    /// It cannot be. What helps is a command of viv, before the sandbox's name.
    Refuse {
        /// That command.
        instead: &'static str,
    },
}

/// What a request comes to in a state.
#[must_use]
pub fn request(state: State, request: Request) -> Answer {
    use Request::{Change, Kill, Pause, Remove, Resume, Start, Stop};
    use State::{Failed, Paused, Running, Starting, Stopped, Stopping};
    let refuse = |instead| Answer::Refuse { instead };
    match (request, state) {
        (Start, Stopped | Failed) => Answer::Do(Starting),
        (Start, Starting | Stopping) => Answer::Wait,
        (Start, Running) => Answer::Already,
        (Start, Paused) => refuse("viv resume"),

        (Stop | Kill, Stopped | Failed) => Answer::Already,
        (Stop, Starting | Running | Paused) => Answer::Do(Stopping),
        // Someone asked already, and nothing is gained by asking twice.
        (Stop, Stopping) => Answer::Wait,
        (Kill, Starting | Running | Paused | Stopping) => Answer::Do(Stopping),

        (Pause, Running) => Answer::Do(Paused),
        (Pause, Paused) => Answer::Already,
        (Resume, Paused) => Answer::Do(Running),
        (Resume, Running) => Answer::Already,
        (Pause | Resume, Starting) => Answer::Wait,
        (Pause | Resume, Stopped | Failed | Stopping) => refuse("viv start"),

        (Change, Stopped | Failed) => Answer::Do(state),
        (Change, Starting | Running | Paused | Stopping) => refuse("viv stop"),
        (Remove, Stopped | Failed) => Answer::Do(Stopped),
        (Remove, Starting | Running | Paused | Stopping) => refuse("viv stop"),
    }
}

/// How a machine came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// It was asked to.
    Stopped,
    /// It was killed with viv.
    Killed,
    /// It was switched off from inside.
    PoweredOff,
    /// Whoever started it went before it was ready.
    Interrupted,
    /// The host was restarted, or lost its power.
    HostRestarted,
    /// It could not start, or ended by itself.
    Failed,
    /// Its monitor was killed.
    MonitorKilled,
}

impl EndReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Stopped,
        Self::Killed,
        Self::PoweredOff,
        Self::Interrupted,
        Self::HostRestarted,
        Self::Failed,
        Self::MonitorKilled,
    ];

    /// An exit code for whoever waited: 0 after an end in good order, 137 (128 and SIGKILL) after one at
    /// once, else viv's own 125.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Stopped | Self::PoweredOff => 0,
            Self::Killed => 137,
            Self::Interrupted => 130,
            Self::HostRestarted | Self::Failed | Self::MonitorKilled => 125,
        }
    }
}

/// What a look at a sandbox's machine shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// Someone is starting it: there may be a machine, and it is not to be used yet.
    Starts,
    /// There is one that runs.
    Runs,
    /// There is one that stands still.
    StandsStill,
    /// There is one that is about to end.
    Ends,
    /// There is none, and nobody is making one. If there was one, it ended like this.
    Gone(EndReason),
}

/// What a state becomes by a look.
#[must_use]
pub fn observe(state: State, fact: Fact) -> State {
    match fact {
        Fact::Starts => State::Starting,
        Fact::Runs => State::Running,
        Fact::StandsStill => State::Paused,
        Fact::Ends => State::Stopping,
        // It has not had one since the last look.
        Fact::Gone(_) if state.is_at_rest() => state,
        Fact::Gone(EndReason::Failed | EndReason::MonitorKilled) => State::Failed,
        Fact::Gone(
            EndReason::Stopped
            | EndReason::Killed
            | EndReason::PoweredOff
            | EndReason::Interrupted
            | EndReason::HostRestarted,
        ) => State::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line per state, one column per request: `-` already, `~` wait, `!` refused, else the state.
    const REQUESTS: &str = "\
        state     start     stop      kill      pause     resume    change    remove
        stopped   starting  -         -         !start    !start    stopped   stopped
        starting  ~         stopping  stopping  ~         ~         !stop     !stop
        running   -         stopping  stopping  paused    -         !stop     !stop
        paused    !resume   stopping  stopping  -         running   !stop     !stop
        stopping  ~         ~         stopping  !start    !start    !stop     !stop
        failed    starting  -         -         !start    !start    failed    stopped";

    /// One line per state, one column per fact; how it was gone is by its end's reason.
    const FACTS: &str = "\
        state     starts    runs      still     ends      stopped   killed    off       interrupt reboot    failed    lost
        stopped   starting  running   paused    stopping  stopped   stopped   stopped   stopped   stopped   stopped   stopped
        starting  starting  running   paused    stopping  stopped   stopped   stopped   stopped   stopped   failed    failed
        running   starting  running   paused    stopping  stopped   stopped   stopped   stopped   stopped   failed    failed
        paused    starting  running   paused    stopping  stopped   stopped   stopped   stopped   stopped   failed    failed
        stopping  starting  running   paused    stopping  stopped   stopped   stopped   stopped   stopped   failed    failed
        failed    starting  running   paused    stopping  failed    failed    failed    failed    failed    failed    failed";

    fn rows(table: &str) -> Vec<Vec<&str>> {
        table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
    }

    #[test]
    fn every_request_in_every_state() {
        let rows = rows(REQUESTS);
        assert_eq!(rows.len(), State::ALL.len());
        for (state, row) in State::ALL.into_iter().zip(rows) {
            assert_eq!(row[0], state.name());
            assert_eq!(row.len(), 1 + Request::ALL.len());
            for (wanted, cell) in Request::ALL.into_iter().zip(&row[1..]) {
                let answer = match request(state, wanted) {
                    Answer::Do(next) => next.name().to_owned(),
                    Answer::Already => "-".to_owned(),
                    Answer::Wait => "~".to_owned(),
                    Answer::Refuse { instead } => instead.replace("viv ", "!"),
                };
                assert_eq!(answer, *cell, "{wanted:?} while {state}");
            }
        }
    }

    #[test]
    fn every_fact_in_every_state() {
        let there = [Fact::Starts, Fact::Runs, Fact::StandsStill, Fact::Ends];
        let facts: Vec<Fact> = there.into_iter().chain(EndReason::ALL.map(Fact::Gone)).collect();
        let rows = rows(FACTS);
        assert_eq!(rows.len(), State::ALL.len());
        for (state, row) in State::ALL.into_iter().zip(rows) {
            assert_eq!((row[0], row.len()), (state.name(), 1 + facts.len()));
            for (fact, cell) in facts.iter().zip(&row[1..]) {
                assert_eq!(observe(state, *fact).name(), *cell, "{fact:?} while {state}");
            }
        }
    }

    #[test]
    fn what_is_seen_twice_changes_nothing_more() {
        let facts = [Fact::Starts, Fact::Runs, Fact::StandsStill, Fact::Ends];
        for fact in facts.into_iter().chain(EndReason::ALL.map(Fact::Gone)) {
            for state in State::ALL {
                let once = observe(state, fact);
                assert_eq!(observe(once, fact), once);
            }
        }
    }
}
