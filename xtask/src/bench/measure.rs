//! Timing a command from outside: from before it is started to its first byte and to its end.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// A start that takes longer than this has hung: emulation included, none takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(180);

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Until the first byte of output, or the first byte that was waited for.
    pub first_byte: Duration,
    /// Until the command was gone.
    pub end: Duration,
}

/// Runs the command and times it. Where output ends without a byte, that is the first byte's time.
///
/// # Errors
/// A command that fails or hangs; and one that never prints `marker`, if one is waited for.
pub fn until_first_byte_and_end(command: &mut Command, marker: Option<u8>) -> Result<Timing> {
    let shown = command::display(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
    let mut output = child.stdout.take().context("a piped output is there")?;
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut seen = false;
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            let piece = &buffer[..length];
            if !seen && marker.is_none_or(|marker| piece.contains(&marker)) {
                seen = true;
                // Nobody listens any more once the deadline has passed.
                let _ = sender.send((Instant::now(), true));
            }
        }
        let _ = sender.send((Instant::now(), seen));
    });
    let Ok((first, seen)) = receiver.recv_timeout(DEADLINE) else {
        child.kill()?;
        child.wait()?;
        bail!("{shown} printed nothing within {} s", DEADLINE.as_secs());
    };
    if let Err(mpsc::RecvTimeoutError::Timeout) = receiver.recv_timeout(DEADLINE) {
        child.kill()?;
        child.wait()?;
        bail!("{shown} did not end within {} s of its first output", DEADLINE.as_secs());
    }
    // Output has ended; a blocking wait sees the end of the process itself as it happens.
    let status = child.wait()?;
    let end = begun.elapsed();
    let _ = reader.join();
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    if marker.is_some() && !seen {
        bail!("{shown} ended without printing the byte that was waited for");
    }
    Ok(Timing { first_byte: first.duration_since(begun), end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_first_byte_comes_before_the_end() {
        let timing = until_first_byte_and_end(&mut shell("echo x; sleep 0.2"), None).unwrap();
        assert!(timing.first_byte < timing.end);
        assert!(timing.end - timing.first_byte >= Duration::from_millis(150), "{timing:?}");
    }

    #[test]
    fn a_marker_is_waited_for() {
        let timing = until_first_byte_and_end(&mut shell("echo noise; sleep 0.2; printf '\\026'"), Some(0x16)).unwrap();
        assert!(timing.first_byte >= Duration::from_millis(150), "{timing:?}");
        assert!(until_first_byte_and_end(&mut shell("echo noise"), Some(0x16)).is_err());
    }

    #[test]
    fn silence_and_failure() {
        let timing = until_first_byte_and_end(&mut shell("true"), None).unwrap();
        assert!(timing.first_byte <= timing.end);
        assert!(until_first_byte_and_end(&mut shell("exit 3"), None).is_err());
    }
}
