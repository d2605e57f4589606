//! Any tree comes back as it went in, and any bytes do no harm.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tars::{self, Entry, archive, directory, file, hard_link, symlink};
use super::{erofs, image_of, support};

/// Few names, so that entries meet.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let short = proptest::sample::select(vec![
        b"a".to_vec(),
        b"b".to_vec(),
        b".wh.a".to_vec(),
        b"\xff".to_vec(),
        b"-".to_vec(),
    ]);
    prop_oneof![4 => short, 1 => proptest::collection::vec(1_u8..=255, 1..256).prop_map(|mut name| {
        name.iter_mut().for_each(|byte| if matches!(byte, b'/' | b'.') { *byte = b'_' });
        name
    })]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(name(), 1..4).prop_map(|names| names.join(&b'/'))
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![0..20_usize, 4000..4200_usize, 8100..8300_usize, 0..20_000_usize];
    (size, any::<u8>()).prop_map(|(size, seed)| (0..size).map(|n| (n / 3) as u8 ^ seed).collect())
}

fn member() -> impl Strategy<Value = Entry> {
    let body = prop_oneof![
        4 => content().prop_map(|content| file("", content)),
        2 => Just(directory("")),
        1 => proptest::collection::vec(1_u8..=255, 1..4096).prop_map(|target| symlink("", target)),
        1 => path().prop_map(|target| hard_link("", target)),
        1 => Just(tars::entry(b'6', "")),
    ];
    let attributes =
        proptest::collection::btree_map("user\\.[a-z]{1,20}", proptest::collection::vec(any::<u8>(), 0..300), 0..3);
    let owner = prop_oneof![0..100_000_u64, 0..u64::from(u32::MAX)];
    let modified = (-1_000_000_000_i64..5_000_000_000, 0..1_000_000_000_u32);
    (path(), body, 0..0o10000_u64, owner.clone(), owner, modified, attributes).prop_map(
        |(path, body, mode, uid, gid, modified, attributes)| {
            let attributes = attributes.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            Entry { path, mode, uid, gid, modified, attributes, ..body }
        },
    )
}

/// What an archive means where each name is given once, no name is below another's that is no
/// directory, and links lead to files before them.
fn sensible(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kept: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    let mut order = Vec::new();
    for mut entry in entries {
        let parts: Vec<&[u8]> = entry.path.split(|byte| *byte == b'/').collect();
        let blocked =
            (1..parts.len()).any(|end| kept.get(&parts[..end].join(&b'/')).is_some_and(|above| above.kind != b'5'));
        let below = [entry.path.as_slice(), b"/"].concat();
        if blocked || kept.contains_key(&entry.path) || kept.keys().any(|path| path.starts_with(&below)) {
            continue;
        }
        if entry.kind == b'1' {
            match kept.values().find(|other| other.kind == b'0') {
                Some(other) => entry.link = other.path.clone(),
                None => continue,
            }
        }
        kept.insert(entry.path.clone(), entry.clone());
        order.push(entry);
    }
    order
}

proptest! {
    // Each case is several images: a quarter of what is usual, or of PROPTEST_CASES.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_comes_back(entries in proptest::collection::vec(member(), 0..60)) {
        let entries = sensible(entries);
        let found = erofs::read(&image_of(&entries));
        let by_path: BTreeMap<&[u8], &Entry> = entries.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
        for entry in &entries {
            let one = &found[&entry.path];
            let said = if entry.kind == b'1' { by_path[entry.link.as_slice()] } else { entry };
            prop_assert_eq!(u64::from(one.mode & 0o7777), said.mode);
            prop_assert_eq!((u64::from(one.uid), u64::from(one.gid)), (said.uid, said.gid));
            prop_assert_eq!(one.modified, said.modified);
            let attributes: BTreeMap<String, Vec<u8>> =
                said.attributes.iter().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.clone())).collect();
            prop_assert_eq!(&one.attributes, &attributes);
            match entry.kind {
                b'0' => prop_assert!(one.content == entry.content),
                b'1' => prop_assert_eq!(one.inode, found[&entry.link].inode),
                b'2' => prop_assert!(one.content == entry.link),
                _ => {}
            }
        }
        // Nothing else but the directories above.
        let above = found.keys().filter(|path| !by_path.contains_key(path.as_slice()));
        for path in above {
            prop_assert!(path.is_empty() || by_path.keys().any(|given| given.starts_with(path)));
        }
    }

    #[test]
    fn any_entries(entries in proptest::collection::vec(member(), 0..40)) {
        support::any_archive(&archive(&entries));
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        support::any_archive(&bytes);
    }

    /// Headers with right sums, and anything in their other fields.
    #[test]
    fn mutated(
        entries in proptest::collection::vec(member(), 1..10),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        mend in any::<bool>(),
    ) {
        let mut bytes = archive(&entries);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if mend {
            for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
                block[148..156].copy_from_slice(b"        ");
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        support::any_archive(&bytes);
    }
}
