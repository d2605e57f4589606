//! The user ends all attempts: once, and what they changed so far is kept; twice, and they are gone.

use tokio::sync::{mpsc, watch};

use crate::commands::ending_signal;
use crate::error::{self, Failure};
use crate::output::Printer;
use crate::terminal::Signals;

/// How much of a hurry the user is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hurry {
    None,
    /// Programs are to end, and no new ones begin.
    Interrupted,
    /// Sandboxes end, whatever is going on in them.
    AtOnce,
}

/// What attempts hear of it.
#[derive(Debug, Clone)]
pub struct Ending(watch::Receiver<Hurry>);

/// Who says it.
#[derive(Debug)]
pub struct Caller(watch::Sender<Hurry>);

/// Nobody is in a hurry yet.
pub fn channel() -> (Caller, Ending) {
    let (sender, receiver) = watch::channel(Hurry::None);
    (Caller(sender), Ending(receiver))
}

impl Ending {
    /// Whether attempts are to end.
    pub fn is_near(&self) -> bool {
        *self.0.borrow() >= Hurry::Interrupted
    }

    /// Resolves once they are.
    pub async fn interrupted(&self) {
        self.reached(Hurry::Interrupted).await;
    }

    /// Resolves once they are to end at once.
    pub async fn at_once(&self) {
        self.reached(Hurry::AtOnce).await;
    }

    async fn reached(&self, hurry: Hurry) {
        // Who could say it is there as long as attempts are.
        if self.0.clone().wait_for(|now| *now >= hurry).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Caller {
    /// Ends all of them, whatever is going on in them.
    pub fn at_once(&self) {
        self.0.send_replace(Hurry::AtOnce);
    }

    /// Passes on what the user wants until all attempts are over, which is when nobody holds the other end of `running`
    /// any more; returns the signal that ended them, if one did.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub async fn listen(
        &self,
        mut running: mpsc::Receiver<std::convert::Infallible>,
        printer: &Printer,
    ) -> Result<Option<i32>, Failure> {
        let mut signals = Signals::listen().map_err(error::io("cannot listen to signals"))?;
        let mut first = None;
        loop {
            tokio::select! {
                _ = running.recv() => return Ok(first),
                number = ending_signal(&mut signals) => match first {
                    None => {
                        first = Some(number);
                        self.0.send_replace(Hurry::Interrupted);
                        printer.note("ending the attempts, and keeping what they changed; once more ends them at once");
                    }
                    Some(_) => self.at_once(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_late_hears_it_as_well() {
        let (caller, ending) = channel();
        let early = tokio::spawn({
            let ending = ending.clone();
            async move { ending.interrupted().await }
        });
        assert!(!ending.is_near());
        caller.0.send_replace(Hurry::Interrupted);
        early.await.unwrap();
        assert!(ending.is_near());
        ending.interrupted().await;
        caller.at_once();
        ending.at_once().await;
        ending.interrupted().await;
    }
}
