//! The certificate authorities that a guest trusts: those the host trusts.
//!
//! The bundle is the system's file where nothing has to be added, so that starting a sandbox costs
//! reading it once. Else it is a file in the cache, named after its content.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::sets::{ini, stamp};

/// What callers match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file that the user named is missing, not readable, too large or without certificates.
    BadFile,
    /// The bundle cannot be kept in the cache.
    Cache,
}

impl viv_error::Kind for ErrorKind {
    fn name(&self) -> &'static str {
        match self {
            Self::BadFile => "bad_file",
            Self::Cache => "cache",
        }
    }
}

/// An error of the certificates.
pub type Error = viv_error::Error<ErrorKind>;

/// Larger files are not read; Debian's bundle has 0.2 MiB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Where systems have their bundle, in the order of Go's crypto/x509 (root_linux.go), which knows most of them.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",                // Debian, Arch, Gentoo, NixOS
    "/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",                            // openSUSE
    "/etc/pki/tls/cacert.pem",                           // OpenELEC
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL 7
    "/etc/ssl/cert.pem",                                 // Alpine
];

/// Variables that name a file with certificate authorities, and who reads them.
const VARIABLES: [&str; 16] = [
    "SSL_CERT_FILE", // OpenSSL (X509_get_default_cert_file_env(3)), Go crypto/x509, rustls-native-certs, uv
    "REQUESTS_CA_BUNDLE", // Python requests, "SSL Cert Verification"
    "CURL_CA_BUNDLE", // curl(1), requests
    "NODE_EXTRA_CA_CERTS", // Node.js, "Command-line API"
    "GIT_SSL_CAINFO", // git-config(1), http.sslCAInfo
    "PIP_CERT",      // pip's --cert
    "CARGO_HTTP_CAINFO", // Cargo book, http.cainfo
    "AWS_CA_BUNDLE", // AWS SDKs, ca_bundle
    "NIX_SSL_CERT_FILE", // Nix manual, ssl-cert-file
    "DENO_CERT",     // Deno, "Environment variables"
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", // gRPC core, doc/environment_variables.md
    "HTTPLIB2_CA_CERTS", // httplib2, certs.py
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", // gcloud, core/custom_ca_certs_file
    "BUNDLE_SSL_CA_CERT", // bundle-config(1), ssl_ca_cert
    "COMPOSER_CAFILE", // Composer, "cafile"
    "npm_config_cafile", // npm-config(7), cafile
];

/// Yarn's name for the same, which no one sets by hand on a host.
const YARN_VARIABLE: &str = "YARN_HTTPS_CA_FILE_PATH";

/// The variables that make programs in the guest trust the bundle at `destination`.
#[must_use]
pub fn environment(destination: &str) -> BTreeMap<String, String> {
    let names = VARIABLES.into_iter().chain([YARN_VARIABLE]);
    names.map(|name| (name.to_owned(), destination.to_owned())).collect()
}

/// A PEM file with every certificate authority the host trusts, or `None` if it has no bundle and
/// names no file. `cache` is an absolute path.
///
/// The host's bundle is the file `SSL_CERT_FILE` names, else the system's. Added are what its other
/// programs are told of in their variables (those of [`environment`]) and in npm's `cafile`, and
/// `extra`. Files of 4 MiB count at most. Only certificates are copied: a private key beside them is
/// not, and the bundle itself is copied if it holds anything that looks like one.
///
/// # Errors
/// [`ErrorKind::BadFile`] if one of `extra` is no PEM file with certificates; what variables name
/// is left out then, as most programs do. [`ErrorKind::Cache`] if the result cannot be written.
pub fn bundle(
    environment: &BTreeMap<String, String>,
    extra: &[PathBuf],
    cache: &Path,
) -> Result<Option<PathBuf>, Error> {
    for path in extra {
        if !path.is_absolute() || !path.is_file() {
            return Err(bad(path, "is not a file with an absolute path"));
        }
    }
    let paths = candidates(environment, extra, &SYSTEM_BUNDLES);
    let Some((base, others)) = paths.split_first() else { return Ok(None) };
    let directory = cache.join("trust");
    // A link named after the state of all these files leads to the answer for it.
    let stamps: String = paths.iter().map(|path| stamp(path)).collect();
    let remembered = directory.join(format!("for-{}", digest(stamps.as_bytes())));
    if let Ok(path) = remembered.canonicalize() {
        return Ok(Some(path));
    }
    let answer = match merged(base, others, extra)? {
        None => base.clone(),
        Some(text) if text.is_empty() => return Ok(None),
        Some(text) => {
            let path = directory.join(format!("{}.pem", digest(text.as_bytes())));
            keep(&directory, &path, &text).map_err(|source| {
                Error::new(ErrorKind::Cache, format!("cannot write {}", path.display())).source(source)
            })?;
            path
        }
    };
    // Only speed is lost if it cannot be remembered.
    let _ = fs::create_dir_all(&directory);
    let _ = fs::remove_file(&remembered);
    let _ = std::os::unix::fs::symlink(&answer, &remembered);
    Ok(Some(answer))
}

