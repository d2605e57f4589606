//! A change as someone looks at it.

use crate::Result;
use crate::blobs::Blobs;
use crate::diff::FileChange;
use crate::entry::Node;
use crate::hunks::{TextDiff, is_binary};

/// Texts longer than this are shown as binary files are, in bytes.
pub(crate) const LONGEST_TEXT_BYTES: u64 = 8 << 20;

/// What there is to see of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// Texts, or where links lead.
    Text(TextDiff),
    /// One of the sides is no text, or too long a one.
    Binary,
    /// The content of one of the sides was not kept: it is over the limit, or could not be read.
    NotKept,
    /// The content is the same.
    Same,
}

/// What there is to see of a change. An absent side is an empty text.
pub(crate) fn view(blobs: &mut Blobs, file: &FileChange) -> Result<View> {
    let sides = [&file.old, &file.new];
    if sides.iter().any(|side| matches!(side, Some(Node::Large { .. }))) {
        return Ok(View::NotKept);
    }
    if let [Some(Node::File { digest: old, .. }), Some(Node::File { digest: new, .. })] = sides
        && old == new
    {
        return Ok(View::Same);
    }
    if sides.iter().any(|side| side.as_ref().is_some_and(|node| node.size() > LONGEST_TEXT_BYTES)) {
        return Ok(View::Binary);
    }
    let old = content(blobs, &file.old)?;
    let new = content(blobs, &file.new)?;
    Ok(if is_binary(&old) || is_binary(&new) { View::Binary } else { View::Text(TextDiff::new(old, new)) })
}

/// What a file holds, or where a link leads.
pub(crate) fn content(blobs: &mut Blobs, node: &Option<Node>) -> Result<Vec<u8>> {
    match node {
        Some(Node::File { digest, .. }) => blobs.get(digest),
        Some(Node::Symlink { target }) => Ok(target.clone()),
        Some(Node::Large { .. }) | None => Ok(Vec::new()),
    }
}
