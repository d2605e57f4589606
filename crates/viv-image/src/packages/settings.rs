//! Looking at the host for settings of package managers.

use std::path::{Path, PathBuf};

use super::Package;

/// The host, as settings are looked for in it.
pub(super) struct Look<'a> {
    /// The caller's environment, sorted.
    pub variables: &'a [(String, String)],
    pub home: Option<PathBuf>,
    /// The system's node, if there is one.
    pub node: Option<PathBuf>,
    /// Reads a file; none for what cannot be read.
    pub read: &'a dyn Fn(&Path) -> Option<Vec<u8>>,
}

impl Look<'_> {
    /// A variable that is set, and not to nothing.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        let (_, value) = self.variables.iter().find(|(key, _)| key == name)?;
        (!value.is_empty()).then(|| value.clone())
    }

    /// A file's text.
    pub(super) fn text(&self, path: &Path) -> Option<String> {
        String::from_utf8((self.read)(path)?).ok()
    }
}

/// Packages as `NAME` and `NAME<separator>VERSION`.
pub(super) fn words(set: &[Package], separator: &str) -> Vec<String> {
    let word = |package: &Package| match &package.version {
        Some(version) => format!("{}{separator}{version}", package.name),
        None => package.name.clone(),
    };
    set.iter().map(word).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Host;
    use super::super::plan::Root;
    use super::*;
    use crate::bootstrap;
    use crate::pip;

    /// A root with these programs.
    pub(in super::super) struct Has(pub &'static [&'static str]);

    impl Root for Has {
        fn has_program(&self, name: &str) -> bool {
            self.0.contains(&name)
        }

        fn os_release(&self, _: &str) -> Option<String> {
            None
        }
    }

    pub(in super::super) fn set(packages: &[&str]) -> Vec<Package> {
        packages.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A host with variables and files.
    pub(in super::super) struct TestHost {
        variables: Vec<(String, String)>,
        files: Vec<(String, String)>,
    }

    impl TestHost {
        pub(in super::super) fn new(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Self {
            let owned = |pairs: &[(&str, &str)]| {
                let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                pairs.collect::<Vec<_>>()
            };
            Self { variables: owned(variables), files: owned(files) }
        }

        pub(in super::super) fn host(&self) -> Host {
            let file = |path: &Path| self.files.iter().find(|(name, _)| Path::new(name) == path);
            let read = |path: &Path| file(path).map(|(_, text)| text.clone().into_bytes());
            let look = Look {
                variables: &self.variables,
                home: Some(PathBuf::from("/home/me")),
                node: Some(PathBuf::from("/usr/local/bin/node")),
                read: &read,
            };
            let variable = |name: &str| match name {
                "HOME" => Some("/home/me".to_owned()),
                _ => look.variable(name),
            };
            let bootstrap = bootstrap::Host {
                proxies: vec![("https_proxy".to_owned(), "http://proxy.example:3128".to_owned())],
                pip: pip::settings(&variable, &|path| file(path).map(|(_, text)| text.clone())),
                ..bootstrap::Host::default()
            };
            Host {
                npm: super::super::npm::settings(&look),
                pip: super::super::pip::settings(&bootstrap.pip, &read),
                cargo: super::super::cargo::settings(&look),
                bootstrap,
                ..Host::default()
            }
        }
    }
}
