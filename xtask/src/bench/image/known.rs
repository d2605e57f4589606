//! What packages that are in the cache add to a start: to the same start without them, right before or
//! after.

use std::time::Duration;

use anyhow::Result;

use super::cached::{Images, said};
use crate::bench::figures::{Figure, median, milliseconds};
use crate::bench::measure::until_first_byte_and_end;
use crate::bench::{starts, templates};

/// What a known set may add, in ms.
const ADDED_MS: f64 = 50.0;

/// Small: what a layer adds does not depend on what it holds.
const PACKAGES: &str = "ripgrep,tree";

pub fn measure(images: &Images<'_>) -> Result<Vec<Figure>> {
    let set = images.set(PACKAGES)?;
    templates::build(images.viv, &[])?;
    templates::build(images.viv, &["--package", PACKAGES])?;
    let timed = |options: &[&str]| -> Result<Duration> {
        let mut run = starts::run(images.viv, images.directory, options, &["true"]);
        Ok(until_first_byte_and_end(&mut run, None)?.end)
    };
    let kinds: [&[&str]; 2] = [&[], &["--cold"]];
    let mut pairs = [const { Vec::new() }; 2];
    // The first round fills caches, and does not count.
    for run in 0..=images.runs {
        eprintln!("a known set: run {run} of {}", images.runs);
        for (options, pairs) in kinds.iter().zip(&mut pairs) {
            let with = [options, &["--package", PACKAGES][..]].concat();
            let pair = if run % 2 == 0 {
                let without = timed(options)?;
                (without, timed(&with)?)
            } else {
                let with = timed(&with)?;
                (timed(options)?, with)
            };
            said(pair.1, pair.0);
            if run > 0 {
                pairs.push(pair);
            }
        }
    }
    drop(set);
    let [template, cold] = pairs;
    Ok([
        ("a known set adds to a start from a template", "for information: that start without it", template),
        ("a known set adds to a cold start", "for information: this start without it", cold),
    ]
    .into_iter()
    .flat_map(|(added, without, pairs)| figures(added, without, &pairs))
    .collect())
}

/// The median of what each pair differs by: starts differ by more than what is looked for.
fn figures(added: &'static str, without: &'static str, pairs: &[(Duration, Duration)]) -> [Figure; 2] {
    let mut differences: Vec<Milliseconds> =
        pairs.iter().map(|(without, with)| Milliseconds(milliseconds(*with) - milliseconds(*without))).collect();
    let mut alone: Vec<Duration> = pairs.iter().map(|(without, _)| *without).collect();
    [
        Figure::limited(added, median(&mut differences).0, ADDED_MS, "ms"),
        Figure::plain(without, milliseconds(median(&mut alone)), "ms"),
    ]
}

/// A difference of durations, which may be negative.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Milliseconds(f64);

impl std::ops::Add for Milliseconds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl std::ops::Div<u32> for Milliseconds {
    type Output = Self;

    fn div(self, number: u32) -> Self {
        Self(self.0 / f64::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_the_median_of_the_differences() {
        let pairs = [(300, 330), (900, 890), (310, 400), (320, 340)];
        let pairs = pairs.map(|(without, with)| (Duration::from_millis(without), Duration::from_millis(with)));
        let [added, without] = figures("added", "without", &pairs);
        assert_eq!((added.ours, added.holds), (25.0, Some(true)));
        assert_eq!((without.ours, without.holds), (315.0, None));
    }
}
