//! Random sequences of commands, deaths and accidents: what is seen is what a model says.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["a", "ab", "b"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Create,
    Up,
    Stop,
    Kill,
    Pause,
    Resume,
    Remove,
    Rename(usize),
    Wait,
}

#[derive(Debug, Clone, Copy)]
enum Move {
    /// A command on one of the names, by a client that dies at a step if it gets there.
    Command(usize, Command, Option<Step>),
    /// One's machine ends by itself, in this way; `None` is without a word.
    Accident(usize, Option<EndReason>),
    Reboot,
    /// Monitors notice whatever has happened to their clients.
    Notice,
}

/// What the model knows of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Rests {
        failed: bool,
    },
    Runs,
    Stands,
    /// Its client died before it was settled, which its monitor has not noticed.
    Dies,
}

#[derive(Debug, Default)]
struct Model {
    known: BTreeMap<&'static str, Known>,
}

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused,
    Absent,
    Taken,
    Died,
}

impl Model {
    fn notice(&mut self) {
        for known in self.known.values_mut().filter(|known| **known == Known::Dies) {
            *known = Known::Rests { failed: false };
        }
    }

    fn command(&mut self, name: &'static str, command: Command, death: Option<Step>) -> Outcome {
        use Known::{Dies, Rests, Runs, Stands};
        let dies_at = |steps: &[Step]| death.filter(|step| steps.contains(step));
        if command == Command::Create {
            self.known.entry(name).or_insert(Rests { failed: false });
            return Outcome::Done;
        }
        let Some(mut known) = self.known.get(name).copied() else {
            return match command {
                Command::Rename(to) if NAMES[to] == name => Outcome::Absent,
                _ => Outcome::Absent,
            };
        };
        let waits = matches!(command, Command::Up | Command::Stop | Command::Wait);
        if known == Dies && waits {
            self.notice();
            known = Rests { failed: false };
        }
        let (next, outcome) = match (command, known) {
            (Command::Up, Rests { .. }) => {
                let steps = [Step::Claimed, Step::Prepared, Step::Begun, Step::Noted, Step::Settled];
                match dies_at(&steps) {
                    None => (Runs, Outcome::Done),
                    Some(Step::Settled) => (Runs, Outcome::Died),
                    Some(Step::Begun | Step::Noted) => (Dies, Outcome::Died),
                    Some(_) => (Rests { failed: false }, Outcome::Died),
                }
            }
            (Command::Up, Runs) => (Runs, Outcome::Done),
            (Command::Up, _) => (known, Outcome::Refused),
            (Command::Stop | Command::Kill, Rests { .. }) => (known, Outcome::Done),
            (Command::Stop | Command::Kill, _) => match dies_at(&[Step::Ending, Step::Ended]) {
                None => (Rests { failed: false }, Outcome::Done),
                Some(Step::Ending) => (known, Outcome::Died),
                Some(_) => (Rests { failed: false }, Outcome::Died),
            },
            (Command::Pause, Runs) => (Stands, Outcome::Done),
            (Command::Pause, Stands) => (Stands, Outcome::Done),
            (Command::Resume, Stands) => (Runs, Outcome::Done),
            (Command::Resume, Runs) => (Runs, Outcome::Done),
            (Command::Pause | Command::Resume, _) => (known, Outcome::Refused),
            (Command::Remove, Rests { .. }) => {
                self.known.remove(name);
                return if dies_at(&[Step::Removed]).is_some() { Outcome::Died } else { Outcome::Done };
            }
            (Command::Rename(to), Rests { .. }) => {
                if self.known.contains_key(NAMES[to]) {
                    return Outcome::Taken;
                }
                self.known.remove(name);
                self.known.insert(NAMES[to], known);
                return if dies_at(&[Step::Removed]).is_some() { Outcome::Died } else { Outcome::Done };
            }
            (Command::Remove | Command::Rename(_), _) => (known, Outcome::Refused),
            // A client that waits for what runs would wait for ever: it is not asked to.
            (Command::Wait, _) => (known, Outcome::Done),
            (Command::Create, _) => unreachable!("see above"),
        };
        self.known.insert(name, next);
        let switches = matches!(command, Command::Pause | Command::Resume) && known != next;
        if switches && dies_at(&[Step::Switched]).is_some() {
            return Outcome::Died;
        }
        outcome
    }

    fn state(known: Known) -> State {
        match known {
            Known::Rests { failed: false } => State::Stopped,
            Known::Rests { failed: true } => State::Failed,
            Known::Runs => State::Running,
            Known::Stands => State::Paused,
            Known::Dies => State::Stopping,
        }
    }
}

