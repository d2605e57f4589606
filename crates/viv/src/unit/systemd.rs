//! What systemd is told by a process of its: that it is ready (sd_notify(3)), and lines for its journal
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

/// Where the journal takes entries.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// A longer line is cut, bytes: as long as the journal's own of a stream (journald.conf(5), `LineMax`), and less than a
/// datagram may be.
const LONGEST_LINE_BYTES: usize = 48 << 10;

/// Tells the manager that started this process how it is, such as `READY=1`; nobody, if it was started otherwise.
///
/// # Errors
/// The kernel's, if the manager cannot be told.
pub fn notify(state: &str) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(socket) => notify_at(&socket, state),
        None => Ok(()),
    }
}

fn notify_at(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// How much a line matters: syslog's levels, as far as they are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It did not work.
    Error = 3,
    /// It did.
    Info = 6,
}

/// Where a unit's process says what it does: in the journal, with the sandbox as a field of each entry, or on standard
/// error.
#[derive(Debug, Clone)]
pub struct Journal {
    sandbox: String,
    socket: Option<Arc<UnixDatagram>>,
}

impl Journal {
    /// The journal, if standard error is a stream of it (`JOURNAL_STREAM`, systemd.exec(5)).
    #[must_use]
    pub fn open(sandbox: &str) -> Self {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let socket = || {
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect(JOURNAL).ok()?;
            Some(Arc::new(socket))
        };
        let socket = if is_stderr(&stream) { socket() } else { None };
        Self { sandbox: sandbox.to_owned(), socket }
    }

    /// Says something: an entry for each line.
    pub fn say(&self, level: Level, text: &str) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let sent = self.socket.as_ref().map(|socket| socket.send(&entry(&self.sandbox, level, line)));
            if !matches!(sent, Some(Ok(_))) {
                // Whoever reads it understands the prefix (sd-daemon(3)), or does not mind it. If nobody can be told,
                // there is nobody to tell that to.
                let prefix = if self.socket.is_some() { format!("<{}>", level as u8) } else { String::new() };
                let _ = writeln!(io::stderr(), "{prefix}{line}");
            }
        }
    }
}

/// Whether `DEVICE:INODE` is our standard error.
fn is_stderr(stream: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    let numbers = stream.split_once(':').and_then(|(device, inode)| Some((number(device)?, number(inode)?)));
    let facts = rustix::fs::fstat(rustix::stdio::stderr().as_fd());
    matches!((numbers, facts), (Some((device, inode)), Ok(facts)) if facts.st_dev == device && facts.st_ino == inode)
}

/// An entry. None of its values has a line break, so all are in the simple form, `NAME=VALUE`.
fn entry(sandbox: &str, level: Level, line: &str) -> Vec<u8> {
    let mut end = line.len().min(LONGEST_LINE_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    format!(
        "MESSAGE={}\nPRIORITY={}\nSYSLOG_IDENTIFIER=viv-{sandbox}\nVIV_SANDBOX={sandbox}\n",
        &line[..end],
        level as u8
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_sandbox_as_a_field() {
        let text = String::from_utf8(entry("web", Level::Error, "viv: no such image")).unwrap();
        assert_eq!(text, "MESSAGE=viv: no such image\nPRIORITY=3\nSYSLOG_IDENTIFIER=viv-web\nVIV_SANDBOX=web\n");
        let long = "ü".repeat(LONGEST_LINE_BYTES);
        assert!(entry("web", Level::Info, &long).len() < LONGEST_LINE_BYTES + 100);
    }

    #[test]
    fn the_manager_is_told_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("viv-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let cases = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}").into()),
        ];
        for (manager, socket) in cases {
            notify_at(&socket, "READY=1").unwrap();
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
        assert!(notify_at(OsStr::new("/nonexistent/notify"), "READY=1").is_err());
    }

    #[test]
    fn only_the_stream_that_is_ours_is_the_journals() {
        let facts = rustix::fs::fstat(rustix::stdio::stderr()).unwrap();
        assert!(is_stderr(&format!("{}:{}", facts.st_dev, facts.st_ino)));
        for other in ["", "1", "x:y", "0:0"] {
            assert!(!is_stderr(other));
        }
    }
}
