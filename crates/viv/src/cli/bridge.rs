//! `viv net setup` and `viv net teardown` as they are typed.

use clap::Args;
use ipnet::{Ipv4Net, Ipv6Net};

/// `viv net setup`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo viv net setup --uplink eth0
  sudo viv net setup --bridge vivbr --subnet 192.168.83.0/24 --subnet6 fd83::/64 --uplink eth0
  viv net setup --uplink eth0 --dry-run     show the commands and rules, change nothing
  sudo viv run --net bridge                 a sandbox on it

Sandboxes on the bridge reach what the uplink leads to, through this machine's addresses. They reach
neither this machine nor each other, and nothing reaches them. A bridge that is there already is made
whole again; after a restart of this machine it has to be set up anew.")]
pub struct SetupArguments {
    /// The bridge to make
    #[arg(long, value_name = "NAME", default_value = "vivbr")]
    pub bridge: String,
    /// The sandboxes' IPv4 addresses, /16 to /29; the first one is this machine's
    #[arg(long, value_name = "ADDRESS/PREFIX", default_value = "192.168.83.0/24")]
    pub subnet: Ipv4Net,
    /// The sandboxes' IPv6 addresses, /64 to /112 [default: they have none]
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub subnet6: Option<Ipv6Net>,
    /// The interface that leads to the network
    #[arg(long, value_name = "INTERFACE")]
    pub uplink: String,
    /// Show what would be done; needs no root
    #[arg(long)]
    pub dry_run: bool,
    /// Print an array of JSON objects, one for each step
    #[arg(long)]
    pub json: bool,
}

/// `viv net teardown`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo viv net teardown
  sudo viv net teardown --bridge vivbr --dry-run

Bridge, rules and addresses given away are removed, and the kernel forwards as it did before. Nothing
is done while sandboxes are on the bridge, and nothing to a bridge that `viv net setup` did not make.")]
pub struct TeardownArguments {
    /// The bridge to remove
    #[arg(long, value_name = "NAME", default_value = "vivbr")]
    pub bridge: String,
    /// Show what would be done; needs no root
    #[arg(long)]
    pub dry_run: bool,
    /// Print an array of JSON objects, one for each step
    #[arg(long)]
    pub json: bool,
}
