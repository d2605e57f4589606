//! A server on loopback that is an npm registry, a Python index and a registry of crates at once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::archive::{tgz, zip};

#[derive(Default)]
pub struct NpmPackage<'a> {
    pub name: &'a str,
    pub version: &'a str,
    /// A program's name.
    pub program: Option<&'a str>,
    pub postinstall: Option<&'a str>,
    /// A package that it has as optional, in any version.
    pub optional: Option<&'a str>,
    pub file: Option<(&'a str, &'a str)>,
}

#[derive(Default)]
pub struct Crate<'a> {
    pub name: &'a str,
    pub version: &'a str,
    /// A crate it depends on, version 1.
    pub needs: Option<&'a str>,
    /// Text of its program; a library without.
    pub main: Option<&'a str>,
    /// A shell script whose lines its build script makes the variable FOUND of.
    pub build: Option<&'a str>,
    /// The oldest compiler it is for.
    pub rust: Option<&'a str>,
}

/// What was asked of it.
#[derive(Debug, Clone)]
pub struct Request {
    pub authorization: Option<String>,
}

pub struct Registry {
    listener: TcpListener,
    files: BTreeMap<String, Vec<u8>>,
    npm: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
}

/// A registry that answers, as long as the test runs.
pub struct Serving {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Registry {
    pub fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), files: BTreeMap::new(), npm: BTreeMap::new() }
    }

    /// The address of something of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.listener.local_addr().unwrap())
    }

    pub fn npm(&mut self, package: &NpmPackage<'_>) {
        let NpmPackage { name, version, .. } = package;
        let archive = format!("npm-archives/{}-{version}.tgz", name.replace('/', "-"));
        let mut manifest = json!({"name": name, "version": version, "dist": {"tarball": self.url(&archive)}});
        let entry = |name: &str, content: &str| (format!("package/{name}"), content.to_owned());
        let mut files = vec![];
        if let Some(program) = package.program {
            manifest["bin"] = json!({program: "cli.js"});
            files.push(entry("cli.js", "#!/usr/bin/env node\nconsole.log('hello');\n"));
        }
        if let Some(script) = package.postinstall {
            manifest["scripts"] = json!({"postinstall": script});
            manifest["hasInstallScript"] = json!(true);
        }
        if let Some(optional) = package.optional {
            manifest["optionalDependencies"] = json!({optional: "*"});
        }
        files.extend(package.file.map(|(name, content)| entry(name, content)));
        files.push(entry("package.json", &manifest.to_string()));
        self.files.insert(archive, tgz(&files));
        self.npm.entry((*name).to_owned()).or_default().insert((*version).to_owned(), manifest);
    }

    /// A wheel with a module and a program of its name.
    pub fn wheel(&mut self, name: &str, version: &str, needs: &[&str]) {
        let information = format!("{name}-{version}.dist-info");
        let needs: String = needs.iter().map(|need| format!("Requires-Dist: {need}\n")).collect();
        let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}");
        let files = [
            (format!("{name}/__init__.py"), "def main():\n    print('hello')\n".to_owned()),
            (format!("{information}/METADATA"), metadata),
            (
                format!("{information}/WHEEL"),
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_owned(),
            ),
            (format!("{information}/entry_points.txt"), format!("[console_scripts]\n{name} = {name}:main\n")),
            (format!("{information}/RECORD"), String::new()),
        ];
        self.python(name, &format!("{name}-{version}-py3-none-any.whl"), zip(&files));
    }

    /// A package of which there is the source alone.
    pub fn source_only(&mut self, name: &str, version: &str) {
        let setup = "raise SystemExit('this is never to run')\n".to_owned();
        let archive = tgz(&[(format!("{name}-{version}/setup.py"), setup)]);
        self.python(name, &format!("{name}-{version}.tar.gz"), archive);
    }

    fn python(&mut self, name: &str, file: &str, content: Vec<u8>) {
        let link = format!("<a href=\"{}\">{file}</a>\n", self.url(&format!("wheels/{file}")));
        self.files.insert(format!("wheels/{file}"), content);
        let page = self.files.entry(format!("simple/{}/", name.replace('_', "-"))).or_default();
        page.extend(link.into_bytes());
    }

    pub fn cargo(&mut self, package: &Crate<'_>) {
        let Crate { name, version, .. } = package;
        let rust = package.rust.map(|rust| format!("rust-version = \"{rust}\"\n")).unwrap_or_default();
        let needs = package.needs.map(|needs| format!("[dependencies]\n{needs} = \"1\"\n")).unwrap_or_default();
        let manifest =
            format!("[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2021\"\n{rust}{needs}");
        let entry = |path: &str, content: &str| (format!("{name}-{version}/{path}"), content.to_owned());
        let mut files = vec![entry("Cargo.toml", &manifest)];
        files.push(match package.main {
            Some(main) => entry("src/main.rs", main),
            None => entry("src/lib.rs", "pub const WORD: &str = \"hello\";\n"),
        });
        if let Some(script) = package.build {
            files.push(entry("script.sh", script));
            files.push(entry(
                "build.rs",
                "fn main() {\n    let mut shell = std::process::Command::new(\"sh\");\n    \
                 let said = shell.arg(\"-c\").arg(include_str!(\"script.sh\")).output().unwrap().stdout;\n    \
                 println!(\"cargo:rustc-env=FOUND={}\", String::from_utf8(said).unwrap().trim().replace('\\n', \"; \"));\n}\n",
            ));
        }
        let archive = tgz(&files);
        let needs: Vec<_> = package
            .needs
            .iter()
            .map(|needs| {
                json!({"name": needs, "req": "^1", "features": [], "optional": false, "default_features": true,
                "target": null, "kind": "normal"})
            })
            .collect();
        let line = json!({"name": name, "vers": version, "deps": needs, "features": {}, "yanked": false,
            "cksum": hex::encode(Sha256::digest(&archive)), "rust_version": package.rust});
        self.files.insert(format!("crates/{name}/{version}/download"), archive);
        let dl = json!({"dl": self.url("crates")});
        self.files.insert("index/config.json".to_owned(), dl.to_string().into_bytes());
        // "Index Files" in the Cargo book: names of four letters and more.
        let page = self.files.entry(format!("index/{}/{}/{name}", &name[..2], &name[2..4])).or_default();
        page.extend(format!("{line}\n").into_bytes());
    }

    /// Answers from now on.
    pub fn serve(mut self) -> Serving {
        for (name, versions) in std::mem::take(&mut self.npm) {
            let latest = versions.keys().next_back();
            let document = json!({"name": name, "dist-tags": {"latest": latest}, "versions": versions});
            self.files.insert(format!("npm/{name}"), document.to_string().into_bytes());
        }
        // The registry's own search knows all of them.
        let found: Vec<_> = self
            .files
            .keys()
            .filter_map(|path| path.strip_prefix("npm/"))
            .map(|name| {
            json!({"package": {"name": name, "version": "1.0.0", "keywords": [], "maintainers": [], "date": "2026-01-01T00:00:00.000Z"}})
        })
            .collect();
        self.files.insert(
            "npm/-/v1/search".to_owned(),
            json!({"objects": found, "total": found.len()}).to_string().into_bytes(),
        );
        let serving = Serving { address: self.listener.local_addr().unwrap(), requests: Arc::default() };
        let (files, requests) = (Arc::new(self.files), Arc::clone(&serving.requests));
        thread::spawn(move || {
            for stream in self.listener.incoming().flatten() {
                let (files, requests) = (Arc::clone(&files), Arc::clone(&requests));
                // One that goes away is no matter.
                thread::spawn(move || answer(stream, &files, &requests).ok());
            }
        });
        serving
    }
}

impl Serving {
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(stream: TcpStream, files: &BTreeMap<String, Vec<u8>>, requests: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let target = first.split(' ').nth(1).unwrap_or_default();
    let path =
        target.split('?').next().unwrap_or_default().trim_start_matches('/').replace("%2f", "/").replace("%2F", "/");
    let mut authorization = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("authorization")
        {
            authorization = Some(value.trim().to_owned());
        }
    }
    let found = files.get(&path);
    requests.lock().unwrap().push(Request { authorization });
    let (status, body) = found.map_or(("404 Not Found", &b"{}"[..]), |body| ("200 OK", body));
    let mut stream = stream;
    let kind =
        if target.contains("/simple/") || target.starts_with("/simple/") { "text/html" } else { "application/json" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}
