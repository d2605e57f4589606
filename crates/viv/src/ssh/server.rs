//! OpenSSH's server inside: run as `sshd -i` for one connection, over an exec's standard input and output.
//!
//! Nothing of it is in the image or on the sandbox's disk: its configuration, its host key and the one key it accepts
//! come over the link with each connection, into the guest's `/run`, which is memory. It listens nowhere.

use std::collections::BTreeMap;
use std::path::Path;

use viv_proto::message::Exec;

use crate::error::{Error, ErrorKind};
use crate::output::clean::clean;
use crate::resolve::AGENT;

/// Puts everything in its place and becomes sshd. It ends with [`NO_SERVER`] where there is none.
const START: &str = include_str!("server.sh");

/// What sshd runs for every session.
const SESSION: &str = include_str!("session.sh");

/// How [`START`] says that there is no sshd inside. sshd itself ends with 0 or 255.
pub const NO_SERVER: i32 = 127;

/// The configuration of sshd (sshd_config(5), OpenSSH 8.0 and newer). What of it has no comment is sshd's own default,
/// which a distribution may have changed.
///
/// sshd cannot be told where a session begins, and `SetEnv` cannot hold every value: both are done by [`SESSION`]. A
/// forced command takes the place of `internal-sftp`, too, so `session.sh` starts the image's sftp-server for it.
/// `StrictModes` asks who may write the directories above the file of keys: here they are viv's.
const CONFIGURATION: &str = "\
HostKey /run/viv/ssh/host_key
AuthenticationMethods publickey
PubkeyAuthentication yes
AuthorizedKeysFile /run/viv/ssh/authorized_keys
AuthorizedKeysCommand none
AuthorizedPrincipalsFile none
TrustedUserCAKeys none
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitEmptyPasswords no
PermitRootLogin no
UsePAM no
PermitUserEnvironment no
PermitUserRC no
AcceptEnv COLORTERM NO_COLOR
X11Forwarding no
PermitTunnel no
GatewayPorts no
PrintMotd no
PrintLastLog no
UseDNS no
PidFile none
Subsystem sftp internal-sftp
ForceCommand /bin/sh /run/viv/ssh/session
";

/// What one connection is served with.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The sandbox's private host key, in OpenSSH's format.
    pub host_key: &'a str,
    /// The user's public key, a line as in `authorized_keys`.
    pub authorized_key: &'a str,
    /// Where sessions begin.
    pub directory: &'a Path,
}

impl Served<'_> {
    /// The program that serves a connection on its standard input and output; as root, as sshd has to be to become
    /// someone else.
    ///
    /// The key is handed over in the environment, which only root can read, and only until sshd is started.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a directory whose name is not UTF-8.
    pub fn program(&self) -> Result<Exec, Error> {
        let directory = self.directory.to_str().ok_or_else(|| {
            let name = clean(&self.directory.to_string_lossy()).into_owned();
            Error::new(ErrorKind::Usage, format!("the workspace {name} is not UTF-8"))
        })?;
        let session = SESSION.replacen(
            ". /run/viv/ssh/environment\n",
            &format!(". /run/viv/ssh/environment\nVIV_SSH_DIRECTORY={}\n", quoted(directory)),
            1,
        );
        let environment = [
            ("VIV_SSH_CONFIG", format!("# Written by viv.\n{CONFIGURATION}AllowUsers {AGENT}")),
            ("VIV_SSH_AUTHORIZED_KEY", self.authorized_key.trim_end().to_owned()),
            ("VIV_SSH_SESSION", session.trim_end().to_owned()),
            ("VIV_SSH_HOST_KEY", self.host_key.trim_end().to_owned()),
            ("VIV_SSH_USER", AGENT.to_owned()),
        ];
        Ok(Exec {
            argv: ["/bin/sh", "-c", START].map(str::to_owned).into(),
            env: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>(),
            cwd: "/".to_owned(),
            user: "root".to_owned(),
            terminal: None,
        })
    }
}

/// One word for a POSIX shell, whatever is in it.
#[must_use]
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
