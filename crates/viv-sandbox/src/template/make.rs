//! The maker: a process that boots a machine, prepares its guest and saves it.
//!
//! Nobody waits for it unless asked to: in the background it has the lowest priority there is, no
//! terminal, and no client. Killed at any moment, it leaves a directory that the next maker removes.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use viv_error::Report;
use viv_link::{FrameReader, Link};
use viv_proto::CONTROL_PORT;
use viv_proto::frame::Frame;
use viv_proto::handshake::{FIRST_TOKEN, Token};
use viv_proto::message::{Exec, Prepare, User, kind};
use viv_shares::FileDaemonSpec;
use viv_vmm::LinkCarrier;

use super::TemplatePlan;
use super::store::{DEVICES, MEMORY, SCRATCH, Store, TemplateInfo, private_file};
use crate::error::{from_report, io};
use crate::exec::ask;
use crate::monitor::attempt::{MOST_BOOTS, guest_is_silent};
use crate::monitor::children::{Children, LINK_SOCKET, MachineState, Machinery, SHARES_SOCKET};
use crate::monitor::stall;
use crate::plan::StartPlan;
use crate::process::{memory_file, start_detached};
use crate::registry::{open_directory, short_path};
use crate::spec::random_bytes;
use crate::{Error, ErrorKind, Paths, Plan, Result, memory, sys};

/// What `viv` calls the maker.
const ENTRY_POINT: &str = "internal-template-maker";

/// What the guest runs before it is saved, so that it need not read it from its disk again: what
/// nearly every command line begins with.
const WARM_UP: [&[&str]; 2] =
    [&["sh", "-c", "exec true"], &["bash", "-lc", "ls / >/dev/null; cat /dev/null; exec env true"]];

/// What a machine and its VMM take until it is saved, in MiB; measured under emulation, which takes more.
const TOUCHED_MIB: u64 = 256;

/// What a maker in the background leaves to others, in MiB.
const HEADROOM_MIB: u64 = 512;

/// How long these may take, beyond what a boot may.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(60);

/// In the background on a busy machine there is next to no processor to be had, and no hurry.
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(3600);

/// A template to make.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MakeRequest {
    template: TemplatePlan,
    /// The empty disk to clone.
    scratch: PathBuf,
    file_daemon: FileDaemonSpec,
    user: User,
    timezone: Option<String>,
    memory_mib: u64,
    boot_deadline_seconds: u64,
    paths: Paths,
    background: bool,
}

impl MakeRequest {
    /// The template that a plan would use.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] for a plan that can have none.
    pub fn new(plan: &Plan, paths: &Paths) -> Result<Self> {
        let template = match &plan.start {
            StartPlan::Template(template) => template,
            StartPlan::Cold { reason } => {
                let error = Error::new(ErrorKind::InvalidSpec, format!("there can be no template: {reason}"));
                return Err(error.hint("viv doctor"));
            }
        };
        let spec = &plan.spec;
        Ok(Self {
            template: (**template).clone(),
            scratch: plan.scratch.clone(),
            file_daemon: plan.file_daemon.clone(),
            user: spec.user.clone(),
            timezone: spec.timezone.clone(),
            memory_mib: spec.memory_mib,
            boot_deadline_seconds: spec.boot_deadline_seconds,
            paths: paths.clone(),
            background: false,
        })
    }

    /// The template's key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.template.key
    }

    /// The template, if it is there and can be used. One that is damaged is removed.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the cache cannot be read.
    pub fn existing(&self) -> Result<Option<TemplateInfo>> {
        let store = Store::new(&self.paths);
        if store.open(&self.template).is_err() {
            return Ok(None);
        }
        let all = store.list().map_err(io("the templates could not be listed"))?;
        Ok(all.into_iter().find(|info| info.key == self.template.key))
    }

    /// Waits until nobody makes it, and removes what makers that were killed left. Blocks.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the cache cannot be used.
    pub fn settle(&self) -> Result<()> {
        let store = Store::new(&self.paths);
        drop(store.wait(&self.template.key)?);
        store.sweep();
        Ok(())
    }
}

/// What a maker says while it works.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MakeEvent {
    /// The machine boots.
    Booting,
    /// Its guest runs what it will need again.
    WarmingUp,
    /// It is being saved.
    Saving,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FromMaker {
    Event(MakeEvent),
    Done(Box<TemplateInfo>),
    Failed(Report),
}

