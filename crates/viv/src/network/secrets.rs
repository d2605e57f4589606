//! Secrets for the guest, read on the host.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use viv_net::gateway::Credential;
use viv_proto::message::Secret;

use crate::error::{self, Error, ErrorKind};
use crate::settings::layer::SecretSetting;

/// A longer secret is none. Bytes; a control message holds twice as much.
const LONGEST_BYTES: u64 = 32 * 1024;

/// Reads all secrets.
///
/// # Errors
/// The first source that has none, without a byte of what it holds.
pub fn read(
    wanted: &BTreeMap<String, SecretSetting>,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<Secret>, Error> {
    wanted
        .iter()
        .map(|(name, setting)| {
            let value = value(name, &setting.source, variables)?;
            if value.len() as u64 > LONGEST_BYTES {
                return Err(Error::new(ErrorKind::Usage, format!("the secret {name} is longer than 32 KiB")));
            }
            Ok(Secret { name: name.clone(), value })
        })
        .collect()
}

fn value(name: &str, source: &Credential, variables: &BTreeMap<String, String>) -> Result<String, Error> {
    let failed = |what: String| Error::new(ErrorKind::NotFound, format!("the secret {name} is not there: {what}"));
    match source {
        Credential::Env(variable) => {
            variables.get(variable).cloned().ok_or_else(|| failed(format!("{variable} is not set")))
        }
        // Whole, unlike a key: a certificate or a JSON file is a secret, too.
        Credential::File(path) => {
            let read = || -> std::io::Result<String> {
                let mut text = String::new();
                std::fs::File::open(path)?.take(LONGEST_BYTES + 1).read_to_string(&mut text)?;
                Ok(text)
            };
            read().map_err(|error| failed(format!("{} cannot be read", path.display())).source(error))
        }
        Credential::Command(words) => {
            let [program, arguments @ ..] = words.as_slice() else { return Err(failed("no command".to_owned())) };
            let run = || error::io(format!("the secret {name} is not there: {program} cannot be run"));
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::inherit())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(run())?;
            let mut line = String::new();
            if let Some(output) = child.stdout.take() {
                BufReader::new(output.take(LONGEST_BYTES + 1)).read_line(&mut line).map_err(run())?;
            }
            let status = child.wait().map_err(run())?;
            if !status.success() {
                return Err(failed(format!("{program} ended with {status}")));
            }
            Ok(line.trim_end_matches(['\r', '\n']).to_owned())
        }
        Credential::Login(_) | Credential::None => Err(failed("a secret has another source".to_owned())),
    }
}
