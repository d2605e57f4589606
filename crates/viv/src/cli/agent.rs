//! `viv agent` as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `viv agent`
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  viv agent ls                   which agents `viv run NAME` knows
  viv agent show claude          how one is set up; change it in ~/.config/viv/agents/claude.toml
  viv agent home                 what agents keep of this project, and where
  viv agent home claude --clear  forget it")]
pub enum AgentCommand {
    /// List the agents that `viv run` knows by name
    Ls(AgentListArguments),
    /// Print the preset of an agent as TOML, with the changes of your own file
    Show(AgentShowArguments),
    /// Show or remove what agents keep of a project between runs
    Home(AgentHomeArguments),
}

impl AgentCommand {
    /// Whether its result is wanted as JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match self {
            Self::Ls(arguments) => arguments.json,
            Self::Show(_) => false,
            Self::Home(arguments) => arguments.json,
        }
    }
}

/// `viv agent ls`
#[derive(Debug, Args)]
pub struct AgentListArguments {
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}

/// `viv agent show`
#[derive(Debug, Args)]
pub struct AgentShowArguments {
    /// Name of the agent
    #[arg(value_name = "AGENT")]
    pub agent: String,
}

/// `viv agent home`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv agent home                 of all agents, for this directory
  viv agent home --all --json    of all projects
  viv agent home codex --clear --yes")]
pub struct AgentHomeArguments {
    /// Of this agent only
    #[arg(value_name = "AGENT")]
    pub agent: Option<String>,
    /// Of the project in this directory [default: the current directory]
    #[arg(short = 'w', long, value_name = "DIR", conflicts_with = "all")]
    pub workspace: Option<PathBuf>,
    /// Of all projects
    #[arg(long)]
    pub all: bool,
    /// Remove them: sessions, history and settings are gone
    #[arg(long)]
    pub clear: bool,
    /// Do not ask to be told so
    #[arg(long, requires = "clear")]
    pub yes: bool,
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}
