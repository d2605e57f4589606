//! A sandbox's life: what is asked for, the monitor that owns it, and what others see of it.
//!
//! ```text
//!   viv (client)                    monitor                                guest
//!   ───────────                     ───────                                ─────
//!   SandboxSpec ─plan()─► Plan
//!   start(Plan) ───spawn, fd 3────► run directory, file daemon, VMM
//!               ◄──Event::Ready──── link session, `configure` ───────────► identity, shares
//!   exec() ─────sandbox.sock──────► CONNECT 5000 ────────────────────────► program
//!   stop() ────────────fd 3───────► `shutdown` ──────────────────────────► flush, power off
//!               ◄────────EOF─────── reap, remove the run directory
//! ```
//!
//! Every process of a sandbox is a child of its monitor and dies with it; the monitor ends when its
//! client goes. A crash of either leaves at most a run directory, which [`list`] and every other
//! look at the sandboxes removes.

mod client;
mod clone;
mod error;
mod exec;
mod files;
mod guard;
mod holdings;
mod home;
mod memory;
mod monitor;
pub mod named;
mod network;
mod nic;
mod nix;
mod paths;
mod plan;
mod preset;
mod process;
mod registry;
mod sessions;
mod shares;
mod spare;
mod spec;
mod sys;
mod template;
mod terminal_modes;
mod wire;

pub use client::{Event, Sandbox, StartRequest, exec_in, files_of, kill, publish, relink, start, stop};
pub use clone::{
    Changed, CommittedFile, Content, CopyContents, Fetched, Ignored, Repository, Sync, WorkspaceCopy, git_config_value,
    is_ignored,
};
pub use error::{Error, ErrorKind, Result};
pub use exec::ExecSession;
pub use files::{Files, OnProgress};
pub use holdings::Holdings;
pub use home::{AgentHome, HomeInfo, Imported, agent_home_of, clear_home, list_homes, mounts_of, transcripts_of};
pub use memory::MemoryUse;
#[doc(hidden)]
pub use monitor::any_terminal_output;
pub use monitor::{FilesAtEnd, file_daemon_main, logs_for_audit, monitor_main};
pub use network::{CERTIFICATES, NAME_FILE, NetworkMode, NetworkSpec, Publish, SSH_AGENT, logs_of};
pub use nic::check_network;
pub use paths::Paths;
pub use plan::{Artifacts, Plan, StartPlan, Warning, plan, probe_host};
pub use preset::{
    AgentRequest, AgentStart, AgentWords, Import, Memory, NamedPreset, Preset, PresetSource, Prompt, Seed, find_preset,
    is_preset_name, preset_names,
};
pub use registry::{Record, State, find, list};
pub use sessions::{
    AttachSession, LONGEST_SESSION_NAME_BYTES, MOST_ENDED_SESSIONS, MOST_HISTORY_BYTES, MOST_HISTORY_LINES,
    MOST_SESSIONS, MOST_VIEWERS, NewSession, Recorder, SessionConnection, SessionEnd, SessionEvent, SessionInfo,
    SizePolicy, Viewing, attach_session, end_session, is_session_name, list_sessions, new_session,
};
pub use shares::check_shares;
pub use spare::{count_spares, keep_spares, spare_main};
pub use spec::{
    CopySelection, KernelChoice, Mount, NixSpec, SandboxSpec, TemplateUse, TranscriptPlace, VmmChoice, WorkspaceMode,
    new_id, new_token,
};
pub use template::{
    MakeEvent, MakeRequest, Pruned, TemplateInfo, TemplateJudge, TemplatePlan, list_templates, make,
    make_in_background, maker_main, prune_templates, remove_template,
};
pub use terminal_modes::{ModeTracker, Question};
pub use viv_archive::{self as archive, Carried};
pub use viv_audit::Recording;
pub use viv_vmm::{Accel, AccelChoice, HostFacts, Kvm, OLDEST_QEMU, OLDEST_QEMU_FOR_TEMPLATES};
pub use wire::{HostMark, Way};
