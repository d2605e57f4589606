//! One step of changing the host's network, and carrying it out.

use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};

use serde::Serialize;

use super::error::io;
use super::{Error, ErrorKind, Result, find_program};

/// One step of changing the host's network, as someone would type it. All of them take root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Runs `ip` with these arguments.
    Ip {
        /// Its arguments.
        arguments: Vec<String>,
    },
    /// Has nftables take this up, all of it or nothing.
    Rules {
        /// What is read by `nft -f -`.
        ruleset: String,
    },
    /// Sets a parameter of the kernel.
    Sysctl {
        /// Its name, with `/` between the parts: an interface's name may have a dot.
        name: String,
        /// Its value.
        value: String,
    },
}

impl Step {
    pub(super) fn ip(arguments: &str) -> Self {
        Self::Ip { arguments: arguments.split_ascii_whitespace().map(str::to_owned).collect() }
    }

    pub(super) fn sysctl(name: impl Into<String>, value: impl ToString) -> Self {
        Self::Sysctl { name: name.into(), value: value.to_string() }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip { arguments } => {
                f.write_str("ip")?;
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,./:".contains(c);
                arguments.iter().try_for_each(|argument| {
                    if !argument.is_empty() && argument.chars().all(plain) {
                        write!(f, " {argument}")
                    } else {
                        write!(f, " '{}'", argument.replace('\'', "'\\''"))
                    }
                })
            }
            Self::Rules { ruleset } => write!(f, "nft -f - <<'.'\n{}\n.", ruleset.trim_end()),
            Self::Sysctl { name, value } => write!(f, "sysctl -w {name}={value}"),
        }
    }
}

/// Carries a step out and waits for its end.
///
/// # Errors
/// [`ErrorKind::ProgramMissing`]; [`ErrorKind::Failed`] in the program's own words;
/// [`ErrorKind::Io`] for a parameter that cannot be set.
pub fn carry_out(step: &Step) -> Result<()> {
    match step {
        Step::Ip { arguments } => output("ip", arguments, "").map(drop),
        Step::Rules { ruleset } => output("nft", &["-f".to_owned(), "-".to_owned()], ruleset).map(drop),
        Step::Sysctl { name, value } => write_sysctl(name, value),
    }
}

/// A parameter of the kernel; none if there is no such parameter, as without IPv6.
pub(super) fn read_sysctl(name: &str) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().to_owned())
}

fn write_sysctl(name: &str, value: &str) -> Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value).map_err(io(format!("{name} could not be set to {value}")))
}

/// What a program prints that is given `input`.
pub(super) fn output(program: &str, arguments: &[String], input: &str) -> Result<String> {
    let path = find_program(program)?;
    let cannot = || io(format!("{} could not be run", path.display()));
    let mut child = Command::new(&path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot())?;
    if let Some(mut stdin) = child.stdin.take() {
        // Neither program prints before it has read all; one that ends early says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(cannot())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let shown = if input.is_empty() { arguments.join(" ") } else { "with viv's rules".to_owned() };
    Err(Error::new(ErrorKind::Failed, format!("{program} {shown} failed")).source(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_as_it_would_be_typed() {
        let steps = [
            Step::Ip {
                arguments: ["link", "set", "dev", "vivbr", "alias", "viv subnet=x"].map(str::to_owned).to_vec(),
            },
            Step::sysctl("net/ipv4/conf/eth0.5/forwarding", 1),
            Step::Rules { ruleset: "table inet x {\n}\n".to_owned() },
        ];
        let shown: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(shown[0], "ip link set dev vivbr alias 'viv subnet=x'");
        assert_eq!(shown[1], "sysctl -w net/ipv4/conf/eth0.5/forwarding=1");
        assert_eq!(shown[2], "nft -f - <<'.'\ntable inet x {\n}\n.");
    }

    #[test]
    fn a_failure_is_in_the_programs_words() {
        let error = output("sh", &["-c".to_owned(), "echo no such thing >&2; exit 2".to_owned()], "").unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Failed);
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no such thing");
    }
}
