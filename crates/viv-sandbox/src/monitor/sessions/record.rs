//! What sessions do, told to the timeline of their sandbox.

use std::collections::HashMap;

use viv_audit::{Journal, Program, ProgramEnd, ProgramRequest};

use crate::{Recorder, SessionEvent, SessionInfo};

/// Tells a timeline of sessions, each of which is a program to it.
pub(in crate::monitor) struct SessionRecorder {
    journal: Journal,
    programs: HashMap<u32, Program>,
}

impl SessionRecorder {
    pub(in crate::monitor) fn new(journal: Journal) -> Self {
        Self { journal, programs: HashMap::new() }
    }
}

impl Recorder for SessionRecorder {
    fn record(&mut self, number: u32, _: u64, event: SessionEvent<'_>) {
        match event {
            SessionEvent::Began(session) => {
                self.programs.insert(number, self.journal.program(request(session)));
            }
            SessionEvent::Output(bytes) => {
                if let Some(program) = self.programs.get_mut(&number) {
                    program.output(bytes);
                }
            }
            SessionEvent::Resized(size) => {
                if let Some(program) = self.programs.get_mut(&number) {
                    program.resize(size.columns, size.rows);
                }
            }
            SessionEvent::Ended(end) => {
                if let Some(program) = self.programs.remove(&number) {
                    program.ended(match &end.report {
                        Some(report) => ProgramEnd::Exited { code: report.code, signal: report.signal },
                        None => ProgramEnd::Unseen,
                    });
                }
            }
        }
    }
}

fn request(session: &SessionInfo) -> ProgramRequest {
    ProgramRequest {
        session: Some(session.name.clone().unwrap_or_else(|| session.number.to_string())),
        argv: session.command.clone(),
        user: session.user.clone(),
        cwd: session.cwd.clone(),
        environment: session.environment.clone(),
        terminal: Some((session.size.columns, session.size.rows)),
    }
}
