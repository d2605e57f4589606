//! What a sandbox made of its workspace, for its timeline.

use std::time::SystemTime;

use viv_audit::{FileSummary, cut_words};
use viv_sandbox::{Paths, SandboxSpec, WorkspaceMode};
use viv_workspace::{Diff, Kind, Mode, Store};

/// What differs from what there was when a sandbox started whose machine is gone. None if that was not kept or cannot
/// be compared, or if nothing was reported of a copy since `began`: a copy that was lost is not known to be
/// unchanged.
#[must_use]
pub fn files_at_end(paths: &Paths, spec: &SandboxSpec, began: SystemTime) -> Option<FileSummary> {
    let (mode, id) = match spec.workspace_mode {
        WorkspaceMode::Live => (Mode::Live, &spec.id),
        WorkspaceMode::Clone => (Mode::Clone, spec.name.as_ref().unwrap_or(&spec.id)),
    };
    // Nothing is made for one that was run without.
    if !Store::is_there(&paths.state, &spec.workspace) {
        return None;
    }
    let store = Store::open(&paths.state, &spec.workspace).ok().filter(|store| store.has(id))?;
    if mode == Mode::Clone && store.reported_at(id).is_none_or(|at| at < began) {
        return None;
    }
    store.diff_from_start(id).ok().map(|diff| summary(super::mode(mode), &diff))
}

fn summary(mode: &str, diff: &Diff) -> FileSummary {
    let count = |wanted: &[Kind]| diff.files.iter().filter(|file| wanted.contains(&file.kind())).count() as u64;
    FileSummary {
        mode: mode.to_owned(),
        added: count(&[Kind::Added]),
        changed: count(&[Kind::Modified, Kind::Mode]),
        deleted: count(&[Kind::Deleted]),
        renamed: count(&[Kind::Renamed]),
        names: cut_words(diff.files.iter().map(|file| {
            let from = file.from.as_ref().map(|from| format!("{from} -> ")).unwrap_or_default();
            format!("{} {from}{}", file.kind().letter(), file.path)
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use viv_workspace::{Change, Sandbox, To, TreePath};

    use super::*;

    fn paths(root: &Path) -> Paths {
        let below = |name: &str| root.join(name);
        Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") }
    }

    fn spec(workspace: &Path, mode: WorkspaceMode) -> SandboxSpec {
        let value = serde_json::json!({
            "id": "0123abcd", "name": null, "labels": {}, "command": [], "cpus": 1, "memory_mib": 512,
            "disk_bytes": 1, "vmm": "qemu", "accel": "auto", "kernel": null, "image": null, "packages": [],
            "workspace": workspace, "workspace_mode": mode, "mounts": [], "hostname": "h", "timezone": null,
            "user": { "name": "agent", "uid": 1, "gid": 1, "home": "/home/agent" }, "template": "auto", "spares": 0,
            "environment": {}, "files": [], "network": viv_sandbox::NetworkSpec::default(),
            "boot_deadline_seconds": 1,
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn all_that_a_sandbox_changed_is_counted_whatever_was_accepted_meanwhile() {
        let root = tempfile::tempdir().unwrap();
        let (paths, workspace) = (paths(root.path()), root.path().join("w"));
        let write = |name: &str, content: &str| std::fs::write(workspace.join(name), content).unwrap();
        std::fs::create_dir(&workspace).unwrap();
        for name in ["kept", "edited", "gone", "moved"] {
            write(name, &format!("{name}\n").repeat(20));
        }
        let spec = spec(&workspace, WorkspaceMode::Live);
        assert_eq!(files_at_end(&paths, &spec, UNIX_EPOCH), None, "nothing was kept");
        assert!(!paths.state.exists(), "and nothing was made");
        let store = Store::open(&paths.state, &workspace).unwrap();
        assert_eq!(files_at_end(&paths, &spec, UNIX_EPOCH), None, "nothing was kept of this one");
        store.record_base(&Sandbox { id: spec.id.clone(), name: None, mode: Mode::Live }).unwrap();
        assert_eq!(
            files_at_end(&paths, &spec, UNIX_EPOCH),
            Some(FileSummary { mode: "live".into(), ..Default::default() })
        );

        write("edited", "other\n");
        write("new\u{1b}[2J", "");
        std::fs::remove_file(workspace.join("gone")).unwrap();
        std::fs::rename(workspace.join("moved"), workspace.join("there")).unwrap();
        let told = files_at_end(&paths, &spec, UNIX_EPOCH).unwrap();
        assert_eq!((told.added, told.changed, told.deleted, told.renamed), (1, 1, 1, 1), "{told:?}");
        assert_eq!(told.names, ["M edited", "D gone", "A new\\u{1b}[2J", "R moved -> there"]);
        let all = store.diff(&spec.id).unwrap().all();
        assert!(store.accept(&spec.id, &all).unwrap().is_whole());
        assert!(store.diff(&spec.id).unwrap().files.is_empty());
        assert_eq!(files_at_end(&paths, &spec, UNIX_EPOCH), Some(told));
        store.undo(&spec.id, To::Start).unwrap();
        assert_eq!(files_at_end(&paths, &spec, UNIX_EPOCH).unwrap().names, Vec::<String>::new());
    }

    #[test]
    fn of_a_copy_only_what_was_reported_since_the_start_is_told() {
        let root = tempfile::tempdir().unwrap();
        let (paths, workspace) = (paths(root.path()), root.path().join("w"));
        std::fs::create_dir(&workspace).unwrap();
        let spec = spec(&workspace, WorkspaceMode::Clone);
        let store = Store::open(&paths.state, &workspace).unwrap();
        store.record_base(&Sandbox { id: spec.id.clone(), name: None, mode: Mode::Clone }).unwrap();
        assert_eq!(files_at_end(&paths, &spec, UNIX_EPOCH), None, "nothing was reported");
        let content = io::Cursor::new(b"x".to_vec());
        let change = Change::File { path: TreePath::new("new").unwrap(), mode: 0o644, content };
        store.record_changes(&spec.id, [Ok(change)]).unwrap();
        let told = files_at_end(&paths, &spec, UNIX_EPOCH).unwrap();
        assert_eq!((told.mode.as_str(), told.names), ("clone", vec!["A new".to_owned()]));
        assert_eq!(
            files_at_end(&paths, &spec, SystemTime::now() + Duration::from_secs(60)),
            None,
            "that was of another start"
        );
    }
}
