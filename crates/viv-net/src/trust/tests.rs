use super::*;

/// The beginnings of three certificates: what is in them is not looked at.
const A: &str = "-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n";
const B: &str = "-----BEGIN CERTIFICATE-----\r\nMIIBBB\r\nBB\r\n-----END CERTIFICATE-----\r\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIIBcanary\n-----END PRIVATE KEY-----\n";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().canonicalize().unwrap().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn bundle(&self, variables: &[(&str, &Path)], extra: &[PathBuf]) -> Result<Option<PathBuf>, Error> {
        let variables = variables.iter().map(|(name, path)| ((*name).to_owned(), path.display().to_string()));
        bundle(&variables.collect(), extra, &self.0.path().join("cache"))
    }
}

#[test]
fn the_hosts_own_file_where_nothing_is_added() {
    let place = Place::new();
    let (base, same) = (place.write("base", &format!("# text\n{A}{B}")), place.write("same", B));
    for _ in 0..2 {
        let found = place.bundle(&[("SSL_CERT_FILE", &base), ("PIP_CERT", &same)], &[]).unwrap();
        assert_eq!(found.as_ref(), Some(&base));
    }
}

#[test]
fn what_the_bundle_lacks_is_added_and_keys_are_not() {
    let place = Place::new();
    let base = place.write("base", A);
    let more = place.write("more", &format!("{KEY}{B}-----BEGIN CERTIFICATE-----\nMIIB\n{A}-----BEGIN TRUSTED CERTIFICATE-----\nMIIC\n-----END TRUSTED CERTIFICATE-----\n"));
    let variables: &[(&str, &Path)] = &[("SSL_CERT_FILE", &base), ("NODE_EXTRA_CA_CERTS", &more)];
    let found = place.bundle(variables, &[]).unwrap().unwrap();
    let text = fs::read_to_string(&found).unwrap();
    assert_eq!(text, format!("{A}-----BEGIN CERTIFICATE-----\nMIIBBBBB\n-----END CERTIFICATE-----\n"));
    assert_eq!(fs::metadata(&found).unwrap().permissions().mode() & 0o777, 0o644);
    // Remembered, until one of the files changes.
    let again = place.bundle(variables, &[]).unwrap().unwrap();
    assert_eq!(again.canonicalize().unwrap(), found.canonicalize().unwrap());
    place.write("more", &A.replace("AAAA", "CCCC"));
    assert_ne!(place.bundle(variables, &[]).unwrap().unwrap().canonicalize().unwrap(), found.canonicalize().unwrap());
}

#[test]
fn a_bundle_with_a_key_in_it_is_copied_without() {
    let place = Place::new();
    let base = place.write("base", &format!("{A}{KEY}"));
    let found = place.bundle(&[("SSL_CERT_FILE", &base)], &[]).unwrap().unwrap();
    assert_eq!(fs::read_to_string(found).unwrap(), A);
}

#[test]
fn the_cafile_of_npm_counts() {
    let place = Place::new();
    let (base, more) = (place.write("base", A), place.write("more", B));
    place.write(".npmrc", &format!("cafile={}\n", more.display()));
    let found = place.bundle(&[("SSL_CERT_FILE", &base), ("HOME", place.0.path())], &[]).unwrap().unwrap();
    assert!(fs::read_to_string(found).unwrap().contains("MIIBBBBB"));
}

#[test]
fn what_the_user_names_has_to_be_there() {
    let place = Place::new();
    let base = place.write("base", A);
    let (der, large) = (place.write("der", "\u{30}\u{2}"), place.write("large", &B.repeat(100_000)));
    for extra in [place.0.path().join("missing"), der.clone(), large.clone(), "relative".into()] {
        let error = place.bundle(&[("SSL_CERT_FILE", &base)], &[extra]).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::BadFile, "{error}");
    }
    // In a variable it does no harm.
    let found = place.bundle(&[("SSL_CERT_FILE", &base), ("PIP_CERT", &der), ("DENO_CERT", &large)], &[]).unwrap();
    assert_eq!(found, Some(base));
}

#[test]
fn a_host_without_anything() {
    assert_eq!(candidates(&BTreeMap::new(), &[], &["/nonexistent"]), Vec::<PathBuf>::new());
}

#[test]
fn every_variable_names_the_bundle() {
    let environment = environment("/run/certificates.pem");
    assert!(environment.values().all(|value| value == "/run/certificates.pem"));
    let names: Vec<&str> = environment.keys().map(String::as_str).collect();
    insta::assert_snapshot!(names.join(" "));
}
