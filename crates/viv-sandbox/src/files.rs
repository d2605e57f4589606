//! The files of a running sandbox: the client's end of `archive`.

use std::io::Write;
use std::os::fd::OwnedFd;

use viv_archive::{Carried, Packer, RecordReader};
use viv_error::Kind;
use viv_link::transfer::{self, Asked, Incoming, Outgoing};
use viv_proto::CONTROL_PORT;
use viv_proto::message::{Archive, ArchiveReport, PathFacts, kind};

use crate::error::{adopt, io};
use crate::exec::{ask, broken, connect, request};
use crate::{Error, ErrorKind, Result};

/// The files of a running sandbox. What is done to them is done inside by root.
///
/// Work with files runs on a thread of its own; dropping a future ends the operation, and the work at its next
/// record.
#[derive(Debug)]
pub struct Files(OwnedFd);

impl Files {
    pub(crate) fn new(run_directory: OwnedFd) -> Self {
        Self(run_directory)
    }

    /// What is at an absolute path inside.
    ///
    /// # Errors
    /// The guest's refusal, or whatever became of the sandbox.
    pub async fn look(&self, path: &str) -> Result<PathFacts> {
        let answer = request(&self.0, kind::ARCHIVE, &Archive::Look { path: path.to_owned() }).await?;
        answer.payload_as().map_err(broken)
    }

    /// Puts what `send` sends into a directory inside, for the ordinary user. With `make` it is made if missing.
    /// Returns what was written.
    ///
    /// # Errors
    /// Those of `send`, what went wrong inside, or whatever became of the sandbox.
    pub async fn put<S, K>(&self, directory: &str, make: bool, mut on_progress: OnProgress, send: S) -> Result<Carried>
    where
        S: FnOnce(&mut Packer<'_, Outgoing>) -> std::result::Result<(), viv_error::Error<K>> + Send + 'static,
        K: Kind,
    {
        let wanted = Archive::Put { directory: directory.to_owned(), make };
        let work = move |_incoming, outgoing| {
            let mut packer = Packer::new(outgoing, &mut *on_progress);
            send(&mut packer).map_err(adopt)?;
            packer.end().map_err(adopt)
        };
        self.operate(&wanted, work).await
    }

    /// Has `receive` take what is at a path inside, all of it under the path's last name.
    ///
    /// # Errors
    /// Those of `receive`, what went wrong inside, or whatever became of the sandbox.
    pub async fn get<T, R, K>(&self, path: &str, follow: bool, receive: R) -> Result<T>
    where
        R: FnOnce(&mut RecordReader<Incoming>) -> std::result::Result<T, viv_error::Error<K>> + Send + 'static,
        T: Send + 'static,
        K: Kind,
    {
        let wanted = Archive::Get { path: path.to_owned(), follow };
        let work = |incoming, outgoing| {
            // There is nothing to say.
            drop::<Outgoing>(outgoing);
            receive(&mut RecordReader::new(incoming)).map_err(adopt)
        };
        self.operate(&wanted, work).await
    }

    /// Has `receive` take those files of a directory inside that have these paths, relative to it, in their order.
    ///
    /// # Errors
    /// As [`Files::get`].
    pub async fn pick<T, R, K>(
        &self,
        directory: &str,
        paths: impl Iterator<Item = Vec<u8>> + Send + 'static,
        receive: R,
    ) -> Result<T>
    where
        R: FnOnce(&mut RecordReader<Incoming>) -> std::result::Result<T, viv_error::Error<K>> + Send + 'static,
        T: Send + 'static,
        K: Kind,
    {
        let wanted = Archive::Pick { directory: directory.to_owned() };
        let work = move |incoming, mut outgoing: Outgoing| {
            // It ends with the operation; if it could not send, nothing is received either.
            std::thread::spawn(move || {
                for mut path in paths {
                    path.push(0);
                    outgoing.write_all(&path)?;
                }
                outgoing.flush()
            });
            receive(&mut RecordReader::new(incoming)).map_err(adopt)
        };
        self.operate(&wanted, work).await
    }

    /// Has `receive` take the listing of a directory inside ([`Archive::List`]).
    ///
    /// # Errors
    /// As [`Files::get`].
    pub async fn list<T, R, K>(&self, directory: &str, receive: R) -> Result<T>
    where
        R: FnOnce(&mut RecordReader<Incoming>) -> std::result::Result<T, viv_error::Error<K>> + Send + 'static,
        T: Send + 'static,
        K: Kind,
    {
        let wanted = Archive::List { directory: directory.to_owned() };
        let work = |incoming, outgoing| {
            // There is nothing to say.
            drop::<Outgoing>(outgoing);
            receive(&mut RecordReader::new(incoming)).map_err(adopt)
        };
        self.operate(&wanted, work).await
    }

    async fn operate<T, W>(&self, wanted: &Archive, work: W) -> Result<T>
    where
        W: FnOnce(Incoming, Outgoing) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let mut stream = connect(&self.0, CONTROL_PORT).await?;
        let (_, rest) = ask(&mut stream, kind::ARCHIVE, wanted).await?;
        let asked =
            transfer::ask(&mut stream, &rest, work).await.map_err(io("the sandbox's files were not carried"))?;
        match asked {
            Asked::Done(value, report) => match failure(&report)? {
                None => Ok(value),
                Some(failure) => Err(failure),
            },
            Asked::Failed(error, report) => match report.map(|report| failure(&report)) {
                Some(Ok(Some(failure)) | Err(failure)) => Err(failure),
                _ => Err(error),
            },
            Asked::Refused(report) => match failure(&report)? {
                Some(failure) => Err(failure),
                None => Err(Error::new(ErrorKind::Guest, "the guest ended what it had not done")),
            },
        }
    }
}

/// Told how far it is.
pub type OnProgress = Box<dyn FnMut(&Carried) + Send>;

/// Why the guest says that it did not end well.
fn failure(report: &[u8]) -> Result<Option<Error>> {
    let report: ArchiveReport = serde_json::from_slice(report)
        .map_err(|error| Error::new(ErrorKind::Guest, "the guest broke the protocol").source(error))?;
    Ok(report.failure.map(|failure| Error::new(ErrorKind::Guest, viv_vmm::clean(&failure.message))))
}
