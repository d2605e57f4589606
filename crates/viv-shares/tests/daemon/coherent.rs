//! Shares that several guests write: what a guest may believe of them, and of others beside them.

use libc::{O_RDONLY, O_RDWR};
use viv_shares::{ShareSpec, coherent_entry};

use crate::cases::for_each_user;
use crate::guest::{Guest, number};

/// All tests, by name.
pub const ALL: &[(&str, fn())] = &[
    ("only_what_several_write_is_asked_for_anew", only_what_several_write_is_asked_for_anew),
    ("what_was_cached_of_it_is_never_kept", what_was_cached_of_it_is_never_kept),
];

/// Whole seconds and what is beyond them, as FUSE says it: names first, then attributes.
type Belief = [(u64, u32); 2];

const NOTHING: Belief = [(0, 0); 2];
const A_SECOND: Belief = [(1, 0); 2];

fn of_entry(body: &[u8]) -> Belief {
    [(number(body, 16), number(body, 32) as u32), (number(body, 24), (number(body, 32) >> 32) as u32)]
}

fn only_what_several_write_is_asked_for_anew() {
    for_each_user(|host| {
        let marked = coherent_entry("1");
        for share in ["plain", "shared"] {
            host.file(&format!("{share}/inside/file"), "x");
        }
        let shares = vec![host.share("0", "plain", false, &[]), host.share(&marked, "shared", false, &[])];
        let mut guest = host.guest(shares);
        for (entry, expected) in [("0", A_SECOND), (marked.as_str(), NOTHING)] {
            let root = guest.walk(entry).unwrap().id;
            let inside = guest.walk(&format!("{entry}/inside")).unwrap().id;
            let mut believed = |opcode, node, parts: &[&[u8]]| of_entry(&guest.request(opcode, node, parts).unwrap());
            // Lookup, mkdir, mknod, symlink, create.
            assert_eq!(believed(1, root, &[&Guest::name("inside")]), expected, "{entry}");
            assert_eq!(believed(1, inside, &[&Guest::name("file")]), expected, "{entry}");
            assert_eq!(believed(1, inside, &[&Guest::name("absent")])[0], expected[0], "{entry}");
            let mode = [&0o700_u32.to_le_bytes()[..], &[0; 4]].concat();
            assert_eq!(believed(9, inside, &[&mode, &Guest::name("made")]), expected, "{entry}");
            let mode = [&0o100_600_u32.to_le_bytes()[..], &[0; 12]].concat();
            assert_eq!(believed(8, inside, &[&mode, &Guest::name("node")]), expected, "{entry}");
            assert_eq!(believed(6, inside, &[&Guest::name("link"), &Guest::name("file")]), expected, "{entry}");
            let open = [&(O_RDWR as u32).to_le_bytes()[..], &0o600_u32.to_le_bytes(), &[0; 8]].concat();
            assert_eq!(believed(35, inside, &[&open, &Guest::name("created")]), expected, "{entry}");
            // Getattr, setattr.
            for (opcode, length) in [(3, 16), (4, 88)] {
                let body = guest.request(opcode, inside, &[&vec![0; length]]).unwrap();
                assert_eq!((number(&body, 0), number(&body, 8) as u32), expected[1], "{entry}");
            }
        }
    });
}

fn what_was_cached_of_it_is_never_kept() {
    for_each_user(|host| {
        let source = std::path::PathBuf::from("/etc/passwd");
        let share = ShareSpec { entry: coherent_entry("0"), source, read_only: true, protect: vec![], gathered: None };
        let mut guest = host.guest(vec![share]);
        let file = guest.walk(&coherent_entry("0")).unwrap().id;
        for _ in 0..3 {
            assert!(!guest.open(file, O_RDONLY).unwrap().1);
        }
    });
}
