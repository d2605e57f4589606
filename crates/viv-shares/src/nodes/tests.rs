use super::*;

fn file(number: u64) -> Identity {
    Identity { number, kind: libc::S_IFREG }
}

fn directory(number: u64) -> Identity {
    Identity { number, kind: libc::S_IFDIR }
}

/// A table, and a count of what virtiofsd holds for it.
struct Table {
    nodes: Nodes,
    forgotten: Vec<u64>,
}

impl Table {
    fn new(budget: usize) -> Self {
        Self { nodes: Nodes::new(budget), forgotten: Vec::new() }
    }

    fn learn(&mut self, parent: u64, name: &CStr, inner: u64, identity: Identity) -> u64 {
        self.nodes.make_room(&mut self.forgotten);
        self.nodes.learn(parent, name, inner, identity, &mut self.forgotten)
    }

    /// Uses a node for the length of a request.
    fn look(&mut self, number: u64) -> Option<Whereabouts> {
        let whereabouts = self.nodes.pin(number);
        if !matches!(whereabouts, None | Some(Whereabouts::Lost)) {
            self.nodes.unpin(number, &mut self.forgotten);
        }
        whereabouts
    }

    fn forget(&mut self, number: u64, count: u64) {
        self.nodes.forget(number, count, &mut self.forgotten);
    }

    /// Learns of files nobody cares about until all that can be away is.
    fn crowd(&mut self) {
        for inner in 0..500_u64 {
            let name = std::ffi::CString::new(format!("crowd{inner}")).unwrap();
            self.learn(ROOT, &name, 100_000 + inner, file(100_000 + inner));
        }
    }

    fn away(parent: u64, name: &CStr, identity: Identity) -> Option<Whereabouts> {
        Some(Whereabouts::Away { parent, name: Arc::from(name), identity })
    }
}

#[test]
fn a_file_has_one_number_however_often_it_is_found() {
    let mut table = Table::new(10);
    let number = table.learn(ROOT, c"a", 50, file(7));
    assert_eq!(table.learn(ROOT, c"a", 50, file(7)), number);
    assert_eq!(table.learn(ROOT, c"hard link", 50, file(7)), number);
    // Virtiofsd counted three times, the table holds one.
    assert_eq!(table.forgotten, [50, 50]);
    table.forget(number, 2);
    assert_eq!(table.look(number), Some(Whereabouts::Live(50)));
    table.forget(number, 1);
    assert_eq!(table.look(number), None);
    assert_eq!(table.forgotten, [50, 50, 50]);
    assert!(table.nodes.is_empty());
}

#[test]
fn unused_files_go_away_and_come_back_under_their_number() {
    let mut table = Table::new(8);
    let number = table.learn(ROOT, c"a", 50, file(7));
    table.crowd();
    assert!(table.nodes.live <= 8 + MOST_CANDIDATES);
    assert_eq!(table.look(number), Table::away(ROOT, c"a", file(7)));
    assert_eq!(table.learn(ROOT, c"a", 51, file(7)), number);
    assert_eq!(table.look(number), Some(Whereabouts::Live(51)));
    table.crowd();
    // Another file at the place is another number, and the old one cannot be found any more.
    let other = table.learn(ROOT, c"a", 52, file(8));
    assert_ne!(other, number);
    assert_eq!(table.look(number), Some(Whereabouts::Lost));
    table.forget(number, 2);
    assert_eq!(table.look(number), None);
}

#[test]
fn what_is_in_use_or_has_no_name_stays() {
    let mut table = Table::new(8);
    let open = table.learn(ROOT, c"open", 50, file(1));
    assert_eq!(table.nodes.pin(open), Some(Whereabouts::Live(50)));
    let removed = table.learn(ROOT, c"removed", 51, file(2));
    table.nodes.removed(ROOT, c"removed", &mut table.forgotten);
    table.crowd();
    assert_eq!(table.look(open), Some(Whereabouts::Live(50)));
    assert_eq!(table.look(removed), Some(Whereabouts::Live(51)));
    // Forgotten while it is in use, as a guest may do with a file it has open.
    table.forget(open, 1);
    assert_eq!(table.look(open), Some(Whereabouts::Live(50)));
    table.nodes.unpin(open, &mut table.forgotten);
    assert_eq!(table.look(open), None);
    assert_eq!(table.forgotten.last(), Some(&50));
}

