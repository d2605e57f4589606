//! scratch
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;
use viv_image::{Cache, ImageSource, Progress, ProgressEvent, ensure_layers, ensure_root};

#[derive(Default)]
struct Printer(Mutex<Vec<ProgressEvent>>);

impl Progress for Printer {
    fn event(&self, event: ProgressEvent) {
        println!("{event:?}");
        self.0.lock().unwrap().push(event);
    }
}

#[test]
fn by_hand() {
    let cache = Cache::open(Path::new(&std::env::var("VIV_TEST_CACHE").unwrap())).unwrap();
    let printer = Printer::default();
    let root = ensure_root(&cache, &ImageSource::Default, &printer).unwrap();
    let packages: Vec<_> = std::env::var("SET").unwrap().split_whitespace().map(|w| w.parse().unwrap()).collect();
    let start = Instant::now();
    match ensure_layers(&cache, &root, &packages, &printer) {
        Ok(layers) => println!("{layers:#?}"),
        Err(error) => {
            let mut e: Option<&dyn std::error::Error> = Some(&error);
            while let Some(x) = e {
                println!("error: {x}");
                e = x.source();
            }
            println!("{error:?}");
        }
    }
    println!("took {:?}", start.elapsed());
    let start = Instant::now();
    let _ = ensure_layers(&cache, &root, &packages, &printer);
    println!("again {:?}", start.elapsed());
}
