//! What can be typed about running without anyone watching.

use std::path::PathBuf;

use clap::Args;
use viv_sandbox::Recording;

use crate::settings::{definitions as d, values};

/// Options of `viv run` about what is kept of it, and for pipelines.
#[derive(Debug, Clone, Default, Args)]
pub struct CiArguments {
    #[arg(long, value_name = "none|terminals|all", help = d::RECORD.help_of_flag(), value_parser = values::parse_recording, help_heading = "Records")]
    pub record: Option<Recording>,
    /// For pipelines: no terminal, no colours, annotations under GitHub Actions, an hour at most
    #[arg(long, conflicts_with = "json", help_heading = "Pipelines")]
    pub ci: bool,
    /// Collect result, timeline, logs and recordings in this directory, new or empty
    #[arg(long, value_name = "DIR", requires = "ci", help_heading = "Pipelines")]
    pub artifacts: Option<PathBuf>,
    /// Collect these files of the workspace, too, such as 'dist/**'; may be repeated
    #[arg(long, value_name = "GLOB", requires = "artifacts", help_heading = "Pipelines")]
    pub collect: Vec<String>,
}
