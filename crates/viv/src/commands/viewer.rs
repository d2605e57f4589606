//! Our terminal as the viewer of a session.

use viv_sandbox::{Record, SessionConnection, SessionInfo};

use super::{Limits, conclude};
use crate::error::{self, Error, ErrorKind, Failure};
use crate::output::Printer;
use crate::terminal::{Descriptor, DetachKeys, End, Session, SessionOptions, Signals, Streams};

/// What to call a session on a command line.
#[must_use]
pub fn name_of(session: &SessionInfo) -> String {
    session.name.clone().unwrap_or_else(|| session.number.to_string())
}

/// Shows a session until it ends or is left, and returns what `viv` exits with. `keys` leave it.
///
/// # Errors
/// A sandbox that ended first.
pub async fn view(
    connection: SessionConnection,
    record: &Record,
    keys: DetachKeys,
    signals: &mut Signals,
    printer: &Printer,
) -> Result<u8, Failure> {
    let SessionConnection { session: info, reader, writer } = connection;
    let streams = Streams {
        stdin: Box::new(Descriptor::stdin()),
        stdout: Box::new(Descriptor::stdout()),
        stderr: Box::new(Descriptor::stderr()),
    };
    let options = SessionOptions { terminal: true, timeout: None, detach: Some(keys) };
    let session = Session::begin(writer, streams, options).map_err(error::io("cannot use the terminal"))?;
    let (end, _) = session.run(reader, signals, std::future::pending()).await;
    match &end {
        End::Detached => {
            let sandbox = record.called();
            // Wherever the program has left the cursor.
            printer.note_unfinished_line(true);
            printer.note(&format!("left session {}, which goes on: viv attach {sandbox} {0}", name_of(&info)));
        }
        End::Disconnected(_) => {
            let lost = format!("session {} of sandbox {} was lost while its program ran", name_of(&info), record.id);
            return Err(Error::new(ErrorKind::SandboxLost, lost).into());
        }
        _ => {}
    }
    conclude(&end, printer, Limits { memory: record.memory_mib << 20, disk: None, timeout: None })
}
