//! What OpenSSH's client is told: the same words for `viv ssh`, as options, and for everyone else, as a file.
//!
//! Everything that would have the client ask a question, try the user's own keys or show the guest more than it needs is
//! switched off, and first: of several values ssh_config(5) takes the first.

use std::path::{Path, PathBuf};

use super::server::quoted;
use crate::error::{Error, ErrorKind};
use crate::output::clean::clean;
use crate::resolve::AGENT;

/// What the names of all sandboxes begin with, for ssh.
pub const PREFIX: &str = "viv-";

/// The user's private key, in the directory of [`Client`].
pub const IDENTITY: &str = "id_ed25519";

/// The hosts' public keys.
pub const KNOWN_HOSTS: &str = "known_hosts";

/// The file to include.
pub const CONFIGURATION: &str = "config";

/// What the client's configuration depends on.
#[derive(Debug, Clone)]
pub struct Client {
    /// `viv`'s own path.
    pub executable: PathBuf,
    /// Where keys and the file to include are.
    pub directory: PathBuf,
    /// What `viv` has to find in its environment to see the same sandboxes.
    pub environment: Vec<(String, String)>,
}

/// A sandbox, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name for ssh, with [`PREFIX`].
    pub host: String,
    /// The directory it works in.
    pub workspace: PathBuf,
}

impl Client {
    /// Checks that ssh's configuration can hold these paths: it has no way to write some characters, or one that
    /// depends on its version.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] names the path.
    pub fn new(executable: PathBuf, directory: PathBuf, environment: Vec<(String, String)>) -> Result<Self, Error> {
        let variables = environment.iter().map(|(_, value)| Path::new(value));
        for path in [executable.as_path(), directory.as_path()].into_iter().chain(variables) {
            let fits = path.to_str().is_some_and(|text| !text.contains(is_special));
            if !fits {
                let shown = clean(&path.to_string_lossy()).into_owned();
                return Err(Error::new(ErrorKind::Usage, format!("ssh's configuration cannot hold the path {shown}"))
                    .hint("a path without \" \\ % $ * ? [ ] and control characters, such as XDG_STATE_HOME=~/.viv"));
            }
        }
        Ok(Self { executable, directory, environment })
    }

    /// A file of the directory, as the configuration has it.
    fn file(&self, name: &str) -> String {
        in_quotes(&self.directory.join(name))
    }

    /// The options that all sandboxes have in common; `host` is the name as the proxy gets it, for a shell.
    fn common(&self, host: &str) -> Vec<(&'static str, String)> {
        let mut proxy = String::new();
        if !self.environment.is_empty() {
            proxy.push_str("env ");
            for (name, value) in &self.environment {
                proxy.push_str(&format!("{name}={} ", quoted(value)));
            }
        }
        proxy.push_str(&format!("{} ssh-proxy {host}", quoted(&self.executable.to_string_lossy())));
        let option = |name, value: &str| (name, value.to_owned());
        vec![
            option("User", AGENT),
            option("Port", "22"),
            option("ProxyCommand", &proxy),
            // The first of several is the first that is tried.
            option("IdentityFile", &self.file(IDENTITY)),
            option("IdentitiesOnly", "yes"),
            option("IdentityAgent", "none"),
            option("PreferredAuthentications", "publickey"),
            option("UserKnownHostsFile", &self.file(KNOWN_HOSTS)),
            option("GlobalKnownHostsFile", "/dev/null"),
            option("StrictHostKeyChecking", "yes"),
            option("HostKeyAlgorithms", "ssh-ed25519"),
            option("UpdateHostKeys", "no"),
            option("VerifyHostKeyDNS", "no"),
            option("CheckHostIP", "no"),
            option("CanonicalizeHostname", "no"),
            option("ForwardAgent", "no"),
            option("ForwardX11", "no"),
        ]
    }

    /// The arguments by which ssh reaches one sandbox, whatever its files say.
    #[must_use]
    pub fn options(&self, host: &str) -> Vec<String> {
        let alias = ("HostKeyAlias", host.to_owned());
        let options = std::iter::once(alias).chain(self.common(&quoted(host)));
        options.flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]).collect()
    }

    /// The file to include.
    #[must_use]
    pub fn file_text(&self, entries: &[Entry]) -> String {
        let mut text = format!(
            "# Written by viv ssh-config: changes are lost. In ~/.ssh/config, above everything else:\n\
             #   {}\n",
            self.include_line()
        );
        for Entry { host, workspace } in entries {
            let workspace = clean(&workspace.to_string_lossy()).into_owned();
            text.push_str(&format!("\n# {workspace}\nHost {host}\n    HostKeyAlias {host}\n"));
        }
        text.push_str(
            "\n# Every sandbox, also one that is not listed above. A quote in a name would end that of the\n\
             # shell which runs ProxyCommand; no sandbox has one.\n",
        );
        text.push_str(&format!("Host {PREFIX}* \"!*'*\"\n"));
        for (name, value) in self.common("'%n'") {
            text.push_str(&format!("    {name} {value}\n"));
        }
        text
    }

    /// What ssh has to read for the file to count.
    #[must_use]
    pub fn include_line(&self) -> String {
        format!("Include {}", self.file(CONFIGURATION))
    }
}

/// What a path may not have in it: the quotes and escapes of ssh_config(5), its `%` and `${}`, the patterns of `Include`.
fn is_special(c: char) -> bool {
    matches!(c, '"' | '\\' | '%' | '$' | '*' | '?' | '[' | ']') || c.is_control()
}

