//! What a monitor tells the timeline of its sandbox.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use viv_audit::{Event, FileSummary, FoundTranscript, Journal, Store, Writer, cut_words};
use viv_net::event::{LOG_FILE, ROTATED_LOG_FILE};
use viv_net::gateway::USAGE_FILE;

use crate::error::adopt;
use crate::home::transcripts::{self, Transcripts};
use crate::named::{self, EndReason};
use crate::network::logs_of;
use crate::wire::{StartLine, Way};
use crate::{NetworkMode, Paths, Plan, Result, SandboxSpec};

/// Tells what a sandbox made of its workspace's files, when its machine is gone; none if that is not known. The time
/// is that of its start: what was reported of a copy before is of another machine. Called on a thread of its own, which
/// is not waited for if it takes too long.
pub type FilesAtEnd = fn(&Paths, &SandboxSpec, SystemTime) -> Option<FileSummary>;

/// How long the sandbox of the same name before may take to close the timeline.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether it has.
const GLANCE: Duration = Duration::from_millis(10);

/// How long it may take to find out what became of the workspace, and what agents wrote.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);

/// How long the disk may take to have the last lines, and copies of transcripts.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// The timeline of a sandbox, from its start to its end.
pub(super) struct Audit {
    journal: Journal,
    /// When it began, by the clock that the kernel notes changes of files with.
    began: SystemTime,
    /// Whether programs could be run.
    was_ready: AtomicBool,
}

impl Audit {
    /// Opens the timeline and tells of the start.
    pub(super) async fn begin(first: &StartLine) -> Result<Self> {
        let began = Duration::try_from(clock_gettime(ClockId::RealtimeCoarse)).unwrap_or_default();
        let began = UNIX_EPOCH + began;
        let spec = &first.plan.spec;
        let store = Store::new(&first.paths.state);
        let writer = open(&store, spec.name.as_deref().unwrap_or(&spec.id), &first.paths).await?;
        let journal = Journal::new(writer, spec.recording).map_err(adopt)?;
        journal.record(Event::Start {
            sandbox: spec.id.clone(),
            name: spec.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spec: summary(&first.plan),
        });
        journal.record(policy(spec));
        if let Some(egress) = spec.network.egress(&spec.id, &first.paths.state) {
            let log = |name: &str| egress.directory.join(name);
            journal.follow("network", log(LOG_FILE), Some(log(ROTATED_LOG_FILE)));
            if egress.gateway.is_some() {
                journal.follow("usage", log(USAGE_FILE), None);
            }
        }
        Ok(Self { journal, began, was_ready: AtomicBool::new(false) })
    }

    pub(super) fn journal(&self) -> Journal {
        self.journal.clone()
    }

    pub(super) fn ready(&self, way: &Way) {
        self.was_ready.store(true, Ordering::Relaxed);
        self.journal.record(Event::Ready { way: serde_json::to_value(way).unwrap_or_default() });
    }

    /// The machine stands still, or goes on.
    pub(super) fn switched(&self, paused: bool) {
        self.journal.record(if paused { Event::Paused } else { Event::Resumed });
    }

    /// Tells what is left of the sandbox, once its machine is gone: what became of the workspace's files, and what
    /// agents wrote down.
    pub(super) async fn look_back(&self, first: &StartLine, files_at_end: FilesAtEnd) {
        if !self.was_ready.load(Ordering::Relaxed) {
            return;
        }
        let (paths, spec, began) = (first.paths.clone(), first.plan.spec.clone(), self.began);
        let (tell_files, files) = oneshot::channel();
        let (tell_transcripts, transcripts) = oneshot::channel();
        // Not tokio's: a runtime waits for its threads when it ends.
        let look = move || {
            // Whoever waits may have given up.
            let _ = tell_transcripts.send(transcripts::new_since(&spec.transcripts, began));
            let _ = tell_files.send(files_at_end(&paths, &spec, began));
        };
        if std::thread::Builder::new().name("look-back".into()).spawn(look).is_err() {
            return;
        }
        let both = async {
            if let Ok(found) = transcripts.await {
                self.keep(found);
            }
            if let Ok(Some(summary)) = files.await {
                self.journal.record(Event::Files(summary));
            }
        };
        // What takes longer is not told: the sandbox ends all the same.
        let _ = tokio::time::timeout(LOOK_PATIENCE, both).await;
    }

