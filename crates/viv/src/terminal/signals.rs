//! Signals sent to `viv`, as a stream of events.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::sys;

/// Signals as they come. From its making on, none of them has its default effect.
#[derive(Debug)]
pub struct Signals {
    receiver: mpsc::UnboundedReceiver<i32>,
    sender: mpsc::UnboundedSender<i32>,
}

/// What concerns the program or ends `viv`.
const FORWARDED: [i32; 6] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// What concerns our terminal.
const OF_THE_TERMINAL: [i32; 3] = [libc::SIGWINCH, libc::SIGCONT, libc::SIGTSTP];

impl Signals {
    /// Begins to listen. To be called on the runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen() -> io::Result<Self> {
        Self::listen_to(&FORWARDED)
    }

    /// Begins to listen to some signals only. To be called on the runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen_to(numbers: &[i32]) -> io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let signals = Self { receiver, sender };
        // What was ignored when we were started, as under nohup, stays so.
        for number in numbers.iter().copied().filter(|number| !sys::is_ignored(*number)) {
            signals.add(number)?;
        }
        Ok(signals)
    }

    /// Signals that come from nobody but who holds the other end.
    #[must_use]
    pub fn by_hand() -> (mpsc::UnboundedSender<i32>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender.clone(), Self { receiver, sender })
    }

    /// Also listens to what concerns the terminal: its size, and being stopped and continued.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen_to_terminal(&self) -> io::Result<()> {
        OF_THE_TERMINAL.into_iter().try_for_each(|number| self.add(number))
    }

    fn add(&self, number: i32) -> io::Result<()> {
        let mut source = signal(SignalKind::from_raw(number))?;
        let sender = self.sender.clone();
        tokio::spawn(async move {
            while source.recv().await.is_some() {
                if sender.send(number).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// The next signal's number. Cancel-safe.
    pub async fn next(&mut self) -> i32 {
        match self.receiver.recv().await {
            Some(number) => number,
            // Cannot be: `self.sender` lives.
            None => std::future::pending().await,
        }
    }
}