fn in_quotes(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

/// Whether a configuration of ssh includes `file` for every host; `home` is what `~` means.
#[must_use]
pub fn includes(configuration: &str, file: &Path, home: &Path) -> bool {
    for line in configuration.lines() {
        let line = line.trim();
        let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
        let (keyword, rest) = line.split_at(end);
        match keyword.to_ascii_lowercase().as_str() {
            // From here on, what is included counts for some hosts only.
            "host" | "match" => return false,
            "include" => {
                let rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '=');
                let words = shlex::split(rest).unwrap_or_default();
                let is_it = |word: &String| match word.strip_prefix("~/") {
                    Some(below) => home.join(below) == file,
                    None => Path::new(word) == file,
                };
                if words.iter().any(is_it) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let environment = vec![("XDG_STATE_HOME".to_owned(), "/home/u/it's state".to_owned())];
        Client::new("/opt/my viv/viv".into(), "/home/u/it's state/viv/ssh".into(), environment).unwrap()
    }

    #[test]
    fn the_file_and_the_options() {
        let entries = ["web", "3f2a91c0"].map(|name| Entry {
            host: format!("{PREFIX}{name}"),
            workspace: PathBuf::from(format!("/home/u/{name}\nHost *")),
        });
        insta::assert_snapshot!(client().file_text(&entries));
        insta::assert_snapshot!(client().options("viv-web").join("\n"));
    }

    #[test]
    fn paths_that_cannot_be_written_down_are_refused() {
        for path in ["/a\"b", "/a\\b", "/100%", "/$HOME", "/a*", "/[a]", "/a\nHost *"] {
            let refused = Client::new("/viv".into(), path.into(), Vec::new()).unwrap_err();
            assert!(refused.to_string().starts_with("ssh's configuration cannot hold"), "{refused}");
        }
    }

    #[test]
    fn an_include_counts_where_it_is_for_every_host() {
        let file = Path::new("/home/u/my state/viv/ssh/config");
        let home = Path::new("/home/u");
        for yes in [
            "Include \"/home/u/my state/viv/ssh/config\"",
            "# x\n\n  include = config.d/* '~/my state/viv/ssh/config'\nHost *\n",
        ] {
            assert!(includes(yes, file, home), "{yes}");
        }
        for no in [
            "",
            "#Include \"/home/u/my state/viv/ssh/config\"",
            "Include /home/u/my state/viv/ssh/config",
            "Host a\n  Include \"/home/u/my state/viv/ssh/config\"",
            "Match all\nInclude \"~/my state/viv/ssh/config\"",
        ] {
            assert!(!includes(no, file, home), "{no}");
        }
        assert!(includes(&client().include_line(), &client().directory.join(CONFIGURATION), home));
    }

    /// The real ssh reads both alike.
    #[test]
    fn ssh_understands_it() {
        let Ok(version) = std::process::Command::new("ssh").arg("-V").output() else {
            eprintln!("SKIPPED: there is no ssh");
            return;
        };
        assert!(version.status.success());
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("it's state/viv/ssh");
        std::fs::create_dir_all(&directory).unwrap();
        let environment = vec![("XDG_STATE_HOME".to_owned(), home.path().join("it's state").display().to_string())];
        let client = Client::new("/opt/my viv/viv".into(), directory.clone(), environment).unwrap();
        let entry = Entry { host: "viv-web".to_owned(), workspace: "/home/u/web".into() };
        std::fs::write(directory.join(CONFIGURATION), client.file_text(&[entry])).unwrap();
        let main = home.path().join("config");
        // The user's own wishes for every host do not reach a sandbox.
        let own = "Host *\n    ForwardAgent yes\n    Port 2222\n    User nobody\n    StrictHostKeyChecking no\n";
        std::fs::write(&main, format!("{}\n{own}", client.include_line())).unwrap();
        let run = |arguments: &[&str]| std::process::Command::new("ssh").arg("-G").args(arguments).output().unwrap();
        let ask = |arguments: &[&str]| {
            let output = run(arguments);
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let file = main.to_str().unwrap();
        let value = |text: &str, name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        let listed = ask(&["-F", file, "viv-web"]);
        let unlisted = ask(&["-F", file, "viv-3f2a91c0"]);
        let mut by_options: Vec<String> = vec!["-F".to_owned(), file.to_owned()];
        by_options.extend(client.options("viv-web"));
        by_options.push("viv-web".to_owned());
        let by_options = ask(&by_options.iter().map(String::as_str).collect::<Vec<_>>());
        for text in [&listed, &unlisted, &by_options] {
            assert_eq!(value(text, "user"), "agent");
            assert_eq!(value(text, "port"), "22");
            assert_eq!(value(text, "forwardagent"), "no");
            assert_eq!(value(text, "stricthostkeychecking"), "true");
            assert_eq!(value(text, "userknownhostsfile"), directory.join(KNOWN_HOSTS).to_str().unwrap());
            assert_eq!(value(text, "identityfile"), directory.join(IDENTITY).to_str().unwrap());
        }
        assert_eq!(value(&listed, "hostkeyalias"), "viv-web");
        assert_eq!(value(&by_options, "hostkeyalias"), "viv-web");
        assert!(value(&listed, "proxycommand").ends_with("'/opt/my viv/viv' ssh-proxy '%n'"), "{listed}");
        // A name that would leave the quotes is no sandbox's; newer clients know of no such host at all.
        let hostile = run(&["-F", file, "viv-a'b"]);
        assert_eq!(value(&String::from_utf8(hostile.stdout).unwrap(), "proxycommand"), "");
        // Others are left alone.
        assert_eq!(value(&ask(&["-F", file, "example.com"]), "user"), "nobody");
    }
}
