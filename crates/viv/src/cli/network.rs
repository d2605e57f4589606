//! What can be typed about the network: options of `viv run`, and `viv net`, `viv port`, `viv usage`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use viv_net::gateway::Budget;
use viv_sandbox::Publish;

use super::bridge::{SetupArguments, TeardownArguments};
use crate::settings::definitions as d;
use crate::settings::layer::{Found, SecretSetting};
use crate::settings::network::{self, NetworkChoice, SecretRequest};
use crate::settings::{Layer, Origin, values};

/// How a sandbox reaches others, and which secrets it gets.
#[derive(Debug, Clone, Default, Args)]
pub struct NetworkArguments {
    #[arg(long, value_name = "none|filtered|nat|bridge[:NAME]", help = d::NET.help_of_flag(), value_parser = network::parse_network, help_heading = "Network")]
    pub net: Option<NetworkChoice>,
    #[arg(long, value_name = "RULE|@SET", help = d::ALLOW.help_of_flag(), value_parser = values::parse_allow, value_delimiter = ',', help_heading = "Network")]
    pub allow: Vec<String>,
    #[arg(long, value_name = "RULE", help = d::DENY.help_of_flag(), value_parser = values::parse_deny, value_delimiter = ',', help_heading = "Network")]
    pub deny: Vec<String>,
    #[arg(long, value_name = "[[ADDRESS:]PORT:]PORT", help = d::PUBLISH.help_of_flag(), value_parser = network::parse_publish, help_heading = "Network")]
    pub publish: Vec<Publish>,
    #[arg(long, value_name = "PORT", help = d::LOCALHOST_PORT.help_of_flag(), value_parser = values::parse_port, help_heading = "Network")]
    pub localhost_port: Option<u16>,
    #[arg(long, value_name = "FILE", help = d::TRUST.help_of_flag(), help_heading = "Network")]
    pub trust: Vec<PathBuf>,

    #[arg(long, value_name = "NAME", help = d::GATEWAY.help_of_flag(), value_parser = network::parse_upstream_name, value_delimiter = ',', help_heading = "Secrets and models")]
    pub gateway: Vec<String>,
    #[arg(long, value_name = "BUDGET", help = d::BUDGET.help_of_flag(), value_parser = network::parse_budget, help_heading = "Secrets and models")]
    pub budget: Option<Budget>,
    #[arg(long = "secret", value_name = "NAME[=SOURCE]", help = d::SECRETS.help_of_flag(), value_parser = network::parse_secret, help_heading = "Secrets and models")]
    pub secrets: Vec<SecretRequest>,
    /// The same, and also as an environment variable of the program
    #[arg(long = "secret-env", value_name = "NAME[=SOURCE]", value_parser = network::parse_secret, help_heading = "Secrets and models")]
    pub secrets_in_environment: Vec<SecretRequest>,
    /// Make an SSH key that lives and ends with the sandbox, and show its public half
    #[arg(long, help_heading = "Secrets and models")]
    pub deploy_key: bool,
    #[arg(long, help = d::SSH_AGENT.help_of_flag(), help_heading = "Secrets and models")]
    pub ssh_agent: bool,
}

impl NetworkArguments {
    /// The settings among the arguments, beside those of `rest`; relative paths are meant from `directory`.
    #[must_use]
    pub fn layer(&self, directory: &Path, rest: Layer) -> Layer {
        let secret = |in_environment: bool| {
            move |request: &SecretRequest| {
                let setting = SecretSetting { source: request.source.clone(), in_environment };
                (request.name.clone(), found(setting))
            }
        };
        Layer {
            net: self.net.clone().map(found),
            allow: self.allow.iter().cloned().map(found).collect(),
            deny: self.deny.iter().cloned().map(found).collect(),
            gateway: self.gateway.iter().cloned().map(found).collect(),
            budget: self.budget.map(found),
            localhost_port: self.localhost_port.map(found),
            publish: self.publish.iter().copied().map(found).collect(),
            secrets: (self.secrets.iter().map(secret(false)))
                .chain(self.secrets_in_environment.iter().map(secret(true)))
                .collect(),
            ssh_agent: self.ssh_agent.then(|| found(true)),
            trust: self.trust.iter().map(|path| found(directory.join(path))).collect(),
            ..rest
        }
    }
}

fn found<T>(value: T) -> Found<T> {
    Found { value, origin: Origin::CommandLine }
}

/// `viv net`
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  viv net log review --follow    what the sandbox named review connects to, as it happens
  viv net denied review          what was refused, ready to paste into viv.toml
  viv net learn -- npm test      runs it openly and prints the smallest policy that would have allowed it
  viv net trust                  lets this directory's viv.toml decide about the network
  sudo viv net setup --bridge vivbr --subnet 192.168.83.0/24 --uplink eth0")]
pub enum NetCommand {
    /// Show what a sandbox connected to, and what it was refused
    Log(LogArguments),
    /// Show what a sandbox was refused, as rules to allow it
    Denied(DeniedArguments),
    /// Run a command with everything public allowed, and print the smallest policy for it
    Learn(Box<LearnArguments>),
    /// Trust what this directory's viv.toml says about the network, as it stands now
    Trust(TrustArguments),
    /// Make the bridge that sandboxes with `--net bridge` are on
    Setup(SetupArguments),
    /// Remove such a bridge, and all that came with it
    Teardown(TeardownArguments),
}

/// `viv net log`
#[derive(Debug, Args)]
pub struct LogArguments {
    /// Id, unique beginning of an id, or name of a sandbox, running or ended; the latest without
    #[arg(value_name = "SANDBOX")]
    pub sandbox: Option<String>,
    /// Go on as more happens, until the sandbox ends
    #[arg(short, long)]
    pub follow: bool,
    /// One JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// `viv net denied`
#[derive(Debug, Args)]
pub struct DeniedArguments {
    /// Id, unique beginning of an id, or name of a sandbox, running or ended; the latest without
    #[arg(value_name = "SANDBOX")]
    pub sandbox: Option<String>,
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// `viv net learn`
#[derive(Debug, Args)]
pub struct LearnArguments {
    #[command(flatten)]
    pub run: super::RunArguments,
}

/// `viv net trust`
#[derive(Debug, Args)]
pub struct TrustArguments {
    /// The directory of the viv.toml [default: the current directory]
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Trust it no more
    #[arg(long)]
    pub revoke: bool,
}

/// `viv port`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv port review 8080           shows port 8080 of the sandbox at 127.0.0.1:8080
  viv port review 0:8080         at a port that is free, which is printed
  viv port review                the ports that are shown")]
pub struct PortArguments {
    /// Id, unique beginning of an id, or name of the sandbox
    #[arg(value_name = "SANDBOX")]
    pub sandbox: String,
    /// What to show, and where; without it, what is shown
    #[arg(value_name = "[[ADDRESS:]PORT:]PORT", value_parser = network::parse_publish)]
    pub port: Option<Publish>,
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// `viv usage`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv usage                      calls to model APIs and their cost, by sandbox, agent and model
  viv usage review
  viv usage --json | jq 'map(.microdollars) | add / 1e6'")]
pub struct UsageArguments {
    /// Id, unique beginning of an id, or name of a sandbox, running or ended; all of them without
    #[arg(value_name = "SANDBOX")]
    pub sandbox: Option<String>,
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}
