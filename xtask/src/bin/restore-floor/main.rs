//! The floor of a start from a template: the smallest client that restores the same VMM from the
//! same template, has a share mounted in it, runs one program, and ends.
//!
//! What `cargo xtask bench start` compares a start of `viv` with. Nothing of `viv` is on its path,
//! nothing is checked, kept or reported that the result does not need; it waits for nothing but
//! the guest.
//!
//! Usage: `restore-floor PLAN PROGRAM [ARGUMENT...]`. Prints what the program prints, and with
//! `RESTORE_FLOOR_TIMES` set, on standard error, when it got how far.

mod machine;
mod yamux;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// No restore takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(60);

/// The length of tokens and nonces of the handshake.
const TOKEN_BYTES: usize = 16;

/// What is skipped before a guest's answer, at most.
const MOST_LEFT_OVER: usize = 64 * 1024;

/// The protocol's version, as in the handshake.
const VERSION: [u8; 4] = 1u32.to_le_bytes();

const CONNECT: &[u8] = b"CONNECT 5000\n";

/// Kinds of frames; see `viv_proto::frame`.
const STDIN_END: u8 = 3;
const STDOUT: u8 = 1;
const EXIT: u8 = 9;

/// What to restore; written by the bench.
#[derive(Deserialize)]
struct Plan {
    /// The VMM's command line, with `{link}`, `{shares}`, `{monitor}`, `{scratch}` and `{memory}`
    /// where numbers of descriptors belong. It waits to be told where its state comes from.
    machine: Vec<String>,
    file_daemon: PathBuf,
    /// What the file daemon serves.
    directory: PathBuf,
    scratch: PathBuf,
    memory: PathBuf,
    devices: PathBuf,
    /// What the next session with the guest begins with, in hexadecimal.
    link_token: String,
    /// What makes the guest a sandbox, but for clock and randomness.
    configure: BTreeMap<String, Value>,
    /// Who runs the program, where and with what environment.
    exec: BTreeMap<String, Value>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("restore-floor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let begun = Instant::now();
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let mut mark = |name| times.push((name, begun.elapsed()));
    let mut arguments = std::env::args().skip(1);
    let plan = arguments.next().context("usage: restore-floor PLAN PROGRAM [ARGUMENT...]")?;
    let program: Vec<String> = arguments.collect();
    let plan: Plan = serde_json::from_slice(&std::fs::read(plan)?)?;
    let token = token(&plan.link_token)?;

    let machine = machine::Machine::start(&plan)?;
    mark("memory filled");
    machine.link.set_read_timeout(Some(DEADLINE))?;
    greet(&machine.link, &token)?;
    mark("link answered");
    let mut session = yamux::Session::new(&machine.link);

    let mut configure = session.open(&[CONNECT, &line("configure", &configuration(&plan)?)?].concat())?;
    ensure!(configure.line()? == b"OK", "the guest refused the control port");
    result(&configure.line()?)?;
    mark("configured");

    let mut wanted = plan.exec.clone();
    wanted.insert("argv".to_owned(), program.into());
    let mut exec = session.open(&[CONNECT, &line("exec", &json!(wanted))?].concat())?;
    ensure!(exec.line()? == b"OK", "the guest refused the control port");
    result(&exec.line()?)?;
    mark("program started");
    exec.write(&[STDIN_END, 0, 0, 0, 0])?;
    let mut output = std::io::stdout().lock();
    let report = loop {
        let header = exec.bytes(5)?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
        let payload = exec.bytes(length as usize)?;
        match header[0] {
            STDOUT => {
                output.write_all(&payload)?;
                output.flush()?;
                mark("output");
            }
            EXIT => break payload,
            _ => {}
        }
    };
    mark("program ended");
    let report: Value = serde_json::from_slice(&report)?;
    machine.end()?;
    mark("torn down");
    if std::env::var_os("RESTORE_FLOOR_TIMES").is_some() {
        let times: Vec<String> =
            times.iter().map(|(name, time)| format!("{:.1} {name}", time.as_secs_f64() * 1e3)).collect();
        eprintln!("{}", times.join(", "));
    }
    ensure!(report["code"] == 0, "the program ended with {report}");
    Ok(())
}

fn token(hexadecimal: &str) -> Result<[u8; TOKEN_BYTES]> {
    let mut token = [0; TOKEN_BYTES];
    ensure!(hexadecimal.len() == 2 * TOKEN_BYTES && hexadecimal.is_ascii(), "not a token: {hexadecimal}");
    for (index, byte) in token.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hexadecimal[2 * index..2 * index + 2], 16)?;
    }
    Ok(token)
}

fn random<const COUNT: usize>() -> Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The handshake. The guest's answer begins with the nonce; what comes before it is what the template's
/// own last session left.
fn greet(mut link: &UnixStream, token: &[u8; TOKEN_BYTES]) -> Result<()> {
    let nonce: [u8; TOKEN_BYTES] = random()?;
    link.write_all(&[&token[..], &VERSION, &nonce].concat())?;
    let mut read = vec![0; TOKEN_BYTES];
    link.read_exact(&mut read).context("the guest does not answer")?;
    while !read.ends_with(&nonce) {
        ensure!(read.len() < MOST_LEFT_OVER, "the guest answers something else");
        let mut byte = [0];
        link.read_exact(&mut byte)?;
        read.extend_from_slice(&byte);
    }
    link.read_exact(&mut [0; VERSION.len() + TOKEN_BYTES])?;
    Ok(())
}

fn configuration(plan: &Plan) -> Result<Value> {
    let mut message = plan.configure.clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    message.insert("wall_clock_ns".to_owned(), u64::try_from(now.as_nanos())?.into());
    message.insert("entropy".to_owned(), hexadecimal(&random::<32>()?).into());
    message.insert("machine_id".to_owned(), hexadecimal(&random::<16>()?).into());
    Ok(json!(message))
}

fn line(kind: &str, payload: &Value) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&json!({ "id": kind, "type": kind, "version": 1, "payload": payload }))?;
    line.push(b'\n');
    Ok(line)
}

fn result(line: &[u8]) -> Result<()> {
    let answer: Value = serde_json::from_slice(line)?;
    if answer["type"] != "result" {
        bail!("the guest refused: {answer}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_behind_what_an_earlier_session_left() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let guest = std::thread::spawn(move || {
            let mut hello = [0; TOKEN_BYTES + VERSION.len() + TOKEN_BYTES];
            theirs.read_exact(&mut hello).unwrap();
            let nonce = &hello[TOKEN_BYTES + VERSION.len()..];
            theirs.write_all(&[&[7; 50], nonce, &VERSION, &[9; TOKEN_BYTES], b"next"].concat()).unwrap();
            hello[..TOKEN_BYTES].to_vec()
        });
        greet(&ours, &[5; TOKEN_BYTES]).unwrap();
        let mut next = [0; 4];
        (&ours).read_exact(&mut next).unwrap();
        assert_eq!(next, *b"next");
        assert_eq!(guest.join().unwrap(), [5; TOKEN_BYTES]);
    }

    #[test]
    fn tokens_are_hexadecimal() {
        assert_eq!(token("000102030405060708090a0b0c0d0eff").unwrap()[15], 255);
        assert!(token("00").is_err() && token(&"x".repeat(32)).is_err());
        assert_eq!(hexadecimal(&[0, 255]), "00ff");
    }
}
