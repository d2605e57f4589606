//! The life of sandboxes: `viv up`, `down`, `start`, `stop`, `kill`, `restart`, `rm`, `pause`, `resume`, `rename`,
//! `ps`, `inspect`, `wait` and `disk`.

mod choice;
pub mod disk;
pub mod machine;
mod outcome;
mod programs;
pub mod show;
mod targets;
pub mod up;
pub mod wait;

use viv_sandbox::Paths;

use crate::environment::HostEnvironment;
use crate::error::Failure;
use crate::output::Printer;

pub use choice::Verb;
pub use programs::Programs;
pub use targets::{everything, running_one};

/// What every command looks at.
pub struct Desk<'a> {
    host: HostEnvironment,
    paths: Paths,
    printer: &'a Printer,
}

impl<'a> Desk<'a> {
    /// Looks around.
    ///
    /// # Errors
    /// A host without a current directory, or without a place for viv's own.
    fn open(printer: &'a Printer) -> Result<Self, Failure> {
        Ok(Self { host: HostEnvironment::probe()?, paths: Paths::from_environment()?, printer })
    }
}