#[test]
fn a_directory_is_kept_for_what_is_in_it() {
    let mut table = Table::new(8);
    let above = table.learn(ROOT, c"above", 50, directory(1));
    let below = table.learn(above, c"below", 51, directory(2));
    let leaf = table.learn(below, c"leaf", 52, file(3));
    // In any order: a guest forgets when its memory wants it.
    table.forget(above, 1);
    table.forget(below, 1);
    table.crowd();
    assert_eq!(table.look(leaf), Table::away(below, c"leaf", file(3)));
    assert_eq!(table.look(below), Table::away(above, c"below", directory(2)));
    table.forget(leaf, 1);
    for gone in [leaf, below, above] {
        assert_eq!(table.look(gone), None);
    }
}

#[test]
fn a_directory_kept_only_for_what_was_in_it_goes_when_that_moves() {
    let mut table = Table::new(8);
    let old = table.learn(ROOT, c"old", 50, directory(1));
    let moving = table.learn(old, c"file", 51, file(2));
    table.forget(old, 1);
    assert_eq!(table.look(old), Some(Whereabouts::Live(50)));
    table.nodes.renamed((old, c"file"), (ROOT, c"file"), false, &mut table.forgotten);
    assert_eq!(table.look(old), None);
    assert_eq!(table.forgotten, [50]);
    assert_eq!(table.look(moving), Some(Whereabouts::Live(51)));
}

#[test]
fn renames_move_places() {
    let mut table = Table::new(8);
    let a = table.learn(ROOT, c"a", 50, file(1));
    let b = table.learn(ROOT, c"b", 51, file(2));
    table.nodes.renamed((ROOT, c"a"), (ROOT, c"b"), true, &mut table.forgotten);
    table.crowd();
    assert_eq!(table.look(a), Table::away(ROOT, c"b", file(1)));
    assert_eq!(table.look(b), Table::away(ROOT, c"a", file(2)));
    table.nodes.renamed((ROOT, c"a"), (ROOT, c"b"), false, &mut table.forgotten);
    assert_eq!(table.look(b), Table::away(ROOT, c"b", file(2)));
    assert_eq!(table.look(a), Some(Whereabouts::Lost));
    // Of files it never heard of, the table has nothing to say.
    table.nodes.renamed((ROOT, c"x"), (12_345, c"y"), true, &mut table.forgotten);
}

#[test]
fn the_root_is_always_there() {
    let mut table = Table::new(1);
    table.forget(ROOT, u64::MAX);
    table.nodes.unpin(ROOT, &mut table.forgotten);
    table.crowd();
    assert_eq!(table.look(ROOT), Some(Whereabouts::Live(ROOT)));
    table.nodes.clear();
    assert!(table.nodes.is_empty());
    assert_eq!(table.look(ROOT), Some(Whereabouts::Live(ROOT)));
}

#[test]
fn the_queue_does_not_grow_with_what_is_forgotten() {
    let mut table = Table::new(1000);
    for inner in 2..10_000 {
        let number = table.learn(ROOT, c"a", inner, file(inner));
        table.forget(number, 1);
    }
    assert!(table.nodes.queue.len() <= 2 * MOST_CANDIDATES);
    assert_eq!(table.nodes.live, 0);
}

#[test]
fn virtiofsd_is_told_to_forget_as_often_as_it_was_asked() {
    // A guest that does anything in any order: whatever it does, the books balance in the end.
    let mut table = Table::new(5);
    let mut state = 12_345_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let names = [c"a", c"b", c"c", c"d"];
    let mut held: HashMap<u64, i64> = HashMap::new();
    let mut next_inner = 1000;
    let mut inner_of: HashMap<u64, u64> = HashMap::new();
    for _ in 0..20_000 {
        let number = random(40);
        let name = names[random(4) as usize];
        match random(6) {
            0..=2 => {
                let identity = file(random(12));
                // Virtiofsd gives a file it holds the number it has, and another one anew.
                let inner = *inner_of.entry(identity.number).or_insert_with(|| {
                    next_inner += 1;
                    next_inner
                });
                *held.entry(inner).or_default() += 1;
                let parent = if table.nodes.nodes.contains_key(&number) { number } else { ROOT };
                table.learn(parent, name, inner, identity);
            }
            3 => table.forget(number, 1 + random(3)),
            4 => table.nodes.renamed(
                (ROOT, name),
                (number, names[random(4) as usize]),
                random(2) == 0,
                &mut table.forgotten,
            ),
            _ => table.nodes.removed(ROOT, name, &mut table.forgotten),
        }
        for inner in table.forgotten.drain(..) {
            let count = held.get_mut(&inner).unwrap();
            *count -= 1;
            assert!(*count >= 0, "{inner} forgotten more often than known");
            if *count == 0 {
                inner_of.retain(|_, known| *known != inner);
            }
        }
        let live = table.nodes.nodes.values().filter(|node| node.inner.is_some()).count() - 1;
        assert_eq!(live, table.nodes.live);
        assert_eq!(held.values().sum::<i64>(), live as i64);
    }
}