async fn carry_out(root: &Path, name: &'static str, command: Command, death: Option<Step>) -> Outcome {
    let mut life = client(root);
    life.machines.die_at = death.map(|step| (step, Death::Pretended));
    let done = match command {
        Command::Create => life.create(&NewNamed { workspace: "/w".into(), ..new(name, false) }).map(drop),
        Command::Up => life.up(name, false).await.map(drop),
        Command::Stop => life.stop(name).await.map(drop),
        Command::Kill => life.kill(name).await.map(drop),
        Command::Pause => life.pause(name).await.map(drop),
        Command::Resume => life.resume(name).await.map(drop),
        Command::Remove => life.remove(name).await,
        Command::Rename(to) => life.rename(name, NAMES[to]).await.map(drop),
        Command::Wait => life.wait(name).await.map(drop),
    };
    match done {
        Ok(()) => Outcome::Done,
        Err(error) => match error.kind() {
            ErrorKind::WrongState => Outcome::Refused,
            ErrorKind::NotFound => Outcome::Absent,
            ErrorKind::Ambiguous => Outcome::Taken,
            ErrorKind::Other(_) if life.machines.is_dead.get() => Outcome::Died,
            other => panic!("{other:?}: {error}"),
        },
    }
}

/// Whether a command on a sandbox would wait for an end that nobody brings about.
fn waits_for_ever(model: &Model, name: &str, command: Command) -> bool {
    command == Command::Wait && matches!(model.known.get(name), Some(Known::Runs | Known::Stands))
}

async fn play(moves: &[Move]) {
    let root = tempfile::tempdir().unwrap();
    let observer = client(root.path());
    let mut model = Model::default();
    for step in moves {
        match *step {
            Move::Command(index, command, death) => {
                let name = NAMES[index];
                if waits_for_ever(&model, name, command) {
                    continue;
                }
                let expected = model.command(name, command, death);
                assert_eq!(carry_out(root.path(), name, command, death).await, expected, "{step:?} of {moves:?}");
            }
            Move::Accident(index, reason) => {
                let known = model.known.get_mut(NAMES[index]);
                let Some(known) = known.filter(|known| matches!(known, Known::Runs | Known::Stands)) else { continue };
                *known = Known::Rests { failed: !matches!(reason, Some(EndReason::PoweredOff)) };
                let id = observer.find_exactly(NAMES[index]).id.unwrap();
                observer.machines.end(&id, reason);
            }
            Move::Reboot => {
                observer.machines.reboot();
                model.notice();
                for known in model.known.values_mut().filter(|known| !matches!(known, Known::Rests { .. })) {
                    *known = Known::Rests { failed: false };
                }
            }
            Move::Notice => {
                observer.machines.settle_down();
                model.notice();
            }
        }
        let seen: Vec<(String, State)> =
            observer.list().unwrap().into_iter().map(|named| (named.name, named.state)).collect();
        let expected: Vec<(String, State)> =
            model.known.iter().map(|(name, known)| ((*name).to_owned(), Model::state(*known))).collect();
        assert_eq!(seen, expected, "after {step:?} of {moves:?}");
        let alive = model.known.values().filter(|known| !matches!(known, Known::Rests { .. })).count();
        assert_eq!(observer.machines.machines().len(), alive, "after {step:?} of {moves:?}");
    }
}

impl Life<Fake> {
    fn find_exactly(&self, name: &str) -> Named {
        self.named(name).unwrap()
    }
}

fn a_move() -> impl Strategy<Value = Move> {
    let command = prop_oneof![
        3 => Just(Command::Create),
        6 => Just(Command::Up),
        3 => Just(Command::Stop),
        2 => Just(Command::Kill),
        2 => Just(Command::Pause),
        2 => Just(Command::Resume),
        1 => Just(Command::Remove),
        1 => (0..NAMES.len()).prop_map(Command::Rename),
        1 => Just(Command::Wait),
    ];
    let death = prop_oneof![2 => Just(None), 1 => proptest::sample::select(faults::STEPS.to_vec()).prop_map(Some)];
    let ends = vec![None, Some(EndReason::Failed), Some(EndReason::PoweredOff)];
    prop_oneof![
        12 => (0..NAMES.len(), command, death).prop_map(|(name, command, death)| Move::Command(name, command, death)),
        2 => (0..NAMES.len(), proptest::sample::select(ends)).prop_map(|(name, end)| Move::Accident(name, end)),
        1 => Just(Move::Reboot),
        1 => Just(Move::Notice),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_model_and_the_system_agree(moves in proptest::collection::vec(a_move(), 1..40)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(&moves));
    }
}
