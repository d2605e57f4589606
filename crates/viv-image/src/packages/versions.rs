//! Versions that are like another.

/// How many are offered.
const OFFERED: usize = 8;

/// Of versions in any scheme, those that share the most leading numbers with `asked`, in the order they come in
/// otherwise.
pub(super) fn nearest(asked: &str, mut available: Vec<String>) -> Vec<String> {
    fn parts(version: &str) -> impl Iterator<Item = &str> {
        version.split(|c: char| !c.is_ascii_alphanumeric())
    }
    let shared = |version: &String| parts(version).zip(parts(asked)).take_while(|(one, other)| one == other).count();
    available.sort_by_key(|version| std::cmp::Reverse(shared(version)));
    available.truncate(OFFERED);
    available
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_series_comes_first() {
        let available = ["3.0.0-beta.1", "2.1.0", "2.0.1", "1.3.1", "1.3.0", "1.2.9"].map(str::to_owned).to_vec();
        assert_eq!(nearest("1.3.7", available.clone())[..3], ["1.3.1", "1.3.0", "1.2.9"]);
        assert_eq!(nearest("9", available.clone()), available);
        let many = (0..20).map(|minor| format!("1.{minor}")).collect();
        assert_eq!(nearest("1.30", many).len(), OFFERED);
    }
}
