//! Keeping what a workspace has, beside the start of a sandbox that works on it.

use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;
use viv_sandbox::{SandboxSpec, WorkspaceMode};
use viv_workspace::{Mode, Recorded, Sandbox, Store};

use crate::output::{Printer, human_duration};

/// A base that is being recorded by a thread of its own. No program may run in the sandbox before it was awaited.
pub struct Recording(oneshot::Receiver<viv_workspace::Result<Kept>>);

struct Kept {
    recorded: Recorded,
    /// Whether something was completed that an earlier process had left half done.
    recovered: bool,
}

/// After this it is said what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

impl Recording {
    /// Begins to record the workspace of a sandbox that works on the directory itself; nothing for others, whose
    /// copy is made with a base of its own. `state` is viv's state directory.
    #[must_use]
    pub fn of_live(state: &Path, spec: &SandboxSpec) -> Option<Self> {
        if spec.workspace_mode != WorkspaceMode::Live {
            return None;
        }
        let sandbox = Sandbox { id: spec.id.clone(), name: spec.name.clone(), mode: Mode::Live };
        let (state, workspace) = (state.to_path_buf(), spec.workspace.clone());
        let (sender, receiver) = oneshot::channel();
        std::thread::spawn(move || {
            let kept = Store::open(&state, &workspace).and_then(|store| {
                let recovered = store.recovered().is_some();
                store.record_base(&sandbox).map(|recorded| Kept { recorded, recovered })
            });
            // Whoever asked for it may have been interrupted.
            let _ = sender.send(kept);
        });
        Some(Self(receiver))
    }

    /// Waits until it is recorded. That it could not be is told, and keeps nobody from working.
    pub async fn finish(mut self, printer: &Printer) {
        let kept = match tokio::time::timeout(PATIENCE, &mut self.0).await {
            Ok(kept) => kept,
            Err(_) => {
                printer.note(
                    "keeping what the workspace has, so that it can be brought back; the next time it is quicker",
                );
                self.0.await
            }
        };
        match kept {
            Ok(Ok(Kept { recorded, recovered })) => {
                if recovered {
                    printer.note("what an earlier viv accept, reject or undo had begun was completed");
                }
                let (files, took) = (recorded.files, human_duration(recorded.took));
                printer.detail(&format!("{files} files of the workspace are kept as they are: {took}"));
            }
            Ok(Err(error)) => {
                let why = viv_error::Report::from(&error).line();
                let hint = error.hints().first().map_or("--no-review goes without", String::as_str);
                printer.warning(&format!("viv diff and viv undo will know nothing of this sandbox: {why}"), Some(hint));
            }
            // The thread panicked, which ends viv by itself.
            Err(_) => {}
        }
    }
}
