//! Images made by hand: what no tool would write can be written, too.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The processor's name in images.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A layer on its way.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, owner: u64, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_700_000_000);
        header.set_size(size as u64);
        header
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.owned(path, content, 0o644, 0)
    }

    pub fn owned(mut self, path: &str, content: &[u8], mode: u32, owner: u64) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, mode, owner, content.len());
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0, 0);
        self.0.append_data(&mut header, format!("{path}/"), std::io::empty()).unwrap();
        self
    }

    pub fn link(mut self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, 0o777, 0, 0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub fn fifo(mut self, path: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Fifo, 0o600, 0, 0);
        self.0.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }

    pub fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Char, 0o666, 0, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }

    /// The next entry has this extended attribute.
    pub fn attribute(mut self, name: &str, value: &[u8]) -> Self {
        let key = format!("SCHILY.xattr.{name}");
        self.0.append_pax_extensions([(key.as_str(), value)]).unwrap();
        self
    }

    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// How a layer is packed.
#[derive(Clone, Copy)]
pub enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    fn pack(self, tar: &[u8]) -> (Vec<u8>, &'static str) {
        match self {
            Self::None => (tar.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).unwrap();
                (encoder.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
            }
            Self::Zstd => (zstd::encode_all(tar, 3).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd"),
        }
    }
}

/// Images with their names, as in an OCI image layout.
#[derive(Default)]
pub struct Layout {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub entries: Vec<Value>,
}

impl Layout {
    /// An image for this host; the descriptor of its manifest.
    pub fn image(&mut self, layers: &[Vec<u8>], packing: Packing, config: Value) -> Value {
        self.image_for(architecture(), layers, packing, config)
    }

    pub fn image_for(&mut self, architecture: &str, layers: &[Vec<u8>], packing: Packing, config: Value) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|tar| digest(tar)).collect();
        let configuration = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| json!({"created_by": "a test"})).collect::<Vec<_>>(),
        });
        let config = self.json(&configuration, "application/vnd.oci.image.config.v1+json");
        let layers: Vec<Value> = layers
            .iter()
            .map(|tar| {
                let (bytes, kind) = packing.pack(tar);
                self.blob(bytes, kind)
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.json(&manifest, MANIFEST)
    }

    /// One image for several processors.
    pub fn index(&mut self, manifests: &[(&str, Value)]) -> Value {
        let manifests: Vec<Value> = manifests
            .iter()
            .map(|(architecture, descriptor)| {
                let mut entry = descriptor.clone();
                entry["platform"] = json!({"os": "linux", "architecture": architecture});
                entry
            })
            .collect();
        self.json(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}), INDEX)
    }

    pub fn json(&mut self, value: &Value, kind: &str) -> Value {
        self.blob(serde_json::to_vec(value).unwrap(), kind)
    }

    pub fn blob(&mut self, bytes: Vec<u8>, kind: &str) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({"mediaType": kind, "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    pub fn name(&mut self, name: &str, descriptor: &Value) {
        let mut entry = descriptor.clone();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.entries.push(entry);
    }

    /// The bytes that a descriptor stands for.
    pub fn of(&self, descriptor: &Value) -> &[u8] {
        &self.blobs[descriptor["digest"].as_str().unwrap()]
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries});
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
        ];
        let blobs = self.blobs.iter();
        files.extend(blobs.map(|(digest, bytes)| (format!("blobs/{}", digest.replace(':', "/")), bytes.clone())));
        files
    }

    pub fn write_directory(&self, path: &Path) {
        for (name, bytes) in self.files() {
            fs::create_dir_all(path.join(&name).parent().unwrap()).unwrap();
            fs::write(path.join(name), bytes).unwrap();
        }
    }

    pub fn tar(&self) -> Vec<u8> {
        let files = self.files();
        files.iter().fold(Layer::new(), |layer, (name, bytes)| layer.file(name, bytes)).tar()
    }
}
