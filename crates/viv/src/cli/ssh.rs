//! `viv ssh`, `viv ssh-config`

use clap::Args;

/// `viv ssh`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv ssh web                              a shell in the sandbox web
  viv ssh web -- 'make test 2>&1 | tail'   as with ssh, the shell inside reads the words again
  viv ssh web -o LocalForward='8080 localhost:80' -o ForwardAgent=yes

Runs the ssh of this machine; its exit code is viv's, 255 if ssh itself failed.")]
pub struct SshArguments {
    /// Id, unique beginning of an id, or name of the sandbox
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// What the shell inside is to run; a login shell without it
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Option of ssh, as in ssh_config(5); stronger than viv's own
    #[arg(short, long = "option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
}

/// `viv ssh-config`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv ssh-config --install       once; then: ssh viv-web, scp, rsync, git push, editors
  viv ssh-config                 list the sandboxes of now, for those who choose from a list
  viv ssh-config --print | less")]
pub struct SshConfigArguments {
    /// Have ~/.ssh/config include the file
    #[arg(long, conflicts_with = "print")]
    pub install: bool,
    /// Print the file, and write nothing
    #[arg(long)]
    pub print: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "print")]
    pub json: bool,
}
