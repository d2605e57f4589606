//! Layers out of a registry: several at a time, each kept in the cache by its digest, and read while
//! it still comes.
//!
//! ```text
//! 4 threads:  layer n -> in the cache? else downloaded, hashed, written --> kept by its digest
//!                                              | grows
//! caller:     layer 0, 1, ... ----------> read as far as it is there -> unpacked -> the image
//! ```
//!
//! What is read before its digest is known is data for a parser that trusts nothing, on its way into
//! a file that is thrown away if the digest is not what it should be.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::assemble::Layers;
use super::manifest::Blob;
use super::registry::Registry;
use crate::cache::{Built, Cache, Recipe};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::progress::{NoProgress, Progress, ProgressEvent};

/// As many as Docker downloads at once, and one.
const AT_ONCE: usize = 4;

/// Progress is reported in so many steps.
const STEPS: u64 = 100;

/// The kind of the refs that keep layers as they were downloaded.
pub(crate) const BLOB_KIND: &str = "oci-blob";

/// The layers of one image, on their way.
pub(super) struct Downloads<'a> {
    layers: &'a [Blob],
    states: Mutex<States>,
    changed: Condvar,
    next: AtomicUsize,
    cancel: watch::Sender<bool>,
    progress: &'a dyn Progress,
}

struct States {
    layers: Vec<State>,
    /// Why the first of those that failed did.
    failure: Option<Error>,
    /// Bytes of all layers that are there, and that were read.
    received: u64,
    used: u64,
    reported: u64,
}

#[derive(Clone, Default)]
struct State {
    file: Option<Arc<File>>,
    /// Bytes that can be read.
    there: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    /// All is there, and is what it should be.
    Whole,
    Failed,
}

