//! What a workspace holds now.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::beneath::{Beneath, as_path};
use crate::blobs::{Blobs, Packed, digest_of};
use crate::entry::{Digest, Entry, Manifest, Node, Stat};
use crate::error::io as failed_to;
use crate::ignored::{LONGEST_RULES_BYTES, OuterRules, Rules};
use crate::{Error, ErrorKind, Limits, Notes, Result, TreePath};

/// A file that changed later than this before it was read is read again the next time: another change within the
/// granularity of the file system's times would not be told by them. FAT has two seconds.
const UNSETTLED_NS: i128 = 2_000_000_000;

/// More threads than this only wait for the disk.
const MOST_THREADS: usize = 4;

/// Ignored names that are remembered, to tell which of them are so by rules that came later.
const MOST_IGNORED: usize = 20_000;

/// What a look at a workspace found, its contents not read.
#[derive(Default)]
pub(crate) struct Walked {
    files: Vec<(TreePath, Stat)>,
    links: Vec<(TreePath, Stat, Vec<u8>)>,
    /// What rules left out, a directory once and as a whole.
    pub(crate) ignored: Vec<(Vec<u8>, bool)>,
    /// Directories of which nobody can say what is in them.
    pub(crate) closed: Vec<Vec<u8>>,
    pub(crate) notes: Notes,
}

/// Walks through a workspace. Of what rules ignore, only what is in `known` counts.
pub(crate) fn walk(root: &Beneath, outer: &OuterRules, known: &BTreeSet<TreePath>, limits: &Limits) -> Result<Walked> {
    let mut walker = Walker { known, limits, seen: 0, walked: Walked::default() };
    let top = root.try_clone().map_err(failed_to("the workspace cannot be opened"))?;
    walker.directory(&top, b"", &Rules::outer(outer), false, 0)?;
    walker.walked.notes.sort();
    Ok(walker.walked)
}

struct Walker<'a> {
    known: &'a BTreeSet<TreePath>,
    limits: &'a Limits,
    seen: usize,
    walked: Walked,
}

impl Walker<'_> {
    fn directory(&mut self, here: &Beneath, path: &[u8], rules: &Rules, ignored: bool, depth: usize) -> Result<()> {
        // A directory alone may have more names than fit in memory.
        let names = match here.list(self.most_names().saturating_sub(self.seen)) {
            Ok(Some(names)) => names,
            Ok(None) => return Err(self.too_many()),
            Err(error) => {
                self.closed(path, &error);
                return Ok(());
            }
        };
        self.seen += names.len();
        if !path.is_empty() && names.iter().any(|listed| listed.git) {
            self.walked.notes.repository(path);
        }
        let has_rules = !ignored && names.iter().any(|listed| listed.name == b".gitignore");
        let own = match has_rules.then(|| here.read(as_path(b".gitignore"), LONGEST_RULES_BYTES)) {
            Some(Ok(Some(content))) => Some(rules.with(path, &content.bytes)),
            _ => None,
        };
        let rules = own.as_ref().unwrap_or(rules);
        for listed in names {
            if listed.git {
                continue;
            }
            let whole = if path.is_empty() { listed.name.clone() } else { [path, b"/", &listed.name].concat() };
            let tree_path = match TreePath::new(whole.as_slice()) {
                Ok(tree_path) if listed.good => tree_path,
                _ => {
                    self.walked.notes.refused(&whole);
                    continue;
                }
            };
            match here.stat(&listed.name) {
                Ok(Some((kind, stat))) => {
                    self.entry(here, &listed.name, tree_path, kind, stat, rules, ignored, depth)?
                }
                // Gone since it was listed.
                Ok(None) => {}
                Err(error) => self.walked.notes.unreadable(&whole, &error),
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "what a name is, and where the walk is")]
    fn entry(
        &mut self,
        here: &Beneath,
        name: &[u8],
        path: TreePath,
        kind: FileType,
        stat: Stat,
        rules: &Rules,
        ignored: bool,
        depth: usize,
    ) -> Result<()> {
        let is_directory = kind == FileType::Directory;
        let left_out = ignored || rules.ignores(path.as_bytes(), is_directory);
        let counts = !left_out || if is_directory { self.knows_beneath(&path) } else { self.known.contains(&path) };
        if left_out && !ignored && self.walked.ignored.len() < MOST_IGNORED && !self.known.contains(&path) {
            self.walked.ignored.push((path.as_bytes().to_vec(), is_directory));
        }
        if !counts {
            return Ok(());
        }
        match kind {
            FileType::Directory => {
                if depth >= self.limits.depth {
                    self.walked.notes.refused(path.as_bytes());
                    return Ok(());
                }
                match here.directory(as_path(name)) {
                    Ok(directory) => self.directory(&directory, path.as_bytes(), rules, left_out, depth + 1)?,
                    Err(error) => self.closed(path.as_bytes(), &error),
                }
            }
            FileType::RegularFile => self.walked.files.push((path, stat)),
            FileType::Symlink => {
                // One that was replaced since it was looked at is as good as gone.
                if let Ok(target) = here.link(name) {
                    self.walked.links.push((path, stat, target));
                }
            }
            _ => self.walked.notes.other(path.as_bytes()),
        }
        if self.walked.files.len() + self.walked.links.len() > self.limits.files {
            return Err(self.too_many());
        }
        Ok(())
    }

    fn knows_beneath(&self, directory: &TreePath) -> bool {
        let prefix = [directory.as_bytes(), b"/"].concat();
        let from = (Bound::Included(prefix.as_slice()), Bound::Unbounded);
        self.known.range::<[u8], _>(from).next().is_some_and(|path| path.as_bytes().starts_with(&prefix))
    }

    fn closed(&mut self, directory: &[u8], error: &io::Error) {
        self.walked.notes.unreadable(directory, error);
        self.walked.closed.push(directory.to_vec());
    }

    /// Ignored names are looked at, too, but not for ever.
    fn most_names(&self) -> usize {
        self.limits.files.saturating_mul(4)
    }

    fn too_many(&self) -> Error {
        Error::new(
            ErrorKind::TooLarge,
            format!("the workspace has more than {} files that git would list", self.limits.files),
        )
        .hint("have .gitignore name what is made there")
    }
}

