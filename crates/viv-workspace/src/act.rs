//! Accepting, rejecting, taking back.

use std::collections::{BTreeMap, BTreeSet};

use crate::apply::{self, FileOutcome, Outcome};
use crate::beneath::Found;
use crate::blobs::write_whole;
use crate::diff::{Chosen, FileChange, Selection, compare};
use crate::dropped::drop_hunks;
use crate::entry::{Manifest, Node, encode};
use crate::error::io;
use crate::operation::{Operation, Reason, Standing, Step, standing};
use crate::record::joint;
use crate::states::Mode;
use crate::store::{Session, Store};
use crate::{Error, ErrorKind, Result, TreePath, fault, hunks, view};

/// What [`Store::undo`] brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// What was not changed or was accepted.
    Base,
    /// What was there when the sandbox started, also where a change was accepted since.
    Start,
}

impl Store {
    /// Takes what was chosen. In live mode it is in the directory already: the base moves to it. In clone mode it is
    /// written into the directory, where that has what the base has; hunks where that has not changed the same lines.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Damaged`], and [`ErrorKind::Io`] of the store. What cannot be done to
    /// a file is its outcome, and keeps no other from being done.
    pub fn accept(&self, id: &str, selection: &Selection) -> Result<Outcome> {
        let mut session = self.session()?;
        let about = session.about(id)?;
        let base = session.manifest(id, "base")?;
        let result = match about.mode {
            Mode::Live => None,
            Mode::Clone => Some(session.manifest(id, "result")?),
        };
        let mut operation = session.operation(id, Reason::Accept);
        let mut outcomes = Outcomes::default();
        for (file, chosen) in &selection.0 {
            let stale = file.parts().iter().any(|(path, old, new)| {
                base.node(path) != old.as_ref()
                    || result.as_ref().is_some_and(|result| result.node(path) != new.as_ref())
            });
            if stale {
                outcomes.is(file, FileOutcome::Stale);
                continue;
            }
            let parts = session.parts(file, chosen)?;
            match about.mode {
                Mode::Live => {
                    operation.base.extend(parts);
                    outcomes.is(file, FileOutcome::Done);
                }
                Mode::Clone => session.plan_accept(file, chosen, parts, &mut operation, &mut outcomes)?,
            }
        }
        session.perform(operation, outcomes)
    }

    /// Drops what was chosen. In live mode the directory gets what the base has; in clone mode it is no longer shown,
    /// until the sandbox changes it again: a whole file until anything of it is another, a hunk until its lines or
    /// those next to them are.
    ///
    /// # Errors
    /// As [`Store::accept`].
    pub fn reject(&self, id: &str, selection: &Selection) -> Result<Outcome> {
        let mut session = self.session()?;
        let about = session.about(id)?;
        let base = session.manifest(id, "base")?;
        match about.mode {
            Mode::Live => {
                let mut operation = session.operation(id, Reason::Reject);
                let mut outcomes = Outcomes::default();
                for (file, chosen) in &selection.0 {
                    if is_stale(file, chosen, &base, None) {
                        outcomes.is(file, FileOutcome::Stale);
                        continue;
                    }
                    let steps = session.steps_back(file, chosen)?;
                    session.plan_steps(file, steps, &mut operation, &mut outcomes)?;
                }
                session.perform(operation, outcomes)
            }
            Mode::Clone => session.drop_changes(id, &base, selection),
        }
    }

    /// Brings back what was before. In live mode the directory gets the files of the base, or of the start; what it
    /// has instead can be brought back by [`Store::redo`]. In clone mode the last acceptance is taken back, where the
    /// directory still has what that wrote; calling again takes back the one before.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is nothing to take back in clone mode, and as [`Store::accept`].
    pub fn undo(&self, id: &str, to: To) -> Result<Outcome> {
        let mut session = self.session()?;
        let about = session.about(id)?;
        match about.mode {
            Mode::Live => {
                let base = session.manifest(id, "base")?;
                let wanted = match to {
                    To::Base => base.clone(),
                    To::Start => session.manifest(id, "start")?,
                };
                let (now, _) = session.record_live(&about, &base)?;
                let mut operation = session.operation(id, Reason::Undo);
                let mut outcomes = Outcomes::default();
                for file in compare(&wanted, &now) {
                    let steps = file.parts().into_iter().map(|(path, old, new)| Step { path, before: new, after: old });
                    session.plan_steps(&file, steps.collect(), &mut operation, &mut outcomes)?;
                }
                let moved = compare(&base, &wanted).into_iter();
                operation.base =
                    moved.map(|file| Step { path: file.path, before: file.old, after: file.new }).collect();
                session.perform(operation, outcomes)
            }
            Mode::Clone => session.take_back(id, &[Reason::Accept], Reason::Undo),
        }
    }