impl<'a> Downloads<'a> {
    /// Has `use_them` read the layers while they are downloaded.
    ///
    /// # Errors
    /// Those of `use_them`, or of the download that made it fail.
    pub(super) fn run<T>(
        cache: &Cache,
        registry: &Registry,
        layers: &'a [Blob],
        progress: &'a dyn Progress,
        use_them: impl FnOnce(&mut Reading<'_, 'a>) -> Result<T>,
    ) -> Result<T> {
        let downloads = Self {
            layers,
            states: Mutex::new(States {
                layers: vec![State::default(); layers.len()],
                failure: None,
                received: 0,
                used: 0,
                reported: 0,
            }),
            changed: Condvar::new(),
            next: AtomicUsize::new(0),
            cancel: watch::Sender::new(false),
            progress,
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(layers.len()) {
                scope.spawn(|| downloads.work(cache, registry));
            }
            // Also if the caller panics: the scope waits for its threads.
            let _stop = Stop(&downloads.cancel);
            use_them(&mut Reading { downloads: &downloads })
        })
    }

    /// Downloads one layer after the other, until none is left or one failed.
    fn work(&self, cache: &Cache, registry: &Registry) {
        let mut client = None;
        while !*self.cancel.borrow() {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.layers.len() {
                return;
            }
            if let Err(error) = self.layer(cache, registry, &mut client, index) {
                let mut states = self.lock();
                states.failure.get_or_insert(error);
                // Nothing that is still to come will.
                for state in states.layers.iter_mut().filter(|state| state.end.is_none()) {
                    state.end = Some(End::Failed);
                }
                self.cancel.send_replace(true);
                self.changed.notify_all();
                return;
            }
        }
    }

    fn layer<'r>(
        &self,
        cache: &Cache,
        registry: &'r Registry,
        client: &mut Option<super::registry::Client<'r>>,
        index: usize,
    ) -> Result<()> {
        let blob = &self.layers[index];
        let what = name(self.layers, index);
        let recipe = Recipe { kind: BLOB_KIND, text: blob.digest.to_string(), what: what.clone() };
        let mut downloaded = false;
        // Whoever else downloads it is waited for.
        let made = cache.ensure(&recipe, &NoProgress, |staging| {
            if client.is_none() {
                *client = Some(registry.client()?);
            }
            let Some(client) = client.as_ref() else { return Ok(Built::default()) };
            downloaded = true;
            let path = staging.directory.join("layer");
            let file = File::options().read(true).write(true).create_new(true).open(&path);
            let file = Arc::new(file.map_err(io_error("write", &path))?);
            self.change(|states| states.layers[index].file = Some(Arc::clone(&file)));
            let mut sink = |data: &[u8]| {
                (&*file).write_all(data).map_err(io_error("write", &path))?;
                self.change(|states| {
                    states.layers[index].there += data.len() as u64;
                    states.received += data.len() as u64;
                });
                Ok(())
            };
            client.download(blob, &what, &mut self.cancel.subscribe(), &mut sink)?;
            Ok(Built { files: vec![("layer".to_owned(), path)], ..Built::default() })
        })?;
        let kept = made.files.first().map(|file| cache.blob(&file.digest));
        let path = kept.ok_or_else(|| Error::new(ErrorKind::Cache, "the cache's entry of a layer is empty"))?;
        let file = if downloaded { None } else { Some(File::open(&path).map_err(io_error("read", &path))?) };
        self.change(|states| {
            if let Some(file) = file {
                states.layers[index].file = Some(Arc::new(file));
                states.layers[index].there = blob.size;
                states.received += blob.size;
            }
            states.layers[index].end = Some(End::Whole);
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, States> {
        // What it holds is whole at any time.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut States)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `of` is so of a layer.
    fn wait(&self, index: usize, of: impl Fn(&State) -> bool) -> State {
        let mut states = self.lock();
        loop {
            if let Some(done) = self.to_report(&mut states) {
                drop(states);
                self.progress.event(ProgressEvent::Fraction { done, total: STEPS });
                states = self.lock();
                continue;
            }
            let state = &states.layers[index];
            if of(state) || state.end.is_some() {
                return state.clone();
            }
            states = self.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How far it is, if that has changed: half of the way is downloading, half unpacking.
    fn to_report(&self, states: &mut States) -> Option<u64> {
        let total: u64 = self.layers.iter().map(|layer| layer.size).sum::<u64>().saturating_mul(2);
        let done = states.received.saturating_add(states.used).saturating_mul(STEPS).checked_div(total)?;
        // The end is reached when the image is there.
        let done = done.min(STEPS - 1);
        (done > states.reported).then(|| {
            states.reported = done;
            done
        })
    }
}

/// What an error calls a layer.
fn name(layers: &[Blob], index: usize) -> String {
    format!("layer {} of {} ({})", index + 1, layers.len(), layers[index].digest)
}

struct Stop<'a>(&'a watch::Sender<bool>);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// Reads the layers as they come.
pub(super) struct Reading<'d, 'a> {
    downloads: &'d Downloads<'a>,
}

impl Layers for Reading<'_, '_> {
    fn name(&self, index: usize) -> String {
        name(self.downloads.layers, index)
    }

    fn open(&mut self, index: usize) -> Result<Box<dyn Read + '_>> {
        Ok(Box::new(Growing { downloads: self.downloads, index, read: 0 }))
    }

    fn verify(&mut self, index: usize) -> Result<()> {
        let state = self.downloads.wait(index, |_| false);
        if state.end == Some(End::Whole) {
            return Ok(());
        }
        let failure = self.downloads.lock().failure.take();
        Err(failure.unwrap_or_else(|| Error::new(ErrorKind::Cancelled, "the download was given up")))
    }
}

/// One layer, as far as it is there.
struct Growing<'d, 'a> {
    downloads: &'d Downloads<'a>,
    index: usize,
    read: u64,
}

impl Read for Growing<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.downloads.wait(self.index, |state| state.there > self.read);
        let available = state.there.saturating_sub(self.read);
        match (&state.file, available) {
            (Some(file), 1..) => {
                let count = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
                let count = file.read_at(&mut buffer[..count], self.read)?;
                self.read += count as u64;
                self.downloads.lock().used += count as u64;
                Ok(count)
            }
            _ if state.end == Some(End::Whole) => Ok(0),
            _ => Err(io::Error::other("the download failed")),
        }
    }
}
