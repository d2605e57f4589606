//! What a command asks of a sandbox in the state it is found in: pure, so that every command can be tried in
//! every state.
//!
//! What a request comes to in a state is decided where sandboxes live ([`viv_sandbox::named::request`]); here is
//! which requests a command is made of.

use viv_sandbox::named::{Request, State};

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `viv up`, `viv start`
    Start,
    /// `viv down`
    Down,
    /// `viv stop`
    Stop,
    /// `viv kill`
    Kill,
    /// `viv restart`
    Restart,
    /// `viv rm`
    Remove,
    /// `viv rm --force`
    ForceRemove,
    /// `viv pause`
    Pause,
    /// `viv resume`
    Resume,
}

/// What a command asks of a sandbox, one after the other; `persist` is whether its disk stays.
#[must_use]
pub fn requests(verb: Verb, state: State, persist: bool) -> &'static [Request] {
    match verb {
        // Whoever wants it up wants programs to run.
        Verb::Start if state == State::Paused => &[Request::Resume],
        Verb::Start => &[Request::Start],
        Verb::Down if persist => &[Request::Stop],
        Verb::Down | Verb::ForceRemove => &[Request::Stop, Request::Remove],
        Verb::Stop => &[Request::Stop],
        Verb::Kill => &[Request::Kill],
        Verb::Restart => &[Request::Stop, Request::Start],
        Verb::Remove => &[Request::Remove],
        Verb::Pause => &[Request::Pause],
        Verb::Resume => &[Request::Resume],
    }
}

#[cfg(test)]
mod tests {
    use viv_sandbox::named::{Answer, request};

    use super::*;

    const VERBS: [(&str, Verb); 9] = [
        ("up", Verb::Start),
        ("down", Verb::Down),
        ("stop", Verb::Stop),
        ("kill", Verb::Kill),
        ("restart", Verb::Restart),
        ("rm", Verb::Remove),
        ("rm -f", Verb::ForceRemove),
        ("pause", Verb::Pause),
        ("resume", Verb::Resume),
    ];

    /// Where a state leads by itself.
    fn settled(state: State) -> State {
        match state {
            State::Starting => State::Running,
            State::Stopping => State::Stopped,
            settled => settled,
        }
    }

    /// What comes of a command, as one word.
    fn outcome(verb: Verb, mut state: State, persist: bool) -> String {
        let mut is_gone = false;
        let mut changed = false;
        for wanted in requests(verb, state, persist) {
            // Who waits asks again, of what has come of it.
            if request(state, *wanted) == Answer::Wait {
                state = settled(state);
            }
            match request(state, *wanted) {
                Answer::Do(next) => {
                    state = settled(next);
                    is_gone = *wanted == Request::Remove;
                    changed = true;
                }
                Answer::Already => {}
                Answer::Wait => panic!("{wanted:?} waits for ever while {state}"),
                Answer::Refuse { instead } => return format!("refused: {instead}"),
            }
        }
        match (is_gone, changed) {
            (true, _) => "gone".to_owned(),
            (false, true) => state.name().to_owned(),
            (false, false) => "as it was".to_owned(),
        }
    }

    #[test]
    fn every_command_in_every_state() {
        let mut rows = Vec::new();
        for persist in [false, true] {
            for state in State::ALL {
                let mut row = vec![state.name().to_owned(), if persist { "yes" } else { "no" }.to_owned()];
                row.extend(VERBS.map(|(_, verb)| outcome(verb, state, persist)));
                rows.push(row);
            }
        }
        let headings: Vec<&str> = ["STATE", "PERSIST"].into_iter().chain(VERBS.map(|(name, _)| name)).collect();
        insta::assert_snapshot!(crate::output::table(&headings, &rows));
    }
}
