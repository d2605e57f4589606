//! Makes an erofs image out of tar archives, layer over layer, or of a directory:
//! `cargo run --example erofs -- OUTPUT [none|resolve|overlay] ARCHIVE...`, `-- OUTPUT dir PATH`.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use viv_image::filesystem::{FileSystem, Limits, Whiteouts, decompress};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [output, mode, inputs @ ..] = words.as_slice() else { panic!("OUTPUT MODE INPUT...") };
    let start = Instant::now();
    let mut image = FileSystem::create(Path::new(output), Limits::default()).unwrap();
    for input in inputs {
        let whiteouts = match mode.as_str() {
            "dir" => {
                image.apply_directory(Path::new(input)).unwrap();
                continue;
            }
            "resolve" => Whiteouts::Resolve,
            "overlay" => Whiteouts::Overlay,
            _ => Whiteouts::None,
        };
        let mut archive = decompress(File::open(input).unwrap()).unwrap();
        image.apply_tar(&mut archive, whiteouts).unwrap();
    }
    println!("applied after {:?}", start.elapsed());
    println!("{:?} after {:?}", image.finish().unwrap(), start.elapsed());
}
