//! Tools of others, which say whether what comes out is right: Debian's docker-registry, skopeo, umoci.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::layout::Layout;

/// Whether a tool is there. Where tests must not be skipped, it has to be.
pub fn has(programs: &[&str]) -> bool {
    let is_there = |program: &&&str| {
        ["/usr/bin", "/usr/sbin", "/usr/local/bin"].iter().any(|directory| Path::new(directory).join(program).exists())
    };
    let missing: Vec<_> = programs.iter().filter(|program| !is_there(program)).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "not installed: {missing:?}");
    eprintln!("SKIPPED: not installed: {missing:?}");
    false
}

pub fn run(command: &mut Command) -> String {
    let ended = command.stdin(Stdio::null()).output().unwrap();
    assert!(ended.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}

/// A registry of its own on a loopback port.
pub struct Registry {
    child: Child,
    pub host: String,
    directory: tempfile::TempDir,
}

/// `me` and `correct horse`, as `htpasswd -B` writes them.
const LOGIN: &str = "me:$2y$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n";

impl Registry {
    pub fn start(with_login: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (logins, config) = (directory.path().join("htpasswd"), directory.path().join("config.yml"));
        fs::write(&logins, LOGIN).unwrap();
        let mut text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            directory.path().join("data").display()
        );
        if with_login {
            text.push_str(&format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", logins.display()));
        }
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let host = loop {
            let line = lines.next().expect("the registry ended").unwrap();
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ',']).next().unwrap().to_owned();
            }
        };
        // It must not come to wait for someone to read what it says.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, host, directory }
    }

    /// Uploads all that a layout has names for, by skopeo.
    pub fn push(&self, layout: &Layout, repository: &str, login: Option<&str>) {
        let source = tempfile::tempdir_in(self.directory.path()).unwrap();
        layout.write_directory(source.path());
        for entry in &layout.entries {
            let tag = entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap();
            let mut command = Command::new("skopeo");
            command.args(["--insecure-policy", "copy", "--all", "--quiet", "--dest-tls-verify=false"]);
            command.args(login.iter().flat_map(|login| ["--dest-creds", login]));
            command.arg(format!("oci:{}:{tag}", source.path().display()));
            command.arg(format!("docker://{}/{repository}:{tag}", self.host));
            run(&mut command);
        }
    }

    /// Where it keeps a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.directory.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is in an erofs file, extracted as whoever runs this.
pub fn extract(image: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    run(Command::new("fsck.erofs")
        .arg(format!("--extract={}", directory.path().display()))
        .arg("--overwrite")
        .arg(image));
    directory
}

/// An erofs file, mounted by root for as long as this lives.
pub struct Mounted(tempfile::TempDir);

impl Mounted {
    pub fn new(image: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run(Command::new("mount").args(["-t", "erofs", "-o", "ro,loop"]).arg(image).arg(directory.path()));
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.0.path()));
    }
}

/// All that is below a directory, one line each: name, mode, owner, time, links, device number, extended attributes,
/// and what is in it.
pub fn listing(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let of = path.symlink_metadata().unwrap();
            let content = if of.is_dir() {
                left.push(path.clone());
                String::new()
            } else if of.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if of.is_file() {
                crate::layout::digest(&fs::read(&path).unwrap())
            } else {
                of.rdev().to_string()
            };
            let name = path.strip_prefix(root).unwrap().display();
            // A directory's number of links is its file system's own affair.
            let links = if of.is_dir() { 0 } else { of.nlink() };
            let owner = format!("{}:{}", of.uid(), of.gid());
            let attributes = attributes(&path);
            lines.push(format!("{name} {:o} {owner} {} {links} {attributes} {content}", of.mode(), of.mtime()));
        }
    }
    lines.sort();
    lines.join("\n")
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 64 << 10];
    let count = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let pairs = names.map(|name| {
        let mut value = vec![0; 64 << 10];
        let count = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        format!("{}={}", String::from_utf8_lossy(name), hex::encode(&value[..count]))
    });
    pairs.collect::<Vec<_>>().join(",")
}
