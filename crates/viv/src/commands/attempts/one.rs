//! One attempt, from its turn to a sandbox that is gone.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use viv_proto::message::{Exec, ExitReport};
use viv_sandbox::{Event, Sandbox, SandboxSpec, WorkspaceCopy};

use super::Run;
use super::ending::Ending;
use crate::attempts::{Attempt, Check, Ended, State};
use crate::commands::{Limits, clone, conclude, launch, run};
use crate::error::{Error, ErrorKind, Failure};
use crate::output::{JsonEvent, Part, Printer, milliseconds};
use crate::terminal::{End, SessionOptions, Signals};
use crate::timing::Clock;

/// How long a program may take to end once it is interrupted. Two interrupts within five seconds end one that does not
/// ([`crate::terminal::Session`]).
const PATIENCE: Duration = Duration::from_secs(3);

/// An attempt while it is made.
pub struct One<'a> {
    pub run: &'a Run<'a>,
    /// Its sandbox.
    pub spec: SandboxSpec,
    pub name: &'a str,
    pub part: &'a Part,
    /// For what is said of it.
    pub printer: Printer,
    pub ending: Ending,
}

impl One<'_> {
    /// Makes the attempt. Whatever goes wrong is part of what comes of it.
    pub async fn perform(&self) -> Attempt {
        let began = Instant::now();
        let mut attempt = Attempt::begin(self.name, Some(&self.spec.id), self.run.check().is_some());
        let is_over = tokio::select! {
            () = self.stages(&mut attempt) => true,
            // Dropping them ends whatever was started.
            () = self.ending.at_once() => false,
        };
        if !is_over && attempt.ended == Ended::NotStarted {
            attempt.ended = Ended::Interrupted;
        }
        attempt.milliseconds.total = milliseconds(began.elapsed());
        attempt
    }

    async fn stages(&self, attempt: &mut Attempt) {
        let began = Instant::now();
        self.tell(State::Starting);
        let started = tokio::select! {
            started = self.start() => started,
            () = self.ending.interrupted() => {
                attempt.ended = Ended::Interrupted;
                return;
            }
        };
        attempt.milliseconds.start = milliseconds(began.elapsed());
        let (mut sandbox, copy) = match started {
            Ok(started) => started,
            Err(failure) => {
                attempt.error = failure.report;
                return;
            }
        };
        let mut settled = false;
        if let Err(failure) = self.work(&mut sandbox, &copy, attempt, &mut settled).await {
            attempt.error = failure.report;
        }
        copy.forget();
        if attempt.ended == Ended::Lost {
            // There is little left to stop, and what a killed monitor left behind is removed by a look at it.
            drop(sandbox);
            let _ = viv_sandbox::list(self.run.paths);
            return;
        }
        let stopped = if settled { sandbox.end().await } else { sandbox.stop().await };
        if let (Err(error), None) = (stopped, &attempt.error) {
            attempt.error = Failure::from(error).report;
        }
    }

    /// Starts the sandbox and makes its copy, up to the moment when its program can run.
    async fn start(&self) -> Result<(Sandbox, WorkspaceCopy), Failure> {
        let launch = self.run.launch;
        let began = Instant::now();
        let request = launch.another(&self.spec)?;
        let on_event = |event: &Event| launch::say(event, &self.spec.id, began.elapsed(), &self.printer);
        let mut sandbox = viv_sandbox::start(request, on_event).await?;
        launch::hand_over(&sandbox, &launch.secrets, false, &self.printer).await?;
        let repository = launch.repository.clone();
        let copy = clone::begin_recorded(&sandbox, &self.spec, repository, self.run.paths, &self.printer).await?;
        let setup = &launch.resolved.setup;
        // Who interrupts drops all of this.
        let (_nobody, mut signals) = Signals::by_hand();
        match run::set_up(&mut sandbox, setup, &launch.resolved.exec, &mut signals, &self.printer).await? {
            None => Ok((sandbox, copy)),
            Some(end) => {
                let code = conclude(&end, &self.printer, self.limits())?;
                Err(Error::new(ErrorKind::CommandFailed, format!("what comes before it ended with exit code {code}"))
                    .into())
            }
        }
    }

    /// Runs the command, takes what it changed, and checks that. `settled` is whether the guest has nothing left to
    /// write.
    async fn work(
        &self,
        sandbox: &mut Sandbox,
        copy: &WorkspaceCopy,
        attempt: &mut Attempt,
        settled: &mut bool,
    ) -> Result<(), Failure> {
        let exec = &self.run.launch.resolved.exec;
        self.tell(State::Running);
        let began = Instant::now();
        let end = self.program(sandbox, exec).await;
        attempt.milliseconds.command = milliseconds(began.elapsed());
        let end = end?;
        let concluded = conclude(&end, &self.printer, self.limits());
        *settled = is_settled(&end);
        attempt.ended = match (&end, &concluded) {
            (_, Err(_)) => Ended::Lost,
            (_, Ok(_)) if self.ending.is_near() => Ended::Interrupted,
            (End::TimedOut, Ok(_)) => Ended::TimedOut,
            (End::Exited(ExitReport { signal, .. }), Ok(code)) => Ended::Exited { exit_code: *code, signal: *signal },
            (_, Ok(_)) => Ended::Interrupted,
        };
        concluded?;
        // Before the check, whose own traces are not what the command did.
        self.tell(State::Taking);
        let (workspace, key) = (&self.spec.workspace, self.name);
        clone::take(copy, workspace, key, self.run.paths, &self.printer).await?;
        let Some(check) = self.run.check() else { return Ok(()) };
        if self.ending.is_near() {
            return Ok(());
        }
        self.tell(State::Checking);
        let began = Instant::now();
        let argv = ["sh", "-c", check].map(str::to_owned);
        let end = self.program(sandbox, &launch::aside(exec, &argv)).await;
        attempt.milliseconds.check = milliseconds(began.elapsed());
        let end = end?;
        *settled = is_settled(&end);
        let code = conclude(&end, &self.printer, self.limits())?;
        attempt.check = Some(match (end, code) {
            _ if self.ending.is_near() => Check::NotRun,
            (End::TimedOut, _) => Check::TimedOut,
            (_, 0) => Check::Passed,
            (_, exit_code) => Check::Failed { exit_code },
        });
        Ok(())
    }

    /// Runs a program to its end, which comes soon once the user wants it.
    async fn program(&self, sandbox: &mut Sandbox, exec: &Exec) -> Result<End<Failure>, Failure> {
        let (press, mut signals) = Signals::by_hand();
        let pressing = async {
            self.ending.interrupted().await;
            // As someone at a terminal would: it may have something to put in order. The other end lives as long.
            let _ = press.send(libc::SIGINT);
            tokio::time::sleep(PATIENCE).await;
            let _ = press.send(libc::SIGINT);
            std::future::pending::<Infallible>().await
        };
        let options = SessionOptions { terminal: false, timeout: self.run.launch.resolved.timeout, detach: None };
        let (input, mut clock) = (Box::new(std::io::empty()), Clock::start());
        tokio::select! {
            ended = run::run_program(sandbox, exec, input, options, &mut signals, &self.printer, &mut clock) => {
                ended.map(|(end, _)| end)
            }
            never = pressing => match never {},
        }
    }

    fn limits(&self) -> Limits {
        let timeout = self.run.launch.resolved.timeout;
        Limits { memory: self.spec.memory_mib << 20, disk: Some(self.spec.disk_bytes), timeout }
    }

    /// Tells how far it has come.
    fn tell(&self, state: State) {
        self.printer.event(&JsonEvent::Attempt { name: self.name, id: &self.spec.id, state });
        let (text, is_worth_a_line) = match state {
            State::Starting => ("starting", true),
            State::Running => ("running", true),
            State::Taking => ("keeping what it changed", false),
            State::Checking => ("checking", true),
            State::Ended => return,
        };
        self.part.state(text, true);
        if !self.part.is_drawn() && is_worth_a_line {
            self.printer.note(text);
        }
    }
}

fn is_settled(end: &End<Failure>) -> bool {
    matches!(end, End::Exited(report) if report.settled)
}
