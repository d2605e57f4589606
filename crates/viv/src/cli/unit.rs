//! `viv enable`, `viv disable`

use clap::Args;

use crate::settings::values;

/// `viv enable`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv enable web                 writes the unit viv@web.service, and starts it
  systemctl --user status viv@web
  journalctl --user VIV_SANDBOX=web
  viv enable                     every sandbox that has autostart = true
  viv enable web --print         the unit, and nothing else

A user's units start when the user logs in; with `loginctl enable-linger` when the machine starts. Root's
are units of the system.")]
pub struct EnableArguments {
    /// Names of sandboxes [default: all that have autostart = true]
    #[arg(value_name = "SANDBOX", value_parser = values::parse_name)]
    pub sandboxes: Vec<String>,
    /// Print the units, and write nothing
    #[arg(long)]
    pub print: bool,
    /// Print an array of JSON objects
    #[arg(long, conflicts_with = "print")]
    pub json: bool,
}

/// `viv disable`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  viv disable web                stops web, and removes its unit
  viv disable web && viv start web")]
pub struct DisableArguments {
    /// Names of sandboxes
    #[arg(value_name = "SANDBOX", required = true, value_parser = values::parse_name)]
    pub sandboxes: Vec<String>,
    /// Print an array of JSON objects
    #[arg(long)]
    pub json: bool,
}
