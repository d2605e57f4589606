//! Recording: the base, what a directory is now, what a sandbox says it changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::apply::FileOutcome;
use crate::blobs::write_whole;
use crate::diff::compare;
use crate::dropped::AllDropped;
use crate::entry::{Digest, Manifest, Node, Stat, encode};
use crate::error::io as failed_to;
use crate::ignored::Rules;
use crate::operation::Operation;
use crate::states::{About, Mode, RUN, Sandbox};
use crate::store::{Session, Store, check_id};
use crate::walk::{self, Walked};
use crate::{Change, Error, ErrorKind, Notes, Result, TreePath, project};

/// What was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Files and links.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// What was left out.
    pub notes: Notes,
}

impl Recorded {
    fn of(manifest: &Manifest, began: Instant, notes: Notes) -> Self {
        let bytes = manifest.entries.values().map(|entry| entry.node.size()).sum();
        Self { files: manifest.entries.len(), bytes, took: began.elapsed(), notes }
    }
}

impl Store {
    /// Records the directory as it is, before a guest may change it: the files that git would list and those that
    /// it tracks, with their contents. One of the same id is replaced. The oldest states over the limit go.
    ///
    /// Files that are as an earlier state has them are not read again.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if there is more than [`crate::Limits`] has; [`ErrorKind::Io`].
    pub fn record_base(&self, sandbox: &Sandbox) -> Result<Recorded> {
        self.record_bases(std::slice::from_ref(sandbox), None)
    }

    /// The same, once for several sandboxes that all begin with what the directory has now. They are known as those of
    /// one `run`, a text that no other has ([`crate::Found::run`]).
    ///
    /// # Errors
    /// As [`Store::record_base`]; [`ErrorKind::TooLarge`] for more sandboxes than states are kept.
    pub fn record_bases(&self, sandboxes: &[Sandbox], run: Option<&str>) -> Result<Recorded> {
        self.record_bases_with(sandboxes, run, |_, _| Ok(()))
    }

    /// The same for copies that were made with less than the directory has: of what is there, with those files alone
    /// that `is_as_here` is true of, and with others from elsewhere.
    ///
    /// # Errors
    /// As [`Store::record_bases`], and those of `others`.
    pub fn record_bases_of_copies<R: Read>(
        &self,
        sandboxes: &[Sandbox],
        run: Option<&str>,
        is_as_here: impl Fn(&TreePath) -> bool,
        others: impl IntoIterator<Item = io::Result<Change<R>>>,
    ) -> Result<Recorded> {
        self.record_bases_with(sandboxes, run, |session, base| {
            let here = base.clone();
            base.entries.retain(|path, _| is_as_here(path));
            let (mut notes, mut total) = (Notes::default(), 0);
            for other in others {
                let other = other.map_err(failed_to("what the copy was made from cannot be read"))?;
                session.take(other, &here, base, &mut notes, &mut total)?;
            }
            session.blobs.commit()
        })
    }

    fn record_bases_with(
        &self,
        sandboxes: &[Sandbox],
        run: Option<&str>,
        amend: impl FnOnce(&mut Session, &mut Manifest) -> Result<()>,
    ) -> Result<Recorded> {
        sandboxes.iter().try_for_each(|sandbox| check_id(&sandbox.id))?;
        if sandboxes.len() > self.limits.states {
            let most = self.limits.states;
            return Err(Error::new(ErrorKind::TooLarge, format!("the states of {most} sandboxes are kept, no more")));
        }
        let began = Instant::now();
        let mut session = self.session()?;
        let (tracked, outer) = project::read(&self.workspace);
        let mut walked = walk::walk(&session.root, &outer, &tracked, &session.limits)?;
        let states = session.states()?;
        let earlier = states.first().map(|newest| session.earlier(&newest.id)).transpose()?.unwrap_or_default();
        let mut base = session.read(&mut walked, &earlier.iter().collect::<Vec<_>>())?;
        amend(&mut session, &mut base)?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let bytes = encode(&base)?;
        for sandbox in sandboxes {
            let about = About {
                id: sandbox.id.clone(),
                name: sandbox.name.clone(),
                mode: sandbox.mode,
                created_unix_ms: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
                outer: outer.clone(),
            };
            let directory = session.directory.join("states").join(&sandbox.id);
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::create_dir(&directory).map_err(failed_to(format!("{} cannot be made", directory.display())))?;
            write_whole(&directory.join("base"), &bytes, false)?;
            write_whole(&directory.join("start"), &bytes, false)?;
            if let Some(run) = run {
                write_whole(&directory.join(RUN), run.as_bytes(), false)?;
            }
            // The last: without it there is no state.
            write_whole(&directory.join("about"), &encode(&about)?, false)?;
        }
        let new: BTreeSet<&str> = sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect();
        session.prune(&states, &new)?;
        Ok(Recorded::of(&base, began, walked.notes))
    }

