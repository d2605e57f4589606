//! As much of ELF as kernels and their modules need: bounded reads of untrusted files.

/// Where an ELF file says something that cannot be, or is not one this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotElf;

/// The note by which a kernel says it can be entered directly, without its own boot loader.
const NOTE_PVH: u32 = 18;
const SEGMENT_NOTE: u32 = 4;

/// The bytes at an offset from a base; both may come from the file.
fn bytes<const N: usize>(data: &[u8], base: u64, offset: u64) -> Option<[u8; N]> {
    let offset = usize::try_from(base.checked_add(offset)?).ok()?;
    data.get(offset..)?.first_chunk().copied()
}

fn u16_at(data: &[u8], base: u64, offset: u64) -> Result<u64, NotElf> {
    bytes(data, base, offset).map(|bytes| u16::from_le_bytes(bytes).into()).ok_or(NotElf)
}

fn u32_at(data: &[u8], base: u64, offset: u64) -> Result<u32, NotElf> {
    bytes(data, base, offset).map(u32::from_le_bytes).ok_or(NotElf)
}

fn u64_at(data: &[u8], base: u64, offset: u64) -> Result<u64, NotElf> {
    bytes(data, base, offset).map(u64::from_le_bytes).ok_or(NotElf)
}

fn range(data: &[u8], offset: u64, size: u64) -> Result<&[u8], NotElf> {
    let end = offset.checked_add(size).ok_or(NotElf)?;
    let (Ok(start), Ok(end)) = (usize::try_from(offset), usize::try_from(end)) else { return Err(NotElf) };
    data.get(start..end).ok_or(NotElf)
}

/// Checks the magic of a 64-bit little-endian ELF file.
fn check(data: &[u8]) -> Result<(), NotElf> {
    if data.starts_with(b"\x7fELF\x02\x01") { Ok(()) } else { Err(NotElf) }
}

/// Whether a kernel carries the PVH note, looked for in its note segments.
///
/// # Errors
/// If it is not an ELF file, or a segment lies outside of it: it was cut short.
pub(crate) fn has_pvh_note(data: &[u8]) -> Result<bool, NotElf> {
    check(data)?;
    let (table, size, count) = (u64_at(data, 0, 32)?, u16_at(data, 0, 54)?, u16_at(data, 0, 56)?);
    let mut found = false;
    for index in 0..count {
        let header = table.checked_add(index * size).ok_or(NotElf)?;
        let content = range(data, u64_at(data, header, 8)?, u64_at(data, header, 32)?)?;
        if u32_at(data, header, 0)? == SEGMENT_NOTE {
            found |= notes_have_pvh(content);
        }
    }
    Ok(found)
}

fn notes_have_pvh(mut notes: &[u8]) -> bool {
    while let (Ok(name_size), Ok(content_size), Ok(kind)) =
        (u32_at(notes, 0, 0), u32_at(notes, 0, 4), u32_at(notes, 0, 8))
    {
        let name_end = 12 + u64::from(name_size);
        if kind == NOTE_PVH && range(notes, 12, name_size.into()) == Ok(b"Xen\0") {
            return true;
        }
        let end = name_end.next_multiple_of(4) + u64::from(content_size).next_multiple_of(4);
        match usize::try_from(end).ok().and_then(|end| notes.get(end..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

/// The content of a named section.
///
/// # Errors
/// If it is not an ELF file or what is read lies outside of it.
pub(crate) fn section<'a>(data: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, NotElf> {
    check(data)?;
    let (table, size, count, names) =
        (u64_at(data, 0, 40)?, u16_at(data, 0, 58)?, u16_at(data, 0, 60)?, u16_at(data, 0, 62)?);
    let header = |index: u64| table.checked_add(index * size).ok_or(NotElf);
    let content = |header: u64| range(data, u64_at(data, header, 24)?, u64_at(data, header, 32)?);
    let names = content(header(names)?)?;
    for index in 0..count {
        let header = header(index)?;
        let start = u32_at(data, header, 0)? as usize;
        let this = names.get(start..).and_then(|rest| rest.split(|byte| *byte == 0).next());
        if this == Some(name.as_bytes()) {
            return content(header).map(Some);
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest ELF file with one note segment and one named section.
    pub(crate) fn sample(note_name: &[u8; 4], note_kind: u32, section_name: &str, section_content: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        note.extend(4_u32.to_le_bytes());
        note.extend(4_u32.to_le_bytes());
        note.extend(note_kind.to_le_bytes());
        note.extend(note_name);
        note.extend(0x0100_0000_u32.to_le_bytes());
        let names = format!("\0{section_name}\0");
        let note_at = 64 + 56 + 3 * 64_u64;
        let names_at = note_at + note.len() as u64;
        let content_at = names_at + names.len() as u64;

        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(32, 0);
        file.extend(64_u64.to_le_bytes()); // segment table
        file.extend(120_u64.to_le_bytes()); // section table
        file.extend([0; 6]);
        for number in [56_u16, 1, 64, 3, 1] {
            file.extend(number.to_le_bytes());
        }
        assert_eq!(file.len(), 64);
        file.extend(SEGMENT_NOTE.to_le_bytes());
        file.extend([0; 4]);
        file.extend(note_at.to_le_bytes());
        file.extend([0; 16]);
        file.extend((note.len() as u64).to_le_bytes());
        file.extend([0; 16]);
        for (name, at, size) in [(0_u32, 0, 0), (0, names_at, names.len()), (1, content_at, section_content.len())] {
            file.extend(name.to_le_bytes());
            file.extend([0; 20]);
            file.extend(at.to_le_bytes());
            file.extend((size as u64).to_le_bytes());
            file.extend([0; 24]);
        }
        file.extend(note);
        file.extend(names.as_bytes());
        file.extend(section_content);
        file
    }

    #[test]
    fn the_note_is_found_by_name_and_kind() {
        assert_eq!(has_pvh_note(&sample(b"Xen\0", 18, ".x", b"")), Ok(true));
        assert_eq!(has_pvh_note(&sample(b"Xen\0", 17, ".x", b"")), Ok(false));
        assert_eq!(has_pvh_note(&sample(b"GNU\0", 18, ".x", b"")), Ok(false));
        assert_eq!(has_pvh_note(b"MZ"), Err(NotElf));
    }

    #[test]
    fn a_section_is_found_by_name() {
        let file = sample(b"Xen\0", 18, ".modinfo", b"depends=a,b\0");
        assert_eq!(section(&file, ".modinfo"), Ok(Some(&b"depends=a,b\0"[..])));
        assert_eq!(section(&file, ".text"), Ok(None));
    }

    #[test]
    fn no_prefix_of_a_file_panics() {
        let file = sample(b"Xen\0", 18, ".modinfo", b"depends=\0");
        for end in 0..file.len() {
            let _ = has_pvh_note(&file[..end]);
            assert!(section(&file[..end], ".modinfo").is_err(), "{end}");
        }
        // Sizes and offsets at their largest.
        for at in 32..120 {
            let mut file = file.clone();
            file[at..at + 8].fill(0xff);
            let _ = has_pvh_note(&file);
            let _ = section(&file, ".modinfo");
        }
    }
}