/// Has a template made by a process of `executable`, and waits for it. Dropping the future ends it.
///
/// # Errors
/// [`ErrorKind::Ambiguous`] if another process is making it, and whatever kept it from being made.
pub async fn make(
    request: &MakeRequest,
    executable: &Path,
    mut on_event: impl FnMut(&MakeEvent),
) -> Result<TemplateInfo> {
    let failed = || io("the template's maker could not be started");
    let mut command = tokio::process::Command::new(executable);
    let input = serde_json::to_vec(request).map_err(Into::into).and_then(|text| memory_file(&text)).map_err(failed())?;
    command.arg(ENTRY_POINT).stdin(input);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
    viv_vmm::die_with_parent(&mut command);
    let mut maker = command.spawn().map_err(failed())?;
    let mut outcome = None;
    if let Some(output) = maker.stdout.take() {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(FromMaker::Event(event)) => on_event(&event),
                Ok(FromMaker::Done(info)) => outcome = Some(Ok(*info)),
                Ok(FromMaker::Failed(report)) => outcome = Some(Err(from_report(report))),
                Err(_) => {}
            }
        }
    }
    let status = maker.wait().await.map_err(io("the template's maker could not be waited for"))?;
    let gone = || Error::new(ErrorKind::Monitor, "the template's maker was killed").source(status.to_string());
    outcome.unwrap_or_else(|| Err(gone()))
}

/// Has a template made by a process of `executable` that nobody waits for.
///
/// # Errors
/// If that process cannot be started.
pub fn make_in_background(request: MakeRequest, executable: &Path) -> Result<()> {
    start_detached(executable, ENTRY_POINT, &MakeRequest { background: true, ..request })
        .map_err(io("the template's maker could not be started"))
}

/// The maker's entry point: `viv internal-template-maker`, its request as standard input.
#[must_use]
pub fn maker_main() -> ExitCode {
    let Ok(request) = serde_json::from_reader::<_, MakeRequest>(std::io::stdin().lock()) else {
        return ExitCode::from(125);
    };
    sys::keep_descriptors_to_ourselves(3);
    if request.background {
        // Nothing depends on it but others' comfort.
        let _ = rustix::process::setsid();
        let _ = sys::step_back();
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::from(125);
    };
    let outcome = runtime.block_on(run(&request));
    let (line, code) = match &outcome {
        Ok(info) => (FromMaker::Done(Box::new(info.clone())), ExitCode::SUCCESS),
        Err(error) => (FromMaker::Failed(Report::from(error)), ExitCode::from(125)),
    };
    say(&line);
    code
}

/// To whoever waits, if anyone does.
fn say(line: &FromMaker) {
    if let Ok(mut line) = serde_json::to_vec(line) {
        line.push(b'\n');
        let _ = std::io::stdout().lock().write_all(&line);
    }
}

async fn run(request: &MakeRequest) -> Result<TemplateInfo> {
    let store = Store::new(&request.paths);
    let key = &request.template.key;
    let Some(_lock) = store.lock(key)? else {
        return Err(Error::new(ErrorKind::Ambiguous, "another process is making this template"));
    };
    let (staged, _staged_lock) = store.stage(key)?;
    let room = if request.background { enough_memory(request.memory_mib, memory::available()) } else { Ok(()) };
    let made = match room {
        Ok(()) => boot_until_saved(request, &staged).await,
        Err(error) => Err(error),
    };
    let kept = made.and_then(|(id, token)| store.keep(&staged, &request.template, id, &token));
    if let Err(error) = &kept {
        // What stays is removed by the next maker.
        let _ = std::fs::remove_dir_all(&staged);
        store.failed(key, Report::from(error));
    }
    kept
}

/// Nobody waits for a maker in the background, so nobody should have to make room for it either: not for
/// what its machine touches until it is saved, which is little of its memory.
fn enough_memory(memory_mib: u64, available: Option<u64>) -> Result<()> {
    // The guest's kernel keeps a 64th of its memory as a table of it.
    let machine_mib = (TOUCHED_MIB + memory_mib / 64).min(memory_mib);
    let needed_mib = machine_mib + HEADROOM_MIB;
    match available.map(|bytes| bytes >> 20) {
        Some(available_mib) if available_mib < needed_mib => Err(Error::new(
            ErrorKind::HostMemoryShort,
            format!("it takes {needed_mib} MiB of free memory for some seconds, and there are {available_mib}"),
        )
        .hint("viv template build makes it all the same")),
        _ => Ok(()),
    }
}

/// Boots once more where the guest gets stuck.
async fn boot_until_saved(request: &MakeRequest, staged: &Path) -> Result<(String, Token)> {
    for _ in 1..MOST_BOOTS {
        match boot_and_save(request, staged).await {
            Err(error) if *error.kind() == ErrorKind::GuestStuck => {}
            other => return other,
        }
        for name in [SCRATCH, MEMORY, DEVICES] {
            std::fs::remove_file(staged.join(name)).map_err(io("what was not saved could not be removed"))?;
        }
    }
    boot_and_save(request, staged).await
}

