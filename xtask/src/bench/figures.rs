//! Figures: how they are compared, judged and printed.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;

/// One measured thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Ours.
    pub ours: f64,
    /// What it is compared with, if anything: a floor, a peer, or the most it may be.
    pub floor: Option<f64>,
    /// The unit of both.
    pub unit: &'static str,
    /// Ours divided by the floor.
    pub ratio: Option<f64>,
    /// The largest ratio that is good enough or, where more is better, the smallest.
    pub goal: Option<f64>,
    /// Whether more is better, as of a throughput.
    pub more_is_better: bool,
    /// Whether it is.
    pub holds: Option<bool>,
}

impl Figure {
    /// A figure by itself.
    pub fn plain(name: &'static str, ours: f64, unit: &'static str) -> Self {
        Self { name, ours, floor: None, unit, ratio: None, goal: None, more_is_better: false, holds: None }
    }

    /// A figure beside a floor.
    pub fn compared(name: &'static str, ours: f64, floor: f64, unit: &'static str, goal: Option<f64>) -> Self {
        let ratio = ours / floor;
        let holds = goal.map(|goal| ratio <= goal);
        Self { name, ours, floor: Some(floor), unit, ratio: Some(ratio), goal, more_is_better: false, holds }
    }

    /// A figure of which there is to be much, as of a throughput, beside a floor.
    pub fn at_least(name: &'static str, ours: f64, floor: f64, unit: &'static str, goal: f64) -> Self {
        let holds = Some(ours / floor >= goal);
        Self { more_is_better: true, holds, ..Self::compared(name, ours, floor, unit, Some(goal)) }
    }

    /// A figure with a limit of its own: the goal is to stay below it.
    pub fn limited(name: &'static str, ours: f64, limit: f64, unit: &'static str) -> Self {
        Self::compared(name, ours, limit, unit, Some(1.0))
    }
}

/// Ours and the floor's of one thing, measured in turns.
#[derive(Debug)]
pub struct Pairs {
    ours: Vec<Duration>,
    floor: Vec<Duration>,
}

impl Pairs {
    /// None yet.
    pub const fn new() -> Self {
        Self { ours: Vec::new(), floor: Vec::new() }
    }

    /// Adds what was measured one after the other.
    pub fn push(&mut self, ours: Duration, floor: Duration) {
        self.ours.push(ours);
        self.floor.push(floor);
    }

    /// Their medians, compared.
    pub fn figure(mut self, name: &'static str, goal: f64) -> Figure {
        let (ours, floor) = (median(&mut self.ours), median(&mut self.floor));
        Figure::compared(name, milliseconds(ours), milliseconds(floor), "ms", Some(goal))
    }
}

/// A duration as figures have it.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Fails if a goal is missed, and says which.
///
/// # Errors
/// If there is one.
pub fn require_goals(figures: &[Figure]) -> Result<()> {
    let missed: Vec<&str> =
        figures.iter().filter(|figure| figure.holds == Some(false)).map(|figure| figure.name).collect();
    if !missed.is_empty() {
        bail!("goal missed: {}", missed.join(", "));
    }
    Ok(())
}

/// The median; the mean of the two in the middle if there is no one in the middle. None of nothing
/// is asked for: the values are never empty.
pub fn median<T>(values: &mut [T]) -> T
where
    T: Copy + PartialOrd + std::ops::Add<Output = T> + std::ops::Div<u32, Output = T>,
{
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2 }
}

/// Prints the figures for people; `other` is what they are compared with.
pub fn print_table(figures: &[Figure], runs: u32, other: &str) {
    println!("medians of {runs}\n{:<52} {:>9} {:>9}  {:<5} {:>6} {:>6}", "", "viv", other, "unit", "ratio", "goal");
    let optional = |value: Option<f64>, digits: usize| value.map_or(String::new(), |value| format!("{value:.digits$}"));
    // What the gateway adds, say, would be nothing but its first digit.
    let digits = |value: f64| if value.abs() < 10.0 { 2 } else { 1 };
    for figure in figures {
        println!(
            "{:<52} {:>9} {:>9}  {:<5} {:>6} {:>6} {}",
            figure.name,
            optional(Some(figure.ours), digits(figure.ours)),
            optional(figure.floor, 1),
            figure.unit,
            optional(figure.ratio, 2),
            optional(figure.goal, 2),
            match figure.holds {
                Some(true) => "holds",
                Some(false) => "MISSED",
                None => "",
            }
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let seconds = |values: &[u64]| values.iter().map(|value| Duration::from_secs(*value)).collect::<Vec<_>>();
        assert_eq!(median(&mut seconds(&[9, 1, 2])), Duration::from_secs(2));
        assert_eq!(median(&mut seconds(&[9, 1, 2, 4])), Duration::from_secs(3));
    }

    #[test]
    fn a_goal_holds_up_to_its_value() {
        assert_eq!(Figure::compared("x", 135.0, 100.0, "ms", Some(1.35)).holds, Some(true));
        assert_eq!(Figure::compared("x", 136.0, 100.0, "ms", Some(1.35)).holds, Some(false));
        assert_eq!(Figure::compared("x", 900.0, 100.0, "ms", None).holds, None);
    }

    #[test]
    fn a_limit_is_a_goal() {
        assert_eq!(Figure::limited("x", 109.9, 110.0, "MiB").holds, Some(true));
        let missed = [Figure::plain("y", 1.0, "MiB"), Figure::limited("x", 110.1, 110.0, "MiB")];
        assert_eq!(require_goals(&missed).unwrap_err().to_string(), "goal missed: x");
        assert!(require_goals(&missed[..1]).is_ok());
    }

    #[test]
    fn a_throughput_holds_down_to_its_goal() {
        assert_eq!(Figure::at_least("x", 70.0, 100.0, "MiB/s", 0.7).holds, Some(true));
        assert_eq!(Figure::at_least("x", 69.0, 100.0, "MiB/s", 0.7).holds, Some(false));
    }

    #[test]
    fn pairs_are_compared_by_their_medians() {
        let mut pairs = Pairs::new();
        for (ours, floor) in [(130, 100), (900, 101), (1, 99)] {
            pairs.push(Duration::from_millis(ours), Duration::from_millis(floor));
        }
        assert_eq!(pairs.figure("x", 1.3), Figure::compared("x", 130.0, 100.0, "ms", Some(1.3)));
    }

    #[test]
    fn json_has_every_key() {
        let json = serde_json::to_string(&Figure::plain("size of viv", 4.5, "MB")).unwrap();
        assert_eq!(
            json,
            r#"{"name":"size of viv","ours":4.5,"floor":null,"unit":"MB","ratio":null,"goal":null,"more_is_better":false,"holds":null}"#
        );
    }
}
