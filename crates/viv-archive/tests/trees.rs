//! Trees there and back, and trees of someone who wants out.

#[path = "support/hostile.rs"]
mod hostile;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use viv_archive::{Carried, Directory, ErrorKind, Limits, Options, Packer, RecordReader, Top, unpack};
use viv_proto::archive::{Record, Time};

fn packed(directory: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut told = |_: &Carried| {};
    let mut packer = Packer::new(&mut bytes, &mut told);
    let root = Directory::open(directory).unwrap();
    packer.tree(&root, OsStr::new(name), name.as_bytes(), false).unwrap();
    packer.end().unwrap();
    bytes
}

fn unpacked(bytes: &[u8], directory: &Path, options: &Options) -> viv_archive::Result<Carried> {
    unpack(&mut RecordReader::new(bytes), &Directory::open(directory).unwrap(), options, &mut |_| {})
}

fn stream(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records.iter().for_each(|record| record.encode(&mut bytes).unwrap());
    bytes
}

fn time() -> Time {
    Time { seconds: 1_600_000_000, nanoseconds: 7 }
}

fn file(path: &str, mode: u16, content: &str) -> Vec<Record> {
    let path = path.as_bytes().to_vec();
    vec![
        Record::File { path, mode, modified: time(), size: u64::MAX },
        Record::Data(content.as_bytes().to_vec()),
        Record::FileEnd,
    ]
}

#[test]
fn a_tree_arrives_as_it_is() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let odd = OsStr::from_bytes(b"new\nline \xff");
    fs::create_dir_all(from.path().join("t/closed/deep")).unwrap();
    fs::write(from.path().join("t").join(odd), "odd").unwrap();
    fs::write(from.path().join("t/closed/deep/big"), vec![3; 200_001]).unwrap();
    fs::write(from.path().join("t/empty"), "").unwrap();
    symlink("nowhere/at all", from.path().join("t/link")).unwrap();
    fs::set_permissions(from.path().join("t/closed"), fs::Permissions::from_mode(0o550)).unwrap();
    let bytes = packed(from.path(), "t");
    let carried = unpacked(&bytes, to.path(), &Options::default()).unwrap();
    assert_eq!(carried, Carried { entries: 7, bytes: 200_004, skipped: 0 });
    assert_eq!(fs::read(to.path().join("t").join(odd)).unwrap(), b"odd");
    assert_eq!(fs::read(to.path().join("t/closed/deep/big")).unwrap(), vec![3; 200_001]);
    assert_eq!(fs::read_link(to.path().join("t/link")).unwrap(), Path::new("nowhere/at all"));
    assert_eq!(fs::metadata(to.path().join("t/closed")).unwrap().mode() & 0o7777, 0o550);
    let modified = |root: &Path| fs::metadata(root.join("t/closed/deep")).unwrap().modified().unwrap();
    assert_eq!(modified(from.path()), modified(to.path()));

    // Once more over what is there, under another name, and without its top.
    assert_eq!(unpacked(&bytes, to.path(), &Options::default()).unwrap(), carried);
    let renamed = Options { top: Top::Rename(b"other".to_vec()), ..Options::default() };
    unpacked(&bytes, to.path(), &renamed).unwrap();
    unpacked(&bytes, to.path(), &Options { top: Top::Strip, ..Options::default() }).unwrap();
    for place in ["other/empty", "empty", "closed/deep/big"] {
        assert!(to.path().join(place).exists(), "{place}");
    }
}

