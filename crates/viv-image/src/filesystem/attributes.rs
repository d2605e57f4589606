//! Extended attributes: which of them an image holds, and how erofs writes them.

use super::Whiteouts;

/// An extended attribute, with its whole name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attribute {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// What erofs writes for the first part of a name. The two of POSIX ACLs are whole names.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];
/// Bytes before the entries of an inode.
pub(super) const HEADER: usize = 12;
/// The units an inode counts them in, beyond the header.
const UNIT: usize = 4;
/// Linux's limits (xattr(7)).
const NAME_LIMIT: usize = 255;
const VALUE_LIMIT: usize = 65536;

/// The index of a name's prefix, and the rest of it. `None` for names that Linux has no use for, such as
/// other systems' `com.apple.quarantine`, and malformed ones.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let (prefix, index) = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))?;
    let rest = &name[prefix.len()..];
    let named = prefix.ends_with(b".");
    (named != rest.is_empty() && name.len() <= NAME_LIMIT && !name.contains(&0)).then_some((*index, rest))
}

/// The attributes that an image holds, sorted; those with another meaning in it are left out or
/// renamed. An attribute that cannot be held is the error.
pub(super) fn kept(attributes: Vec<Attribute>, whiteouts: Whiteouts) -> Result<Vec<Attribute>, Attribute> {
    let mut kept: Vec<Attribute> = attributes.into_iter().filter_map(|one| translated(one, whiteouts)).collect();
    kept.sort();
    kept.dedup_by(|later, earlier| later.name == earlier.name);
    if let Some(at) = kept.iter().position(|one| one.value.len() >= VALUE_LIMIT) {
        return Err(kept.swap_remove(at));
    }
    if units(&kept).is_none() {
        return Err(kept.swap_remove(0));
    }
    Ok(kept)
}

/// What a root's own image says of overlays was about others; what an upper directory made without
/// privileges says is written where overlayfs looks in a lower one. An upper directory's notes about
/// itself (`origin`, `impure`, `nlink`, `uuid`) hold only for the file system it was on.
fn translated(attribute: Attribute, whiteouts: Whiteouts) -> Option<Attribute> {
    split(&attribute.name)?;
    let overlay = |prefix: &[u8]| attribute.name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(b"overlay."));
    let said = overlay(b"trusted.").or_else(|| if whiteouts == Whiteouts::Overlay { overlay(b"user.") } else { None });
    match said {
        None => Some(attribute),
        Some(word) => (whiteouts == Whiteouts::Overlay
            && [b"opaque".as_slice(), b"redirect", b"whiteout", b"whiteouts"].contains(&word))
        .then(|| Attribute { name: [b"trusted.overlay.", word].concat(), value: attribute.value.clone() }),
    }
}

/// Bytes of all of them within an inode.
pub(super) fn size(attributes: &[Attribute]) -> usize {
    if attributes.is_empty() { 0 } else { HEADER + attributes.iter().map(entry_size).sum::<usize>() }
}

/// What an inode says of their size.
pub(super) fn units(attributes: &[Attribute]) -> Option<u16> {
    match size(attributes) {
        0 => Some(0),
        size => u16::try_from(1 + (size - HEADER) / UNIT).ok(),
    }
}

fn entry_size(attribute: &Attribute) -> usize {
    let rest = split(&attribute.name).map_or(0, |(_, rest)| rest.len());
    (4 + rest + attribute.value.len()).next_multiple_of(UNIT)
}

/// Appends them as they stand behind an inode.
pub(super) fn write(attributes: &[Attribute], out: &mut Vec<u8>) {
    if attributes.is_empty() {
        return;
    }
    // No filter of names, and none shared with other inodes.
    out.extend([0; HEADER]);
    for attribute in attributes {
        // `kept` has left only such names and values.
        let Some((index, rest)) = split(&attribute.name) else { continue };
        let start = out.len();
        out.extend([rest.len() as u8, index]);
        out.extend((attribute.value.len() as u16).to_le_bytes());
        out.extend(rest);
        out.extend(&attribute.value);
        out.resize(start + entry_size(attribute), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(name: &str, value: &[u8]) -> Attribute {
        Attribute { name: name.into(), value: value.to_vec() }
    }

    fn names(names: &[&str], whiteouts: Whiteouts) -> Vec<String> {
        let given = names.iter().map(|name| attribute(name, b"v")).collect();
        kept(given, whiteouts).unwrap().into_iter().map(|one| String::from_utf8(one.name).unwrap()).collect()
    }

    #[test]
    fn names_an_image_holds() {
        let all = [
            "user.b",
            "user.a",
            "user.",
            "com.apple.x",
            "system.posix_acl_access",
            "system.posix_acl_access2",
            "security.capability",
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "user.overlay.origin",
            "trusted.x",
        ];
        let plain = ["security.capability", "system.posix_acl_access", "trusted.x", "user.a", "user.b"];
        let mut expected = plain.to_vec();
        expected.extend(["user.overlay.origin", "user.overlay.redirect"]);
        assert_eq!(names(&all, Whiteouts::None), expected);
        assert_eq!(names(&all, Whiteouts::Resolve), expected);
        let mut expected = plain.to_vec();
        expected.extend(["trusted.overlay.opaque", "trusted.overlay.redirect"]);
        expected.sort_unstable();
        assert_eq!(names(&all, Whiteouts::Overlay), expected);
    }

    #[test]
    fn limits() {
        let fits = |value: usize, count: usize| {
            let given = (0..count).map(|n| attribute(&format!("user.{n}"), &vec![0; value])).collect();
            kept(given, Whiteouts::None).is_ok()
        };
        assert!(fits(65535, 1) && !fits(65536, 1));
        assert!(fits(60000, 4) && !fits(60000, 5));
    }
}