/// Returns what the guest will say it is, and what its next session begins with.
async fn boot_and_save(request: &MakeRequest, staged: &Path) -> Result<(String, Token)> {
    let failed = || io(format!("{} could not be written", staged.display()));
    let open = |name: &str| {
        File::options().create_new(true).read(true).write(true).mode(0o600).open(staged.join(name)).map_err(failed())
    };
    let scratch = open(SCRATCH)?;
    let empty = File::open(&request.scratch).map_err(failed())?;
    viv_image::copy_sparse(&empty, &scratch).map_err(failed())?;
    let memory = private_file(&staged.join(MEMORY)).map_err(failed())?;
    let devices = private_file(&staged.join(DEVICES)).map_err(failed())?;
    let directory = open_directory(staged).map_err(failed())?;
    say(&FromMaker::Event(MakeEvent::Booting));
    let sockets = |name: &str| short_path(&directory, name);
    let mut children = Children::start(Machinery {
        vmm: &request.template.save,
        file_daemon: &request.file_daemon,
        // The device is there; what it shows is another matter for each sandbox.
        shares: None,
        link: LinkCarrier::VirtioSerial,
        key: &random_bytes(),
        scratch,
        memory_mib: request.memory_mib,
        network: None,
        state: MachineState::ToSave { devices },
        sockets: &sockets,
    })?;
    let id = hex::encode(random_bytes::<16>());
    let patience = if request.background { BACKGROUND_PATIENCE } else { WARM_UP_PATIENCE };
    let deadline = Duration::from_secs(request.boot_deadline_seconds) + patience;
    let vmm = children.machine.pid();
    let prepared = tokio::select! {
        prepared = tokio::time::timeout(deadline, prepare(request, &id, sockets(LINK_SOCKET))) => {
            prepared.unwrap_or_else(|_| {
                let late = Error::new(ErrorKind::BootTimeout, "the guest did not come up in time");
                Err(children.with_console(late))
            })
        }
        trouble = children.trouble(false) => Err(trouble),
        stuck = stall::stuck(vmm) => Err(stuck),
    };
    let saved = match prepared {
        Ok(token) => {
            say(&FromMaker::Event(MakeEvent::Saving));
            children.save(&memory).await.map(|()| (id, token))
        }
        Err(error) => Err(error),
    };
    children.end().await;
    for name in [LINK_SOCKET, SHARES_SOCKET] {
        let _ = std::fs::remove_file(staged.join(name));
    }
    saved
}

/// Brings the guest to where it is saved; returns what its next session begins with.
async fn prepare(request: &MakeRequest, id: &str, socket: PathBuf) -> Result<Token> {
    let carrier = tokio::net::UnixStream::connect(socket).await.map_err(io("the link cannot be reached"))?;
    let session = viv_link::host_session(carrier, &FIRST_TOKEN).await.map_err(guest_is_silent)?;
    let (link, token) = (session.link, session.next_reset);
    let conversation = async {
        let mut stream = link.open(CONTROL_PORT).await.map_err(guest_is_silent)?;
        let wanted =
            Prepare { user: request.user.clone(), timezone: request.timezone.clone(), template: id.to_owned() };
        ask(&mut stream, kind::PREPARE, &wanted).await?;
        drop(stream);
        say(&FromMaker::Event(MakeEvent::WarmingUp));
        for program in WARM_UP {
            run_to_the_end(&link, program, &request.user).await?;
        }
        Ok(token)
    };
    // The session ends with the conversation, whoever else would like to go on.
    tokio::select! {
        token = conversation => token,
        _ = session.driver.run() => Err(Error::new(ErrorKind::Guest, "the guest cut the link")),
    }
}

/// Runs a program inside; whether it succeeds does not matter, an image may not have it.
pub(crate) async fn run_to_the_end(link: &Link, program: &[&str], user: &User) -> Result<()> {
    let mut stream = link.open(CONTROL_PORT).await.map_err(guest_is_silent)?;
    let exec = Exec {
        argv: program.iter().map(|&word| word.to_owned()).collect(),
        env: std::collections::BTreeMap::new(),
        cwd: "/".to_owned(),
        user: user.name.clone(),
        terminal: None,
    };
    let rest = match ask(&mut stream, kind::EXEC, &exec).await {
        Ok((_, rest)) => rest,
        Err(error) if *error.kind() == ErrorKind::Guest => return Err(error),
        Err(_) => return Ok(()),
    };
    let mut frames = FrameReader::new(stream, &rest);
    while let Ok(Some(frame)) = frames.next().await {
        if matches!(frame, Frame::Exit(_)) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maker_in_the_background_leaves_memory_to_others() {
        assert!(enough_memory(2048, Some(800 << 20)).is_ok());
        assert!(enough_memory(2048, None).is_ok(), "where the kernel does not say, it is tried");
        assert!(enough_memory(128, Some(640 << 20)).is_ok(), "no more than the machine has");
        let short = enough_memory(2048, Some((800 << 20) - 1)).unwrap_err();
        assert_eq!(*short.kind(), ErrorKind::HostMemoryShort);
        assert_eq!(short.to_string(), "it takes 800 MiB of free memory for some seconds, and there are 799");
    }
}