fn bad(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::BadFile, format!("{} {why}", path.display()))
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..16])
}

/// The files that count, resolved, each once; the first is the host's bundle, if it has one.
fn candidates(environment: &BTreeMap<String, String>, extra: &[PathBuf], system: &[&str]) -> Vec<PathBuf> {
    let named = |name: &str| environment.get(name).map(PathBuf::from);
    let upper = environment.iter().filter(|(name, _)| name.eq_ignore_ascii_case("npm_config_cafile"));
    let base = named(VARIABLES[0])
        .filter(|path| path.is_file())
        .or_else(|| system.iter().map(PathBuf::from).find(|path| path.is_file()));
    let others = VARIABLES[1..].iter().filter_map(|name| named(name));
    let others = others.chain(upper.map(|(_, value)| PathBuf::from(value))).chain(npm_cafile(environment));
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in base.into_iter().chain(others).chain(extra.iter().cloned()) {
        let Ok(path) = path.canonicalize() else { continue };
        if path.is_file() && !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

/// `cafile` in the user's npmrc.
fn npm_cafile(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let path = Path::new(environment.get("HOME")?).join(".npmrc");
    let text = String::from_utf8(read(&path).ok()?).ok()?;
    let setting = ini(&text, false).into_iter().rfind(|setting| setting.key == "cafile")?;
    Some(PathBuf::from(setting.value))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() || file.metadata()?.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "not a file, or larger than 4 MiB"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of the bundle with what the others add; `None` if the bundle can be used as it is.
fn merged(base: &Path, others: &[PathBuf], extra: &[PathBuf]) -> Result<Option<String>, Error> {
    let demanded: Vec<PathBuf> = extra.iter().filter_map(|path| path.canonicalize().ok()).collect();
    let load = |path: &Path| {
        let bytes = read(path);
        let blocks = bytes.as_deref().map(certificates).unwrap_or_default();
        if blocks.is_empty() && demanded.iter().any(|extra| extra == path) {
            let error = bad(path, "is no PEM file with certificates, of 4 MiB at most");
            return Err(error.hint("openssl x509 -inform der -in FILE makes PEM of another form"));
        }
        Ok((bytes.unwrap_or_default(), blocks))
    };
    let (bytes, mut all) = load(base)?;
    let mut known: HashSet<String> = all.iter().cloned().collect();
    let mut unchanged = !all.is_empty() && memchr::memmem::find(&bytes, b"PRIVATE KEY").is_none();
    for path in others {
        for block in load(path)?.1 {
            if known.insert(block.clone()) {
                all.push(block);
                unchanged = false;
            }
        }
    }
    Ok((!unchanged).then(|| all.iter().map(|block| armoured(block)).collect()))
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The base64 of the certificates in a PEM file (RFC 7468), without its line breaks. OpenSSL's own `TRUSTED
/// CERTIFICATE`, which few programs read, is not one.
fn certificates(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    let mut rest = text.as_ref();
    while let Some((_, after)) = rest.split_once(BEGIN) {
        let Some((body, next)) = after.split_once(END) else { break };
        // After a block that has no end, the next one counts.
        let body = body.rsplit(BEGIN).next().unwrap_or_default();
        let body: String = body.split_ascii_whitespace().collect();
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        // A certificate is a DER sequence with a length of two bytes or more: 30 82, in base64 MI.
        if body.starts_with("MI") && body.len().is_multiple_of(4) && body.bytes().all(base64) {
            found.push(body);
        }
        rest = next;
    }
    found
}

/// A certificate as RFC 7468 wants it: lines of 64 characters.
fn armoured(base64: &str) -> String {
    let mut text = format!("{BEGIN}\n");
    let mut rest = base64;
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = next;
    }
    text.push_str(END);
    text.push('\n');
    text
}

fn keep(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    // The guest's users read it through a share.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests;
