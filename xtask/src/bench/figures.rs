//! Figures: how they are compared, judged and printed.

use serde::Serialize;

/// One measured thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Ours.
    pub ours: f64,
    /// What it is compared with, if anything.
    pub floor: Option<f64>,
    /// The unit of both.
    pub unit: &'static str,
    /// Ours divided by the floor.
    pub ratio: Option<f64>,
    /// The largest ratio that is good enough.
    pub goal: Option<f64>,
    /// Whether it is.
    pub holds: Option<bool>,
}

impl Figure {
    /// A figure by itself.
    pub fn plain(name: &'static str, ours: f64, unit: &'static str) -> Self {
        Self { name, ours, floor: None, unit, ratio: None, goal: None, holds: None }
    }

    /// A figure beside a floor.
    pub fn compared(name: &'static str, ours: f64, floor: f64, unit: &'static str, goal: Option<f64>) -> Self {
        let ratio = ours / floor;
        Self { name, ours, floor: Some(floor), unit, ratio: Some(ratio), goal, holds: goal.map(|goal| ratio <= goal) }
    }
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

/// Prints the figures for people.
pub fn print_table(figures: &[Figure], runs: u32) {
    println!("medians of {runs}\n{:<42} {:>11} {:>11}  {:<5} {:>6} {:>6}", "", "viv", "floor", "unit", "ratio", "goal");
    let optional = |value: Option<f64>, digits: usize| value.map_or(String::new(), |value| format!("{value:.digits$}"));
    for figure in figures {
        println!(
            "{:<42} {:>11.1} {:>11}  {:<5} {:>6} {:>6} {}",
            figure.name,
            figure.ours,
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
    println!("\nThe floor of the starts is the same machine with an init that prints one byte; of the shares,");
    println!("the same work on the guest's own disk.");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn json_has_every_key() {
        let json = serde_json::to_string(&Figure::plain("size of viv", 4.5, "MB")).unwrap();
        assert_eq!(
            json,
            r#"{"name":"size of viv","ours":4.5,"floor":null,"unit":"MB","ratio":null,"goal":null,"holds":null}"#
        );
    }
}
