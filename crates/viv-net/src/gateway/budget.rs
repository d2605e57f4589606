//! Budgets as people write them: `5usd`, `200k-tokens`, `100-requests`, or several with commas between.

use std::fmt;

use super::{Budget, Error, ErrorKind};

const EXAMPLES: &str = "write `5usd`, `200k-tokens`, `100-requests`, or several with commas between";

/// What is written for a budget that limits nothing.
const UNLIMITED: &str = "unlimited";

impl Budget {
    /// Reads a budget. Amounts are decimal, in US dollars (down to a millionth), tokens or requests;
    /// `k` and `m` stand for a thousand and a million of the latter two. Case does not matter.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Budget`] where a part is none of these, is not a whole number of its unit, or
    /// comes twice.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut budget = Self::default();
        let lower = text.trim().to_ascii_lowercase();
        if lower == UNLIMITED {
            return Ok(budget);
        }
        for part in lower.split(',').map(str::trim) {
            let (slot, amount) = if let Some(number) = part.strip_suffix("usd") {
                (&mut budget.microdollars, scaled(number, 6))
            } else if let Some(number) = part.strip_suffix("-tokens") {
                (&mut budget.tokens, counted(number))
            } else if let Some(number) = part.strip_suffix("-requests") {
                (&mut budget.requests, counted(number))
            } else {
                (&mut budget.requests, None)
            };
            let amount = amount.ok_or_else(|| {
                Error::new(ErrorKind::Budget, format!("`{}` is not a budget", part.escape_debug())).hint(EXAMPLES)
            })?;
            if slot.replace(amount).is_some() {
                let message = format!("`{}` names one unit twice", lower.escape_debug());
                return Err(Error::new(ErrorKind::Budget, message).hint(EXAMPLES));
            }
        }
        Ok(budget)
    }

    /// Whether it limits anything.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

fn counted(number: &str) -> Option<u64> {
    if let Some(number) = number.strip_suffix('k') {
        scaled(number, 3)
    } else if let Some(number) = number.strip_suffix('m') {
        scaled(number, 6)
    } else {
        scaled(number, 0)
    }
}

/// A decimal number times ten to the power of `digits`, if that is whole and fits.
fn scaled(number: &str, digits: usize) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let decimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !decimal(whole) || !decimal(fraction) || fraction.len() > digits {
        return None;
    }
    if number.ends_with('.') {
        return None;
    }
    format!("{whole}{fraction:0<digits$}").parse().ok()
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.microdollars.map(|amount| format!("{}usd", Dollars(amount))));
        parts.extend(self.tokens.map(|amount| format!("{}-tokens", Count(amount))));
        parts.extend(self.requests.map(|amount| format!("{}-requests", Count(amount))));
        if parts.is_empty() {
            return f.write_str(UNLIMITED);
        }
        f.write_str(&parts.join(","))
    }
}

/// Millionths of a dollar as dollars, without zeros at the end.
pub(super) struct Dollars(pub(super) u64);

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 / 1_000_000)?;
        let fraction = format!("{:06}", self.0 % 1_000_000);
        match fraction.trim_end_matches('0') {
            "" => Ok(()),
            fraction => write!(f, ".{fraction}"),
        }
    }
}

struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            amount if amount % 1_000_000 == 0 => write!(f, "{}m", amount / 1_000_000),
            amount if amount % 1_000 == 0 => write!(f, "{}k", amount / 1_000),
            amount => write!(f, "{amount}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_meant() {
        let budget = |microdollars, tokens, requests| Budget { microdollars, tokens, requests };
        for (text, expected, shown) in [
            ("5usd", budget(Some(5_000_000), None, None), "5usd"),
            ("0.50USD", budget(Some(500_000), None, None), "0.5usd"),
            ("0.000001usd", budget(Some(1), None, None), "0.000001usd"),
            ("200k-tokens", budget(None, Some(200_000), None), "200k-tokens"),
            ("1.5m-tokens", budget(None, Some(1_500_000), None), "1500k-tokens"),
            ("100-requests", budget(None, None, Some(100)), "100-requests"),
            ("0-requests", budget(None, None, Some(0)), "0-requests"),
            (
                "5usd, 2m-tokens,7-requests",
                budget(Some(5_000_000), Some(2_000_000), Some(7)),
                "5usd,2m-tokens,7-requests",
            ),
            ("unlimited", Budget::default(), "unlimited"),
        ] {
            let parsed = Budget::parse(text).expect(text);
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(Budget::parse(shown).expect(shown), expected, "{shown}");
        }
    }

    #[test]
    fn what_is_no_budget_is_refused_with_examples() {
        for text in [
            "",
            "5",
            "usd",
            "-1usd",
            "5eur",
            "1.2345678usd",
            "0.5-requests",
            "1.-tokens",
            "5usd,5usd",
            "5usd,",
            "1e3-tokens",
            "99999999999999999999-tokens",
            ".5usd",
            "+5usd",
        ] {
            let error = Budget::parse(text).expect_err(text);
            assert_eq!(error.kind(), &ErrorKind::Budget);
            assert_eq!(error.hints(), [EXAMPLES]);
        }
    }
}