    fn keep(&self, Transcripts { found, left_out, reasons }: Transcripts) {
        for found in found {
            self.journal.transcript(FoundTranscript {
                agent: found.agent,
                path: found.path.to_string_lossy().into_owned(),
                content: Box::new(found.file),
                most_bytes: found.bytes,
            });
        }
        if left_out > 0 {
            self.journal.record(Event::TranscriptsLeftOut { files: left_out, reasons: cut_words(reasons) });
        }
    }

    /// Tells of the end and closes the timeline.
    pub(super) fn close(self, reason: EndReason, error: Option<String>) {
        let reason = match serde_json::to_value(reason) {
            Ok(Value::String(reason)) => reason,
            _ => String::new(),
        };
        // A disk that takes longer has the lines, if perhaps not for good; the sandbox ends all the same.
        let _ = self.journal.close(Event::End { reason, error }, CLOSE_PATIENCE);
    }
}

async fn open(store: &Store, name: &str, paths: &Paths) -> Result<Writer> {
    let begun = Instant::now();
    loop {
        match store.open_sparing(name, |name| named::is_there(paths, name)) {
            Err(error) if *error.kind() == viv_audit::ErrorKind::Busy && begun.elapsed() < TAKE_OVER_PATIENCE => {
                tokio::time::sleep(GLANCE).await;
            }
            opened => return opened.map_err(adopt),
        }
    }
}

/// What was asked for, and what it is made from. No value of any environment, and no content of any file.
fn summary(plan: &Plan) -> Value {
    let spec = &plan.spec;
    let names = [&spec.environment, &spec.network.environment].into_iter().flat_map(|variables| variables.keys());
    let files = [&spec.files, &spec.network.files].into_iter().flatten().map(|file| &file.path);
    json!({
        "command": viv_audit::cut_words(&spec.command),
        "labels": spec.labels,
        "cpus": spec.cpus,
        "memory_mib": spec.memory_mib,
        "disk_bytes": spec.disk_bytes,
        "accel": plan.accel,
        "kernel": spec.kernel,
        "image": spec.image,
        "made_from": made_from(plan),
        "packages": spec.packages,
        "workspace": spec.workspace,
        "workspace_mode": spec.workspace_mode,
        "protect": spec.protect,
        "mounts": spec.mounts,
        "persistent_disk": spec.persistent_disk,
        "user": spec.user.name,
        "environment": names.collect::<Vec<_>>(),
        "files": files.collect::<Vec<_>>(),
        "recording": spec.recording,
    })
}

/// The files of the cache that its machine is made from: their names are their digests.
fn made_from(plan: &Plan) -> Vec<String> {
    const PREFIX: &str = "sha256-";
    let command = serde_json::to_string(&plan.vmm).unwrap_or_default();
    let mut digests: Vec<String> = command
        .split(PREFIX)
        .skip(1)
        .filter_map(|rest| rest.get(..64))
        .filter(|digest| digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(|digest| format!("{PREFIX}{digest}"))
        .collect();
    digests.sort();
    digests.dedup();
    digests
}

/// How it may reach others. Of model APIs the names alone: where keys come from is not told.
fn policy(spec: &SandboxSpec) -> Event {
    let network = &spec.network;
    let rules = match &network.mode {
        NetworkMode::Filtered { policy } => json!(policy),
        NetworkMode::Bridge { bridge } => json!({ "bridge": bridge }),
        NetworkMode::None | NetworkMode::Nat => Value::Null,
    };
    let models: Vec<&String> = network.gateway.iter().flat_map(|gateway| gateway.upstreams.keys()).collect();
    let rules = json!({
        "policy": rules,
        "models": models,
        "ssh_agent": network.ssh_agent.is_some(),
        "publish": network.publish,
    });
    Event::Policy { network: network.mode.name().to_owned(), rules }
}

/// Where a sandbox's log of a kind may be, for who verifies its timeline: none if it is no longer kept.
#[must_use]
pub fn logs_for_audit(state: &std::path::Path, sandbox: &str, log: &str) -> Option<Vec<std::path::PathBuf>> {
    let is_id = !sandbox.is_empty() && sandbox.bytes().all(|byte| byte.is_ascii_hexdigit());
    let directory = logs_of(state).join(sandbox);
    if !is_id || !directory.is_dir() {
        return None;
    }
    let names: &[&str] = if log == "usage" { &[USAGE_FILE] } else { &[LOG_FILE, ROTATED_LOG_FILE] };
    Some(names.iter().map(|name| directory.join(name)).collect())
}
