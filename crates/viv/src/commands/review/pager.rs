//! Output that may be longer than a screen.

use std::io::{ErrorKind as IoErrorKind, Write};
use std::process::{Child, Command, Stdio};

use crate::error::{self, Failure};
use crate::exit_code;

/// Standard output, or a pager before it.
pub(super) struct Output {
    sink: Sink,
    /// Whether colours are to be taken out of what is written.
    plain: bool,
}

enum Sink {
    Direct(Box<dyn Write>),
    Pager(Child),
}

impl Output {
    /// Output as git has it: through `$PAGER`, or `less`, unless that is `cat` or cannot be started.
    /// What is not `styled` is written as it is.
    pub(super) fn open(styled: bool, paged: bool) -> Self {
        let plain = styled && anstream::AutoStream::choice(&std::io::stdout()) == anstream::ColorChoice::Never;
        let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
        if paged && !matches!(pager.trim(), "" | "cat") {
            let mut command = Command::new("sh");
            command.args(["-c", &pager]).stdin(Stdio::piped());
            // Quit if it is one screen, show colours, leave the screen as it is.
            for (name, value) in [("LESS", "FRX"), ("LV", "-c")] {
                if std::env::var_os(name).is_none() {
                    command.env(name, value);
                }
            }
            if let Ok(child) = command.spawn() {
                return Self { sink: Sink::Pager(child), plain };
            }
        }
        Self { sink: Sink::Direct(Box::new(std::io::stdout())), plain }
    }

    /// Writes bytes. Colours are left out where they are not wanted.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let stripped = if self.plain { Some(anstream::adapter::strip_bytes(bytes).into_vec()) } else { None };
        let bytes = stripped.as_deref().unwrap_or(bytes);
        let written = match &mut self.sink {
            Sink::Direct(stdout) => stdout.write_all(bytes),
            Sink::Pager(child) => child.stdin.as_mut().map_or(Ok(()), |input| input.write_all(bytes)),
        };
        match written {
            Ok(()) => Ok(()),
            // A pager that was left, or a reader that went away, is an end like head's.
            Err(error) if error.kind() == IoErrorKind::BrokenPipe => match &mut self.sink {
                Sink::Pager(child) => {
                    let _ = child.wait();
                    Err(Failure::quiet(0))
                }
                Sink::Direct(_) => Err(Failure::quiet(exit_code::BROKEN_PIPE)),
            },
            Err(error) => Err(error::io("cannot write standard output")(error).into()),
        }
    }

    /// Waits for the pager to be left.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self.sink {
            Sink::Direct(mut stdout) => {
                stdout.flush().map_err(|error| error::io("cannot write standard output")(error).into())
            }
            Sink::Pager(mut child) => {
                drop(child.stdin.take());
                child.wait().map_err(error::io("the pager cannot be waited for"))?;
                Ok(())
            }
        }
    }
}