    /// Takes back the last [`Store::undo`], or in live mode the last [`Store::reject`] if that was later, where the
    /// directory still has what that wrote.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none, and as [`Store::accept`].
    pub fn redo(&self, id: &str) -> Result<Outcome> {
        let mut session = self.session()?;
        let mode = session.about(id)?.mode;
        let reason = if mode == Mode::Clone { Reason::Accept } else { Reason::Redo };
        session.take_back(id, &[Reason::Undo, Reason::Reject], reason)
    }
}

/// Whether what is to be rejected has become another change. Hunks are of two texts that are kept, so for them the
/// base may have moved, by others of the file that were accepted.
fn is_stale(file: &FileChange, chosen: &Chosen, base: &Manifest, result: Option<&Manifest>) -> bool {
    file.parts().iter().any(|(path, old, new)| {
        (*chosen == Chosen::Whole && base.node(path) != old.as_ref())
            || result.is_some_and(|result| result.node(path) != new.as_ref())
    })
}

/// Outcomes of changes, each of which may be steps at several paths.
#[derive(Default)]
struct Outcomes {
    known: BTreeMap<TreePath, FileOutcome>,
    /// The change that a step belongs to.
    of_step: BTreeMap<TreePath, TreePath>,
}

impl Outcomes {
    fn is(&mut self, file: &FileChange, outcome: FileOutcome) {
        self.known.insert(file.path.clone(), outcome);
    }
}

impl Session {
    fn operation(&self, id: &str, reason: Reason) -> Operation {
        let mut bytes = [0; 8];
        // It need not be a secret, only another one than before; without it the time is.
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
        if filled < bytes.len() {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            bytes = now.as_nanos().to_le_bytes()[..8].try_into().unwrap_or_default();
        }
        let token = hex::encode(bytes);
        Operation { token, id: id.to_owned(), reason, steps: Vec::new(), base: Vec::new(), takes_back: None }
    }

    /// What a choice means for the base: each path with what it has and what it is to have.
    fn parts(&mut self, file: &FileChange, chosen: &Chosen) -> Result<Vec<Step>> {
        match chosen {
            Chosen::Whole => {
                Ok(file.parts().into_iter().map(|(path, before, after)| Step { path, before, after }).collect())
            }
            Chosen::Hunks(numbers) => {
                let (text, mode) = self.text(file)?;
                let after = self.keep(&text.with(numbers), mode)?;
                Ok(vec![Step { path: file.path.clone(), before: file.old.clone(), after: Some(after) }])
            }
        }
    }

    /// The texts of a change that has hunks, and the permissions of the old one.
    fn text(&mut self, file: &FileChange) -> Result<(hunks::TextDiff, u32)> {
        match (view::view(&mut self.blobs, file)?, &file.old) {
            (view::View::Text(text), Some(Node::File { mode, .. })) if file.has_hunks() => Ok((text, *mode)),
            _ => Err(Error::new(ErrorKind::BadChange, format!("{} cannot be taken by hunks", file.path))),
        }
    }

    /// In live mode, what rejecting a choice does to the directory.
    fn steps_back(&mut self, file: &FileChange, chosen: &Chosen) -> Result<Vec<Step>> {
        let Chosen::Hunks(numbers) = chosen else {
            let parts = file.parts().into_iter();
            return Ok(parts.map(|(path, old, new)| Step { path, before: new, after: old }).collect());
        };
        let (text, _) = self.text(file)?;
        let kept: BTreeSet<usize> = (0..text.hunks.len()).filter(|number| !numbers.contains(number)).collect();
        let mode = file.new.as_ref().map_or(0o644, Node::git_mode) & 0o777;
        let after = self.keep(&text.with(&kept), mode)?;
        Ok(vec![Step { path: file.path.clone(), before: file.new.clone(), after: Some(after) }])
    }

