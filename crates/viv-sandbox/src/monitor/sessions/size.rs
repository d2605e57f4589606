//! Which size a session's terminal has.

use viv_proto::message::TerminalSize;

use crate::sessions::SizePolicy;

/// One viewer, as far as that matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) size: TerminalSize,
    /// Greater for who came, typed or changed size later.
    pub(super) used: u64,
}

/// The size for these viewers; none if there are none, and it stays what it was.
pub(super) fn decide(policy: SizePolicy, windows: impl Iterator<Item = Window> + Clone) -> Option<TerminalSize> {
    match policy {
        SizePolicy::Smallest => {
            let columns = windows.clone().map(|window| window.size.columns).min()?;
            let rows = windows.map(|window| window.size.rows).min()?;
            Some(TerminalSize { columns, rows })
        }
        SizePolicy::Newest => windows.max_by_key(|window| window.used).map(|window| window.size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_of_each_side_or_the_newest_whole() {
        let window = |columns, rows, used| Window { size: TerminalSize { columns, rows }, used };
        let windows = [window(80, 50, 3), window(120, 24, 7), window(100, 30, 5)];
        let decide =
            |policy, windows: &[Window]| decide(policy, windows.iter().copied()).map(|size| (size.columns, size.rows));
        assert_eq!(decide(SizePolicy::Smallest, &windows), Some((80, 24)));
        assert_eq!(decide(SizePolicy::Newest, &windows), Some((120, 24)));
        assert_eq!(decide(SizePolicy::Smallest, &[]), None);
        assert_eq!(decide(SizePolicy::Newest, &[]), None);
    }
}
