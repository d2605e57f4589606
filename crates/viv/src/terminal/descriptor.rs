//! Standard streams without the buffering and locking of `std::io`.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios;

/// One of the three standard streams.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor(BorrowedFd<'static>);

impl Descriptor {
    /// Standard input.
    #[must_use]
    pub fn stdin() -> Self {
        Self(rustix::stdio::stdin())
    }

    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self(rustix::stdio::stdout())
    }

    /// Standard error.
    #[must_use]
    pub fn stderr() -> Self {
        Self(rustix::stdio::stderr())
    }

    fn wait(self, flags: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::from_borrowed_fd(self.0, flags)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A job in the background that reads the terminal is stopped by the kernel, and with it
    /// its sandbox, even if the program inside never reads. So it waits for the foreground.
    fn wait_for_foreground(self) {
        while termios::isatty(self.0)
            && termios::tcgetpgrp(self.0).is_ok_and(|foreground| foreground != rustix::process::getpgrp())
        {
            // There is no event for it.
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
}

impl Read for Descriptor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait_for_foreground();
            match rustix::io::read(self.0, &mut *buffer) {
                // Someone else's O_NONBLOCK on a shared descriptor.
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl Write for Descriptor {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, buffer) {
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
