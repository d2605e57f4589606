//! erofs images, as viv-image unpacks them below a build. A proptest of `crates/viv-image/src/unpack.rs` damages
//! images on stable Rust in every test run.

#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file: File = tempfile::tempfile().expect("a file");
    file.write_all_at(bytes, 0).expect("written");
    // What is left of an honest image is an archive; all else is an error.
    let _ = viv_image::unpack::archive(&file, &mut std::io::sink());
});