    /// Whether the directory still is what a sandbox's base has. Files that are as they were are not read.
    ///
    /// # Errors
    /// As [`Store::record_base`], and [`ErrorKind::NotFound`].
    pub fn is_at_base(&self, id: &str) -> Result<bool> {
        let mut session = self.session()?;
        let (about, base) = (session.about(id)?, session.manifest(id, "base")?);
        let (tracked, _) = project::read(&self.workspace);
        let mut walked = walk::walk(&session.root, &about.outer, &tracked, &session.limits)?;
        let now = session.read(&mut walked, &[&base])?;
        Ok(compare(&base, &now).is_empty())
    }

    /// Records what the directory is now, for a sandbox in live mode. [`Store::diff`] does it by itself.
    ///
    /// # Errors
    /// As [`Store::record_base`], and [`ErrorKind::NotFound`].
    pub fn record_live(&self, id: &str) -> Result<Recorded> {
        let mut session = self.session()?;
        let (about, base) = (session.about(id)?, session.manifest(id, "base")?);
        session.record_live(&about, &base).map(|(_, recorded)| recorded)
    }

    /// Records what a sandbox in clone mode says it changed: all of it since its base was recorded, deletions first.
    /// What it said before is forgotten, but for what was rejected of it ([`Store::reject`]).
    ///
    /// A guest's permissions tell only whether a file may be executed: an existing file keeps those of the base
    /// unless that differs, a new one has 644 or 755. A file over the limit is not taken, and noted. A path at
    /// which there is a file has nothing beneath it; what is said later wins.
    ///
    /// # Errors
    /// Those of `changes`; [`ErrorKind::TooLarge`] if there is more than [`crate::Limits`] has;
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Io`].
    pub fn record_changes<R: Read>(
        &self,
        id: &str,
        changes: impl IntoIterator<Item = io::Result<Change<R>>>,
    ) -> Result<Recorded> {
        let began = Instant::now();
        let mut session = self.session()?;
        session.about(id)?;
        let base = session.manifest(id, "start")?;
        let (mut result, mut notes) = (base.clone(), Notes::default());
        let mut total: u64 = 0;
        for change in changes {
            let change = change.map_err(failed_to("what the sandbox changed cannot be read"))?;
            session.take(change, &base, &mut result, &mut notes, &mut total)?;
        }
        notes.sort();
        session.blobs.commit()?;
        session.leave_out(id, &mut result)?;
        let path = session.directory.join(session.state(id, "notes")?);
        write_whole(&path, &encode(&notes)?, false)?;
        session.save(id, "result", &result)?;
        Ok(Recorded::of(&result, began, notes))
    }
}

impl Session {
    /// Manifests of a state whose contents need not be read again.
    fn earlier(&self, id: &str) -> Result<Vec<Manifest>> {
        let mut whole = Vec::new();
        for which in ["result", "base"] {
            whole.extend(self.load_whole(self.state(id, which)?)?);
        }
        Ok(whole)
    }

    fn read(&mut self, walked: &mut Walked, earlier: &[&Manifest]) -> Result<Manifest> {
        let manifest = walk::read(&self.root, walked, earlier, &mut self.blobs, &self.limits)?;
        self.blobs.commit()?;
        Ok(manifest)
    }

    /// Keeps a content that was put together here.
    pub(crate) fn keep(&mut self, content: &[u8], mode: u32) -> Result<Node> {
        let digest = self.blobs.put(content)?;
        Ok(Node::File { digest, size: content.len() as u64, mode })
    }

    pub(crate) fn save(&self, id: &str, which: &str, manifest: &Manifest) -> Result<()> {
        write_whole(&self.directory.join(self.state(id, which)?), &encode(manifest)?, true)
    }

    pub(crate) fn record_live(&mut self, about: &About, base: &Manifest) -> Result<(Manifest, Recorded)> {
        let began = Instant::now();
        if about.mode != Mode::Live {
            return Err(Error::new(ErrorKind::BadChange, format!("sandbox {} works on a copy", about.id)));
        }
        let known: BTreeSet<TreePath> = base.entries.keys().cloned().collect();
        let mut walked = walk::walk(&self.root, &about.outer, &known, &self.limits)?;
        let earlier: Option<Manifest> = self.load_whole(self.state(&about.id, "result")?)?;
        let earlier: Vec<&Manifest> = earlier.iter().chain([base]).collect();
        let mut result = self.read(&mut walked, &earlier)?;
        // What cannot be looked at is neither as it was nor gone.
        for directory in &walked.closed {
            for (path, entry) in base.beneath(directory) {
                let (size, mode) = (entry.node.size(), entry.node.git_mode() & 0o777);
                result.set(path, Some(Node::Large { size, mode, stat: Stat::UNKNOWN }));
            }
        }
        self.newly_ignored(&mut walked, about, base, &result);
        let path = self.directory.join(self.state(&about.id, "result")?);
        write_whole(&path, &encode(&result)?, false)?;
        let recorded = Recorded::of(&result, began, walked.notes);
        Ok((result, recorded))
    }

    /// Notes what was left out by rules that came later than the base.
    fn newly_ignored(&mut self, walked: &mut Walked, about: &About, base: &Manifest, result: &Manifest) {
        let is_rules = |path: &TreePath| path.name() == b".gitignore";
        let of = |manifest: &Manifest| -> Vec<(TreePath, Node)> {
            let rules = manifest.entries.iter().filter(|(path, _)| is_rules(path));
            rules.map(|(path, entry)| (path.clone(), entry.node.clone())).collect()
        };
        let before = of(base);
        if before == of(result) {
            return;
        }
        let mut cache: HashMap<Vec<u8>, Option<Rules>> = HashMap::new();
        cache.insert(Vec::new(), Some(self.rules_of(b"", Rules::outer(&about.outer), base)));
        for (path, is_directory) in std::mem::take(&mut walked.ignored) {
            let parent = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash);
            let rules = self.base_rules(&path[..parent], base, &mut cache);
            if rules.is_some_and(|rules| !rules.ignores(&path, is_directory)) {
                walked.notes.newly_ignored(&path, is_directory);
            }
        }
    }

    /// The base's rules for a directory; none if they ignore it.
    fn base_rules(
        &mut self,
        directory: &[u8],
        base: &Manifest,
        cache: &mut HashMap<Vec<u8>, Option<Rules>>,
    ) -> Option<Rules> {
        if let Some(known) = cache.get(directory) {
            return known.clone();
        }
        let parent = directory.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash);
        let above = self.base_rules(&directory[..parent], base, cache);
        let rules =
            above.filter(|above| !above.ignores(directory, true)).map(|above| self.rules_of(directory, above, base));
        cache.insert(directory.to_vec(), rules.clone());
        rules
    }

    fn rules_of(&mut self, directory: &[u8], above: Rules, base: &Manifest) -> Rules {
        let file = if directory.is_empty() { b".gitignore".to_vec() } else { [directory, b"/.gitignore"].concat() };
        let digest = base.entries.get(file.as_slice()).and_then(|entry| entry.node.digest());
        match digest.and_then(|digest| self.blobs.get(&digest).ok()) {
            Some(text) => above.with(directory, &text),
            None => above,
        }
    }

    /// Takes one change of a sandbox's.
    fn take<R: Read>(
        &mut self,
        change: Change<R>,
        base: &Manifest,
        result: &mut Manifest,
        notes: &mut Notes,
        total: &mut u64,
    ) -> Result<()> {
        let (path, node) = match change {
            Change::Deleted { path } => {
                let beneath: Vec<TreePath> = result.beneath(path.as_bytes()).map(|(path, _)| path.clone()).collect();
                beneath.iter().chain([&path]).for_each(|path| result.set(path, None));
                return Ok(());
            }
            Change::Symlink { path, target } => (path, Node::Symlink { target }),
            Change::File { path, mode, content } => {
                let mut bytes = Vec::new();
                let limit = self.limits.file_bytes;
                content.take(limit + 1).read_to_end(&mut bytes).map_err(failed_to(format!("{path} cannot be read")))?;
                if bytes.len() as u64 > limit {
                    notes.large(path.as_bytes());
                    return Ok(());
                }
                *total += bytes.len() as u64;
                let mode = match base.node(&path) {
                    Some(Node::File { mode: old, .. } | Node::Large { mode: old, .. }) => with_execution(*old, mode),
                    _ => with_execution(0o644, mode),
                };
                let digest = self.blobs.put(&bytes)?;
                (path, Node::File { digest, size: bytes.len() as u64, mode })
            }
        };
        let beneath: Vec<TreePath> = result.beneath(path.as_bytes()).map(|(path, _)| path.clone()).collect();
        let above = path.ancestors().filter_map(|above| TreePath::new(above).ok());
        above.chain(beneath).for_each(|other| result.set(&other, None));
        result.set(&path, Some(node));
        if result.entries.len() > self.limits.files || *total > self.limits.total_bytes {
            return Err(Error::new(ErrorKind::TooLarge, "the sandbox changed more than is kept of a workspace"));
        }
        Ok(())
    }

    /// Removes the oldest states over the limit, and contents that no state has.
    fn prune(&mut self, before: &[About], new: &BTreeSet<&str>) -> Result<()> {
        let others = before.iter().map(|about| about.id.as_str()).filter(|id| !new.contains(id));
        let room = self.limits.states.saturating_sub(new.len());
        let kept: BTreeSet<&str> = others.take(room).chain(new.iter().copied()).collect();
        let states = self.directory.join("states");
        let entries = std::fs::read_dir(&states).map_err(failed_to(format!("{} cannot be read", states.display())))?;
        // Those that were never finished among them.
        for entry in entries.flatten().filter(|entry| entry.file_name().to_str().is_none_or(|id| !kept.contains(id))) {
            // Without it there is no state, whatever else of it stays.
            let _ = std::fs::remove_file(entry.path().join("about"));
            let _ = std::fs::remove_dir_all(entry.path());
        }
        let mut used: BTreeSet<Digest> = BTreeSet::new();
        for about in self.states()? {
            // What of a state cannot be read needs no contents any more.
            for which in ["start", "base", "result"] {
                let manifest: Option<Manifest> = self.load_whole(self.state(&about.id, which)?)?;
                used.extend(manifest.unwrap_or_default().entries.values().filter_map(|entry| entry.node.digest()));
            }
            let dropped: Option<AllDropped> = self.load_whole(self.state(&about.id, "dropped")?)?;
            used.extend(dropped.unwrap_or_default().values().flat_map(|dropped| [dropped.reported, dropped.shown]));
            let rejected: Option<BTreeMap<TreePath, Option<Node>>> =
                self.load_whole(self.state(&about.id, "rejected")?)?;
            used.extend(rejected.unwrap_or_default().into_values().flatten().filter_map(|node| node.digest()));
            let operations: Option<Vec<Operation>> = self.load_whole(self.state(&about.id, "operations")?)?;
            used.extend(
                operations
                    .unwrap_or_default()
                    .iter()
                    .flat_map(|operation| operation.digests().copied().collect::<Vec<_>>()),
            );
        }
        self.blobs.collect(&used)
    }
}

/// The permissions, executable by whoever may read it if the others are by their owner.
fn with_execution(mode: u32, guest: u32) -> u32 {
    match (guest & 0o100 != 0, mode & 0o100 != 0) {
        (true, false) => mode | ((mode & 0o444) >> 2),
        (false, true) => mode & !0o111,
        _ => mode,
    }
}

/// Several outcomes for one change: the first that is not done.
pub(crate) fn joint(outcomes: impl IntoIterator<Item = FileOutcome>) -> FileOutcome {
    let outcomes: Vec<FileOutcome> = outcomes.into_iter().collect();
    let not_done = outcomes.iter().find(|outcome| !outcome.is_done());
    let done = outcomes.iter().find(|outcome| **outcome == FileOutcome::Done);
    not_done.or(done).cloned().unwrap_or(FileOutcome::AlreadyThere)
}