    /// Adds steps for one change, all or none of them, by what the directory has.
    fn plan_steps(
        &mut self,
        file: &FileChange,
        steps: Vec<Step>,
        operation: &mut Operation,
        outcomes: &mut Outcomes,
    ) -> Result<()> {
        let mut needed = Vec::new();
        for step in steps {
            let found = match self.root.look(&step.path, &self.limits) {
                Ok(found) => found,
                Err(error) => {
                    outcomes.is(file, FileOutcome::Failed(error.to_string()));
                    return Ok(());
                }
            };
            match standing(&found, &step.before, &step.after, operation.reason) {
                Standing::After => {}
                Standing::Before if matches!(step.after, Some(Node::Large { .. })) => {
                    outcomes.is(file, FileOutcome::Failed("its content was not kept".to_owned()));
                    return Ok(());
                }
                Standing::Before => {
                    // To be able to take it back, what is there has to be kept.
                    if let Found::Node(Node::File { .. }, content) = &found {
                        self.blobs.put(content)?;
                    }
                    needed.push(step);
                }
                Standing::Neither => {
                    outcomes.is(file, FileOutcome::Diverged);
                    return Ok(());
                }
            }
        }
        if needed.is_empty() {
            outcomes.is(file, FileOutcome::AlreadyThere);
        }
        for step in needed {
            outcomes.of_step.insert(step.path.clone(), file.path.clone());
            operation.steps.push(step);
        }
        Ok(())
    }

    /// In clone mode, what accepting a choice does to the directory and to the base.
    fn plan_accept(
        &mut self,
        file: &FileChange,
        chosen: &Chosen,
        parts: Vec<Step>,
        operation: &mut Operation,
        outcomes: &mut Outcomes,
    ) -> Result<()> {
        let mut steps = parts.clone();
        if let Chosen::Hunks(numbers) = chosen {
            // The directory may have changed elsewhere in the file.
            let (text, _) = self.text(file)?;
            // One that cannot be read is told of when its steps are planned.
            if let Ok(Found::Node(now @ Node::File { mode, .. }, content)) = self.root.look(&file.path, &self.limits) {
                let Some(merged) = text.onto(&content, numbers) else {
                    outcomes.is(file, FileOutcome::Diverged);
                    return Ok(());
                };
                let after = self.keep(&merged, mode)?;
                steps = vec![Step { path: file.path.clone(), before: Some(now), after: Some(after) }];
            }
        }
        self.plan_steps(file, steps, operation, outcomes)?;
        if outcomes.known.get(&file.path).is_none_or(FileOutcome::is_done) {
            operation.base.extend(parts);
        }
        Ok(())
    }

    /// In clone mode: drops changes from the result, and remembers them in case they are told again.
    fn drop_changes(&mut self, id: &str, base: &Manifest, selection: &Selection) -> Result<Outcome> {
        let mut result = self.manifest(id, "result")?;
        let (mut rejected, mut dropped) = (self.rejected(id)?, self.dropped(id)?);
        let mut outcome = Outcome::default();
        for (file, chosen) in &selection.0 {
            let stale = is_stale(file, chosen, base, Some(&result));
            if stale {
                outcome.files.push((file.path.clone(), FileOutcome::Stale));
                continue;
            }
            match chosen {
                Chosen::Whole => {
                    for (path, old, new) in file.parts() {
                        result.set(&path, old);
                        rejected.insert(path, new);
                    }
                }
                Chosen::Hunks(_) => {
                    for step in self.steps_back(file, chosen)? {
                        let digest = |node: &Option<Node>| node.as_ref().and_then(Node::digest);
                        if let (Some(before), Some(after)) = (digest(&step.before), digest(&step.after)) {
                            drop_hunks(&mut dropped, &step.path, before, after);
                        }
                        result.set(&step.path, step.after);
                    }
                }
            }
            outcome.files.push((file.path.clone(), FileOutcome::Done));
        }
        self.blobs.commit()?;
        self.blobs.sync(dropped.values().flat_map(|dropped| [&dropped.reported, &dropped.shown]))?;
        fault::point();
        write_whole(&self.directory.join(self.state(id, "rejected")?), &encode(&rejected)?, true)?;
        fault::point();
        self.save_dropped(id, &dropped)?;
        fault::point();
        self.save(id, "result", &result)?;
        Ok(outcome)
    }

