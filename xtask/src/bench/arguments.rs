//! What every benchmark in parts is asked, and how it answers.

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::figures::{Figure, print_table, require_goals};

/// The options of a benchmark whose figures are measured in parts.
#[derive(Debug, Args)]
pub struct BenchArguments<Part: ValueEnum + Send + Sync + 'static> {
    /// How often each is measured; medians are of these
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(7..=1000))]
    pub runs: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Measure only this; may be repeated
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
}

impl<Part: ValueEnum + PartialEq + Send + Sync> BenchArguments<Part> {
    /// Whether a part is to be measured: all are, unless some are named.
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Prints the figures, for people with what their floors are.
    pub fn print(&self, figures: &[Figure], floors: &str) {
        if self.json {
            println!("{}", serde_json::json!({ "figures": figures, "runs": self.runs }));
        } else {
            print_table(figures, self.runs, "floor");
            println!("\n{floors}");
        }
    }

    /// The same, and fails where a goal is missed.
    pub fn conclude(&self, figures: &[Figure], floors: &str) -> Result<()> {
        self.print(figures, floors);
        require_goals(figures)
    }
}