#[test]
fn no_rights_come_along_and_special_files_do_not_at_all() {
    let to = tempfile::tempdir().unwrap();
    let mut records = file("suid", 0o6755, "x");
    records.push(Record::Directory { path: b"sticky".to_vec(), mode: 0o3777, modified: time() });
    records.push(Record::End);
    unpacked(&stream(&records), to.path(), &Options::default()).unwrap();
    assert_eq!(fs::metadata(to.path().join("suid")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(to.path().join("sticky")).unwrap().mode() & 0o7777, 0o777);
    rustix::fs::mknodat(rustix::fs::CWD, to.path().join("fifo"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let bytes = packed(to.path(), "fifo");
    assert_eq!(RecordReader::new(bytes.as_slice()).next_record().unwrap(), Record::Skipped { path: b"fifo".to_vec() });
}

#[test]
fn links_are_replaced_and_never_written_through() {
    let (to, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("kept"), "kept").unwrap();
    symlink(outside.path().join("kept"), to.path().join("a")).unwrap();
    symlink(outside.path(), to.path().join("d")).unwrap();
    let mut records = file("a", 0o644, "new");
    records.push(Record::End);
    unpacked(&stream(&records), to.path(), &Options::default()).unwrap();
    assert!(to.path().join("a").symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read(outside.path().join("kept")).unwrap(), b"kept");
    let mut records = file("d/x", 0o644, "new");
    records.push(Record::End);
    let refused = unpacked(&stream(&records), to.path(), &Options::default()).unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::InTheWay);
    let directory = [Record::Directory { path: b"d".to_vec(), mode: 0o755, modified: time() }, Record::End];
    let refused = unpacked(&stream(&directory), to.path(), &Options::default()).unwrap_err();
    assert_eq!(*refused.kind(), ErrorKind::InTheWay);
    // A link of the stream's own is one like any other.
    let mut records = vec![Record::Symlink { path: b"own".to_vec(), target: b"/tmp".to_vec(), modified: time() }];
    records.extend(file("own/x", 0o644, "new"));
    records.push(Record::End);
    assert_eq!(*unpacked(&stream(&records), to.path(), &Options::default()).unwrap_err().kind(), ErrorKind::InTheWay);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_file_is_there_whole_or_as_it_was() {
    let to = tempfile::tempdir().unwrap();
    fs::write(to.path().join("old"), "as it was").unwrap();
    fs::create_dir(to.path().join("directory")).unwrap();
    for name in ["old", "new"] {
        let cut = stream(&file(name, 0o644, "half")[..2]);
        assert_eq!(*unpacked(&cut, to.path(), &Options::default()).unwrap_err().kind(), ErrorKind::Stream);
    }
    let mut over = file("directory", 0o644, "x");
    over.push(Record::End);
    let refused = unpacked(&stream(&over), to.path(), &Options::default()).unwrap_err();
    assert_eq!((*refused.kind(), refused.to_string()), (ErrorKind::InTheWay, "directory is a directory".into()));
    let mut names: Vec<_> = fs::read_dir(to.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["directory", "old"], "nothing half written stays");
    assert_eq!(fs::read(to.path().join("old")).unwrap(), b"as it was");
}

#[test]
fn more_than_is_taken_is_refused_and_so_are_names() {
    let to = tempfile::tempdir().unwrap();
    let mut records = file("a", 0o644, "12345");
    records.extend(file("b", 0o644, "12345"));
    records.push(Record::End);
    let limited = |entries, bytes| {
        let options = Options { limits: Limits { entries, bytes }, ..Options::default() };
        unpacked(&stream(&records), to.path(), &options).map_err(|error| *error.kind())
    };
    assert_eq!(limited(1, 100), Err(ErrorKind::TooMuch));
    assert_eq!(limited(2, 9), Err(ErrorKind::TooMuch));
    assert!(limited(2, 10).is_ok());
    let refused = Options { refused: Some(|path| path.starts_with(b"b").then_some("it is b")), ..Options::default() };
    assert!(unpacked(&stream(&records), to.path(), &refused).unwrap_err().to_string().contains("it is b"));
}

fn record() -> impl Strategy<Value = Record> {
    let name = prop_oneof![Just("a"), Just("out"), Just("file"), Just("up"), Just("x"), Just("inside"), Just("kept")];
    let path = vec(name, 1..4).prop_map(|names| names.join("/").into_bytes());
    let target = prop_oneof![Just("/tmp"), Just(".."), Just("../outside"), Just("a"), Just("out/kept")];
    prop_oneof![
        path.clone().prop_map(|path| Record::Directory { path, mode: 0o755, modified: Time::default() }),
        path.clone().prop_map(|path| Record::File { path, mode: 0o644, modified: Time::default(), size: 0 }),
        (path, target).prop_map(|(path, target)| Record::Symlink {
            path,
            target: target.into(),
            modified: Time::default()
        }),
        vec(any::<u8>(), 1..10).prop_map(Record::Data),
        Just(Record::FileEnd),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn nothing_leads_out(records in vec(record(), 0..12)) {
        // Most files are to be whole, or nothing would come after them.
        let mut bytes = Vec::new();
        for record in records {
            record.encode(&mut bytes).unwrap();
            if matches!(record, Record::File { .. }) {
                Record::FileEnd.encode(&mut bytes).unwrap();
            }
        }
        Record::End.encode(&mut bytes).unwrap();
        hostile::any_stream(&bytes);
    }

    #[test]
    fn nor_do_random_bytes(bytes in vec(any::<u8>(), 0..300)) {
        hostile::any_stream(&bytes);
    }
}