/// Reads what was found, but for what is as it was in one of the earlier manifests, and keeps the contents.
pub(crate) fn read(
    root: &Beneath,
    walked: &mut Walked,
    earlier: &[&Manifest],
    blobs: &mut Blobs,
    limits: &Limits,
) -> Result<Manifest> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let settled = |stat: &Stat| stat.changed_ns.max(stat.modified_ns) < now.cast_signed() - UNSETTLED_NS;
    let mut manifest = Manifest::default();
    let mut wanted = Vec::new();
    let mut total: u64 = 0;
    for (path, stat, target) in walked.links.drain(..) {
        let stat = Some(stat).filter(settled);
        manifest.entries.insert(path, Entry { node: Node::Symlink { target }, stat });
    }
    for (path, stat) in walked.files.drain(..) {
        let known = earlier
            .iter()
            .filter_map(|manifest| manifest.entries.get(&path))
            .find(|entry| entry.stat == Some(stat) && entry.node.digest().is_none_or(|digest| blobs.has(&digest)));
        if stat.size <= limits.file_bytes {
            total += stat.size;
        }
        match known {
            Some(entry) => {
                manifest.entries.insert(path, entry.clone());
            }
            None if stat.size > limits.file_bytes => {
                manifest.entries.insert(path, large(stat));
            }
            None => wanted.push((path, stat)),
        }
    }
    if total > limits.total_bytes {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the workspace's files that git would list have more than {} MiB", limits.total_bytes >> 20),
        )
        .hint("have .gitignore name what is made there"));
    }
    let known = blobs.known();
    each(
        &wanted,
        |(path, stat)| contents(root, path, *stat, limits, &known),
        |index, found| {
            let (path, _) = &wanted[index];
            match found.map_err(failed_to(format!("{path} cannot be read")))? {
                Some(Contents::Kept(mut entry, packed)) => {
                    entry.stat = entry.stat.filter(settled);
                    manifest.entries.insert(path.clone(), entry);
                    packed.map_or(Ok(()), |packed| blobs.append(packed))
                }
                Some(Contents::Unread(entry)) => {
                    manifest.entries.insert(path.clone(), entry);
                    Ok(())
                }
                None => Ok(()),
            }
        },
    )?;
    Ok(manifest)
}

enum Contents {
    /// Read; packed unless it is kept already.
    Kept(Entry, Option<Packed>),
    /// Too large, or not readable.
    Unread(Entry),
}

/// A file whose content is not known.
pub(crate) fn large(stat: Stat) -> Entry {
    Entry { node: Node::Large { size: stat.size, mode: stat.mode & 0o777, stat }, stat: Some(stat) }
}

fn contents(
    root: &Beneath,
    path: &TreePath,
    stat: Stat,
    limits: &Limits,
    known: &HashSet<Digest>,
) -> io::Result<Option<Contents>> {
    let content = match root.read(path.as_path(), limits.file_bytes) {
        Ok(Some(content)) => content,
        // Gone, or no file any more.
        Ok(None) => return Ok(None),
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::ACCESS | Errno::PERM)) => {
            return Ok(Some(Contents::Unread(large(stat))));
        }
        Err(error) => return Err(error),
    };
    let digest = digest_of(&content.bytes);
    let packed = if known.contains(&digest) { None } else { Some(Packed::new(digest, &content.bytes)?) };
    let node = Node::File { digest, size: content.bytes.len() as u64, mode: content.stat.mode & 0o777 };
    Ok(Some(Contents::Kept(Entry { node, stat: Some(content.stat) }, packed)))
}

/// Does `work` for each item on several threads, and hands what comes of it to `take` on this one, with the item's
/// index. The first error ends it.
fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(usize, R) -> Result<()>,
) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(items.len());
    if threads <= 1 {
        return items.iter().enumerate().try_for_each(|(index, item)| take(index, work(item)));
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(threads);
        for _ in 0..threads {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    // Nobody listens any more after an error.
                    if sender.send((index, work(item))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        // Dropped with an error, the receiver has the others end.
        receiver.into_iter().try_for_each(|(index, result)| take(index, result))
    })
}
