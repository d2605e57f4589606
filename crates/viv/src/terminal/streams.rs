//! A thread for each blocking stream, bounded by credit.

use std::io::{self, Read, Write};
use std::sync::mpsc as blocking;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use viv_proto::MAX_FRAME_BYTES;
use viv_proto::credit::SendCredit;
use viv_proto::frame::{ByteStream, Frame};

use viv_sandbox::ModeTracker;

/// Our side's three streams.
pub struct Streams {
    /// Where the program's input comes from.
    pub stdin: Box<dyn Read + Send>,
    /// Where its output goes.
    pub stdout: Box<dyn Write + Send>,
    /// Where its errors go.
    pub stderr: Box<dyn Write + Send>,
}

/// What goes to the guest.
#[derive(Debug)]
pub enum Outgoing {
    /// This frame.
    Frame(Frame),
    /// Nothing more: close the stream.
    Close,
}

/// What a writing thread reports.
#[derive(Debug)]
pub enum Written {
    /// So many bytes have left our hands, or were thrown away because nobody reads them.
    Bytes(ByteStream, u32),
    /// Everything was written.
    Finished(ByteStream),
    /// Nothing more can be written.
    Failed(ByteStream, io::Error),
}

/// The room the guest has granted for stdin.
#[derive(Debug, Default)]
pub struct StdinCredit {
    credit: Mutex<SendCredit>,
    more: Condvar,
}

impl StdinCredit {
    /// The guest granted more.
    pub fn grant(&self, bytes: u32) {
        lock(&self.credit).grant(bytes);
        self.more.notify_one();
    }

    fn wait(&self) -> usize {
        let mut credit = lock(&self.credit);
        while credit.available() == 0 {
            credit = self.more.wait(credit).unwrap_or_else(PoisonError::into_inner);
        }
        credit.available() as usize
    }

    fn spend(&self, bytes: usize) {
        lock(&self.credit).spend(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

/// Reads stdin for as long as anyone wants it, never more than there is credit for: what the
/// program does not read stays where it is. A terminal has no end to tell the guest of.
pub fn spawn_reader(
    mut stdin: Box<dyn Read + Send>,
    credit: Arc<StdinCredit>,
    frames: mpsc::UnboundedSender<Outgoing>,
    is_terminal: bool,
) -> io::Result<()> {
    spawn("stdin", move || {
        let mut buffer = vec![0; MAX_FRAME_BYTES];
        loop {
            let room = credit.wait().min(buffer.len());
            match stdin.read(&mut buffer[..room]) {
                // A stdin that cannot be read has ended for the program.
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    credit.spend(read);
                    let frame = Frame::Data(ByteStream::Stdin, buffer[..read].to_vec());
                    if frames.send(Outgoing::Frame(frame)).is_err() {
                        return;
                    }
                }
            }
        }
        if !is_terminal {
            let _ = frames.send(Outgoing::Frame(Frame::End(ByteStream::Stdin)));
        }
    })
}

/// Writes what it is sent; credit bounds how much that can be.
pub fn spawn_writer(
    stream: ByteStream,
    mut output: Box<dyn Write + Send>,
    modes: Option<Arc<Mutex<ModeTracker>>>,
    reports: mpsc::UnboundedSender<Written>,
) -> io::Result<blocking::Sender<Vec<u8>>> {
    let (sender, receiver) = blocking::channel::<Vec<u8>>();
    spawn(if stream == ByteStream::Stdout { "stdout" } else { "stderr" }, move || {
        let mut broken = false;
        for bytes in receiver {
            if !broken {
                // Before writing: a thread that is cut off in the middle has then noted too much
                // rather than too little.
                if let Some(modes) = &modes {
                    lock(modes).feed(&bytes);
                }
                if let Err(error) = output.write_all(&bytes).and_then(|()| output.flush()) {
                    broken = true;
                    let _ = reports.send(Written::Failed(stream, error));
                }
            }
            let _ = reports.send(Written::Bytes(stream, u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
        }
        let _ = reports.send(Written::Finished(stream));
    })?;
    Ok(sender)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(body).map(drop)
}

/// Locks; what a panicked thread left behind is still as good as any.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
