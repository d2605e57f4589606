//! What is printed for information, all from one running sandbox: a warm `exec`, the shares
//! against the guest's own disk, and the host's memory beyond the guest's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::figures::{Figure, median, milliseconds};
use super::measure;
use crate::command;
use crate::processes;

const SHARE_WORK: &str = include_str!("share_work.py");

/// Where the guest's own disk is, as seen inside.
const OWN_DISK: &str = "/var/tmp";

/// What is done on both sides: its name in the script, and the figure's.
const WORK: &[(&str, &str)] = &[
    ("sequential write", "share: write 256 MiB"),
    ("sequential read", "share: read 256 MiB"),
    ("small files made", "share: make 10,000 small files"),
    ("small files read", "share: read 10,000 small files"),
    ("small files removed", "share: remove 10,000 small files"),
    ("git status", "share: git status of 20,000 files"),
];

/// Starts a sandbox and measures in it.
pub fn informational(viv: &Path, directory: &Path, runs: u32) -> Result<Vec<Figure>> {
    let sandbox = Running::start(viv, directory, &[])?;
    let sampler = MemorySampler::start(sandbox.client.id());

    let mut round_trips = Vec::new();
    for _ in 0..runs {
        round_trips.push(measure::until_first_byte_and_end(&mut sandbox.exec(&["true"]), None)?.end);
    }
    let mut figures = vec![Figure::plain("warm exec round trip", milliseconds(median(&mut round_trips)), "ms")];

    eprintln!("shares");
    std::fs::write(directory.join("share_work.py"), SHARE_WORK)?;
    let mut work = sandbox.exec(&["python3", "/workspace/share_work.py", "/workspace", OWN_DISK]);
    let output = work.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run viv")?;
    ensure!(output.status.success(), "{} ended with {}", command::display(&work), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let sides: BTreeMap<String, BTreeMap<String, f64>> =
        serde_json::from_str(&text).with_context(|| format!("the work in the sandbox printed {text:?}"))?;
    for (work, name) in WORK {
        let seconds = |side: &str| {
            sides
                .get(side)
                .and_then(|side| side.get(*work))
                .copied()
                .with_context(|| format!("no time for {work} in {side}"))
        };
        figures.push(Figure::compared(name, seconds("/workspace")? * 1000.0, seconds(OWN_DISK)? * 1000.0, "ms", None));
    }

    let peak_kib = sampler.stop();
    figures.push(Figure::plain("peak host memory beyond the guest's", peak_kib as f64 / 1024.0, "MiB"));
    sandbox.stop()?;
    Ok(figures)
}

/// A sandbox that waits. Its client is killed when this is dropped, and the sandbox goes with it.
pub struct Running<'a> {
    viv: &'a Path,
    name: String,
    client: Child,
}

impl<'a> Running<'a> {
    /// Starts one, as `viv run` with `options` does, and waits until a program runs in it.
    pub fn start(viv: &'a Path, directory: &Path, options: &[&str]) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(viv);
        command.args(["run", "--quiet", "--name", &name]).args(options);
        command.args(["--", "sh", "-c", "echo ready; exec sleep infinity"]);
        command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped());
        let client = command.spawn().with_context(|| format!("cannot run {}", command::display(&command)))?;
        let mut running = Self { viv, name, client };
        let output = running.client.stdout.take().context("a piped output is there")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "the sandbox to measure in did not start");
        Ok(running)
    }

    /// Its processes: client, monitor, file daemon, VMM.
    pub fn processes(&self) -> Result<[u32; 4]> {
        let text = command::capture(Command::new(self.viv).args(["ps", "--json"]))?;
        let records: Vec<serde_json::Value> =
            serde_json::from_str(&text).context("`viv ps --json` printed no array")?;
        let record = records
            .iter()
            .find(|record| record["name"] == self.name.as_str())
            .with_context(|| format!("`viv ps --json` does not list {}", self.name))?;
        let process = |name: &str| {
            let id = record[name].as_u64().and_then(|id| u32::try_from(id).ok());
            id.with_context(|| format!("`viv ps --json` names no {name} of {}", self.name))
        };
        Ok([self.client.id(), process("monitor_pid")?, process("file_daemon_pid")?, process("vmm_pid")?])
    }

    /// The command line of its VMM, as it runs.
    pub fn machine(&self) -> Result<Vec<String>> {
        let [.., vmm] = self.processes()?;
        let words = std::fs::read(format!("/proc/{vmm}/cmdline"))?;
        let words = words.strip_suffix(b"\0").unwrap_or(&words);
        words
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8(word.to_vec()).context("the VMM's command line is not UTF-8"))
            .collect()
    }

    /// `viv exec` in it, as root.
    pub fn exec(&self, program: &[&str]) -> Command {
        let mut command = Command::new(self.viv);
        command.args(["exec", "--quiet", "--root", &self.name, "--"]).args(program);
        command
    }

    /// The same as the ordinary user inside.
    pub fn exec_as_agent(&self, program: &[&str]) -> Command {
        let mut command = Command::new(self.viv);
        command.args(["exec", "--quiet", &self.name, "--"]).args(program);
        command
    }

    /// Ends it in good order.
    pub fn stop(mut self) -> Result<()> {
        command::capture(Command::new(self.viv).args(["stop", "--quiet", &self.name]))?;
        self.client.wait()?;
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Both fail only where the client has ended, which is what is wanted.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// Looks again and again at what the processes of a sandbox hold, and keeps the most.
struct MemorySampler {
    stop: Arc<AtomicBool>,
    peak_kib: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl MemorySampler {
    const INTERVAL: Duration = Duration::from_millis(100);

    fn start(client: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let peak_kib = Arc::new(AtomicU64::new(0));
        let (stopped, peak) = (Arc::clone(&stop), Arc::clone(&peak_kib));
        let thread = std::thread::spawn(move || {
            let mut family = BTreeSet::from([client]);
            while !stopped.load(Ordering::Relaxed) {
                processes::add_descendants(&mut family);
                let sum = family.iter().map(|process| processes::memory_beyond_the_guest_kib(*process)).sum();
                peak.fetch_max(sum, Ordering::Relaxed);
                std::thread::park_timeout(Self::INTERVAL);
            }
        });
        Self { stop, peak_kib, thread }
    }

    /// The most that was seen, in KiB.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        // A sampler that panicked has still kept what it saw.
        let _ = self.thread.join();
        self.peak_kib.load(Ordering::Relaxed)
    }
}