    /// Takes back the newest operation of one of these reasons.
    fn take_back(&mut self, id: &str, reasons: &[Reason], reason: Reason) -> Result<Outcome> {
        let operations: Vec<Operation> = self.load(self.state(id, "operations")?)?.unwrap_or_default();
        let Some(last) = operations.iter().rev().find(|operation| reasons.contains(&operation.reason)) else {
            return Err(Error::new(ErrorKind::NotFound, "there is nothing to take back"));
        };
        let token = self.operation(id, reason).token;
        let inverse = last.inverse(token, reason);
        let mut operation = Operation { steps: Vec::new(), ..inverse.clone() };
        let mut outcomes = Outcomes::default();
        for step in inverse.steps {
            let file = FileChange {
                path: step.path.clone(),
                from: None,
                similarity: 0,
                old: step.before.clone(),
                new: step.after.clone(),
            };
            self.plan_steps(&file, vec![step], &mut operation, &mut outcomes)?;
        }
        // What the directory refuses does not become the base.
        operation.base.retain(|step| outcomes.known.get(&step.path).is_none_or(FileOutcome::is_done));
        self.perform(operation, outcomes)
    }

    /// Does an operation: journal, directory, base, and a note of it.
    fn perform(&mut self, mut operation: Operation, outcomes: Outcomes) -> Result<Outcome> {
        operation.order();
        self.blobs.commit()?;
        self.blobs.sync(operation.digests())?;
        fault::point();
        write_whole(&self.directory.join("journal"), &encode(&operation)?, true)?;
        fault::point();
        let Outcomes { known, of_step } = outcomes;
        let done = self.complete(operation)?;
        let mut parts: BTreeMap<TreePath, Vec<FileOutcome>> = BTreeMap::new();
        for (path, outcome) in done.files {
            let file = of_step.get(&path).cloned().unwrap_or(path);
            parts.entry(file).or_default().push(outcome);
        }
        let done = parts.into_iter().map(|(path, outcomes)| (path, joint(outcomes)));
        let files: BTreeMap<TreePath, FileOutcome> = known.into_iter().chain(done).collect();
        Ok(Outcome { files: files.into_iter().collect() })
    }

    /// Does what the journal has, from whatever point it was left at.
    pub(crate) fn complete(&mut self, mut operation: Operation) -> Result<Outcome> {
        let outcomes = apply::steps(&self.root, &mut self.blobs, &operation, &self.limits);
        // Before the journal goes: it may be on another disk than what it tells of.
        apply::sync(&self.root, &operation);
        let failed: BTreeSet<TreePath> = operation
            .steps
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| !outcome.is_done())
            .map(|(step, _)| step.path.clone())
            .collect();
        let files = operation.steps.iter().map(|step| step.path.clone()).zip(outcomes).collect();
        operation.steps.retain(|step| !failed.contains(&step.path));
        operation.base.retain(|step| !failed.contains(&step.path));
        fault::point();
        // A state that was removed meanwhile needs no more.
        if self.about(&operation.id).is_ok() {
            if !operation.base.is_empty() {
                let mut base = self.manifest(&operation.id, "base")?;
                operation.base.iter().for_each(|step| base.set(&step.path, step.after.clone()));
                self.save(&operation.id, "base", &base)?;
            }
            fault::point();
            self.note(&operation)?;
            fault::point();
        }
        let journal = self.directory.join("journal");
        std::fs::remove_file(&journal).map_err(io(format!("{} cannot be removed", journal.display())))?;
        Ok(Outcome { files })
    }

    /// Remembers an operation, so that it can be taken back; one that takes another back stands in its place.
    fn note(&self, operation: &Operation) -> Result<()> {
        let path = self.state(&operation.id, "operations")?;
        let mut operations: Vec<Operation> = self.load(&path)?.unwrap_or_default();
        operations
            .retain(|other| other.token != operation.token && Some(&other.token) != operation.takes_back.as_ref());
        if !operation.steps.is_empty() {
            operations.push(operation.clone());
        }
        let surplus = operations.len().saturating_sub(self.limits.operations);
        operations.drain(..surplus);
        write_whole(&self.directory.join(path), &encode(&operations)?, true)
    }
}
