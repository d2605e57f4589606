//! Any bytes as a model API's answer.

use viv_net::gateway::meter::Meter;

/// What is read of an answer does not depend on how it was cut into pieces, nothing of it is unbounded, and what passes
/// is what was given.
pub fn any_answer(bytes: &[u8]) {
    for stream in [false, true] {
        let whole = read(bytes, stream, bytes.len().max(1));
        for piece in [1, 2, 7] {
            let cut = read(bytes, stream, piece);
            assert_eq!(cut.total(bytes.len() as u64), whole.total(bytes.len() as u64));
            assert_eq!(cut.model(), whole.model());
            assert_eq!(
                (cut.told(), cut.is_whole(), cut.between_events()),
                (whole.told(), whole.is_whole(), whole.between_events())
            );
        }
        assert!(whole.model().is_none_or(|name| name.len() <= 128));
        if !whole.told() {
            // An estimate is never more than what was there to be estimated from.
            assert!(whole.tokens().total() <= bytes.len() as u64);
        }
    }
}

fn read(bytes: &[u8], stream: bool, piece: usize) -> Meter {
    let mut meter = Meter::new(stream);
    for mut rest in bytes.chunks(piece) {
        while !rest.is_empty() {
            let (passed, _) = meter.read(rest);
            assert!((1..=rest.len()).contains(&passed));
            rest = &rest[passed..];
        }
    }
    meter
}
