//! The mmdebstrap runs that fetch the kernel or its source and build the root, as data.
//!
//! All are rootless for an ordinary user (`--mode=unshare`: a user namespace over the user's
//! subordinate ids). Root usually has no subordinate ids and needs none. `--mode=root` mounts on the
//! host, though, and a killed run would leave `/dev` and `/sys` mounted in its directory: so it runs in
//! mount and pid namespaces made for it, which go with its last process.
//!
//! None makes an archive. A hook running inside the namespaces writes the result to its standard
//! input, which is the output file, opened by the caller: the ids in there may enter none of the
//! user's private directories, but may write to what they are given.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::pip;
use crate::run::Invocation;
use crate::sources::{self, SUITE};
use crate::tools::SYSTEM_PATH;

/// The meta package that names Debian's kernel for virtual machines.
pub const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the default root image holds, one package a line, with comments.
pub(crate) const PACKAGES: &str = include_str!("../data/packages.txt");
pub(crate) const KERNEL_SCRIPT: &str = include_str!("../data/kernel.sh");
pub(crate) const SOURCE_SCRIPT: &str = include_str!("../data/kernel-source.sh");
pub(crate) const NPM_SCRIPT: &str = include_str!("../data/root-npm.sh");
pub(crate) const FINISH_SCRIPT: &str = include_str!("../data/root-finish.sh");

/// Left out by dpkg, now and for what is installed in a guest: nobody reads manuals in there.
/// Licences stay.
pub(crate) const DPKG_OPTIONS: [&str; 7] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/man/*",
];

/// What of the host goes into a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// The caller is root.
    pub root: bool,
    /// Lines of a sources.list; empty for mmdebstrap's own choice.
    pub sources: Vec<String>,
    /// Options for apt.
    pub apt_options: Vec<String>,
    /// Proxy variables.
    pub proxies: Vec<(String, String)>,
    /// The host's pip settings.
    pub pip: pip::Settings,
}

/// What root runs mmdebstrap through: arguments of `unshare`.
const ISOLATED: [&str; 6] = ["--mount", "--propagation=private", "--pid", "--kill-child", "--mount-proc", "mmdebstrap"];

impl Host {
    fn program(&self) -> &'static str {
        if self.root { "unshare" } else { "mmdebstrap" }
    }

    /// Looks at the host: apt's and pip's configuration, the environment, the user.
    pub(crate) fn probe() -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        // Only for proxies and the like: without an answer, apt's defaults hold.
        let dump = Command::new("apt-config").arg("dump").env("PATH", SYSTEM_PATH).output();
        let dump = dump.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let proxies = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy"];
        Self {
            root: rustix::process::geteuid().is_root(),
            sources: sources::resolve(variable(sources::MIRROR_VARIABLE).as_deref(), &sources::HostFiles::read()),
            apt_options: sources::fetch_options(&dump),
            proxies: proxies.iter().filter_map(|name| Some(((*name).to_owned(), variable(name)?))).collect(),
            pip: pip::settings(&variable, &|path| std::fs::read_to_string(path).ok()),
        }
    }

    fn environment(&self, build: &Path) -> Vec<(String, String)> {
        let mut environment = vec![
            ("PATH".to_owned(), SYSTEM_PATH.to_owned()),
            // Not the user's: nothing in there may be read by the namespaces' ids.
            ("HOME".to_owned(), "/".to_owned()),
            ("TMPDIR".to_owned(), build.display().to_string()),
        ];
        environment.extend(self.proxies.iter().cloned());
        environment
    }

    fn common(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.root {
            arguments.extend(ISOLATED.map(str::to_owned));
        }
        arguments.extend([
            format!("--mode={}", if self.root { "root" } else { "unshare" }),
            // The lines of apt and dpkg are what progress is made of.
            "--verbose".to_owned(),
            "--format=null".to_owned(),
            // All of it is thrown away; what matters has been taken out by then. policy-rc.d is enough
            // to keep services from starting, and a fake start-stop-daemon would end up in the image.
            "--skip=chroot/start-stop-daemon,cleanup/apt,cleanup/mmdebstrap,cleanup/reproducible,cleanup/run,cleanup/tmp"
                .to_owned(),
            "--aptopt=Acquire::Languages \"none\"".to_owned(),
            "--aptopt=Acquire::Retries \"3\"".to_owned(),
        ]);
        arguments.extend(self.apt_options.iter().map(|option| format!("--aptopt={option}")));
        arguments
    }

    fn suite_and_sources(&self) -> impl Iterator<Item = String> {
        // The target comes between the two; there is none, which is written as standard output.
        [SUITE.to_owned(), "-".to_owned()].into_iter().chain(self.sources.clone())
    }
}

/// Fetches the kernel's package into the open file that is its standard input. `build` is the
/// directory it may use.
pub(crate) fn kernel(host: &Host, build: &Path) -> Invocation {
    let mut arguments = host.common();
    arguments.push("--variant=custom".to_owned());
    arguments.push(format!("--extract-hook={}", run_script("VIV_KERNEL_SCRIPT")));
    arguments.extend(host.suite_and_sources());
    let mut environment = host.environment(build);
    environment.push(("VIV_KERNEL_PACKAGE".to_owned(), KERNEL_PACKAGE.to_owned()));
    environment.push(("VIV_KERNEL_SCRIPT".to_owned(), KERNEL_SCRIPT.to_owned()));
    Invocation { program: host.program(), arguments, environment }
}

/// Writes the newest package of kernel sources (`NAME=VERSION`) into the open file that is its standard
/// input; or, given such a text, that package itself.
pub(crate) fn kernel_source(host: &Host, build: &Path, package: Option<&str>) -> Invocation {
    let mut arguments = host.common();
    arguments.push("--variant=custom".to_owned());
    arguments.push(format!("--extract-hook={}", run_script("VIV_SOURCE_SCRIPT")));
    arguments.extend(host.suite_and_sources());
    let mut environment = host.environment(build);
    environment.push(("VIV_SOURCE_PACKAGE".to_owned(), package.unwrap_or_default().to_owned()));
    environment.push(("VIV_SOURCE_SCRIPT".to_owned(), SOURCE_SCRIPT.to_owned()));
    Invocation { program: host.program(), arguments, environment }
}

/// Builds the root image into the open file that is its standard input. `build` is the directory it
/// may use.
pub(crate) fn root(host: &Host, build: &Path) -> Invocation {
    let mut arguments = host.common();
    arguments.push("--variant=minbase".to_owned());
    arguments.push(format!("--include={}", packages().collect::<Vec<_>>().join(",")));
    arguments.extend(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}")));
    // Made first: an upload needs the directory it goes to.
    arguments.push(
        "--customize-hook=mkdir -p \"$1/viv-build/.config/pip\" \"$1/viv-build/.pip\" \"$1/etc/xdg/pip\"".to_owned(),
    );
    for (source, place) in &host.pip.uploads {
        arguments.push(format!("--customize-hook=upload {} {place}", quoted(&source.display().to_string())));
    }
    arguments.push(format!("--customize-hook={}", run_script("VIV_NPM_SCRIPT")));
    arguments.push(format!("--customize-hook={}", run_script("VIV_FINISH_SCRIPT")));
    arguments.extend(host.suite_and_sources());
    let mut environment = host.environment(build);
    environment.extend(host.pip.variables.iter().cloned());
    environment.push(("VIV_NPM_SCRIPT".to_owned(), NPM_SCRIPT.to_owned()));
    environment.push(("VIV_FINISH_SCRIPT".to_owned(), FINISH_SCRIPT.to_owned()));
    Invocation { program: host.program(), arguments, environment }
}

/// The packages of the default root image.
pub(crate) fn packages() -> impl Iterator<Item = &'static str> {
    PACKAGES.lines().filter_map(|line| line.split('#').next().map(str::trim).filter(|name| !name.is_empty()))
}

/// Whether the default root image has this package without being asked for it. npm is there, though not by its
/// package of Debian's.
#[must_use]
pub fn is_in_default_root(package: &str) -> bool {
    package == "npm" || packages().any(|name| name == package)
}

/// A hook that runs the script in an environment variable. mmdebstrap prints its hooks when it runs
/// them and again when they fail, so a script's text in there would bury what the script said.
fn run_script(variable: &str) -> String {
    format!("sh -c \"${variable}\" sh \"$1\"")
}

/// A word as mmdebstrap's special hooks read it (Perl's shellwords).
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// The plan with the scripts' text left out.
    fn shown(invocation: &Invocation) -> String {
        let mut text = format!("{}\n", invocation.program);
        for argument in &invocation.arguments {
            text.push_str(&format!("  {argument}\n"));
        }
        for (name, value) in &invocation.environment {
            let value = value
                .replace(KERNEL_SCRIPT, "<data/kernel.sh>")
                .replace(SOURCE_SCRIPT, "<data/kernel-source.sh>")
                .replace(NPM_SCRIPT, "<data/root-npm.sh>")
                .replace(FINISH_SCRIPT, "<data/root-finish.sh>");
            text.push_str(&format!("  {name}={value}\n"));
        }
        text
    }

    #[test]
    fn as_an_ordinary_user_behind_a_proxy() {
        let host = Host {
            root: false,
            sources: vec!["deb http://mirror.example/debian trixie main".to_owned()],
            apt_options: vec!["Acquire::http::Proxy \"http://proxy.example:3128\"".to_owned()],
            proxies: vec![("https_proxy".to_owned(), "http://proxy.example:3128".to_owned())],
            pip: pip::Settings {
                variables: vec![("PIP_INDEX_URL".to_owned(), "https://index.example/simple".to_owned())],
                uploads: vec![(PathBuf::from("/home/a b/pip.conf"), "/viv-build/.config/pip/pip.conf")],
            },
        };
        let build = Path::new("/var/tmp/viv-build-1");
        insta::assert_snapshot!(shown(&kernel(&host, build)), @r#"
        mmdebstrap
          --mode=unshare
          --verbose
          --format=null
          --skip=chroot/start-stop-daemon,cleanup/apt,cleanup/mmdebstrap,cleanup/reproducible,cleanup/run,cleanup/tmp
          --aptopt=Acquire::Languages "none"
          --aptopt=Acquire::Retries "3"
          --aptopt=Acquire::http::Proxy "http://proxy.example:3128"
          --variant=custom
          --extract-hook=sh -c "$VIV_KERNEL_SCRIPT" sh "$1"
          trixie
          -
          deb http://mirror.example/debian trixie main
          PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
          HOME=/
          TMPDIR=/var/tmp/viv-build-1
          https_proxy=http://proxy.example:3128
          VIV_KERNEL_PACKAGE=linux-image-cloud-amd64
          VIV_KERNEL_SCRIPT=<data/kernel.sh>
        "#);
        insta::assert_snapshot!(shown(&root(&host, build)), @r#"
        mmdebstrap
          --mode=unshare
          --verbose
          --format=null
          --skip=chroot/start-stop-daemon,cleanup/apt,cleanup/mmdebstrap,cleanup/reproducible,cleanup/run,cleanup/tmp
          --aptopt=Acquire::Languages "none"
          --aptopt=Acquire::Retries "3"
          --aptopt=Acquire::http::Proxy "http://proxy.example:3128"
          --variant=minbase
          --include=bubblewrap,ca-certificates,curl,fd-find,gcc,git,iproute2,jq,less,libc6-dev,make,nodejs,openssh-client,openssh-server,procps,python3,python3-pip,python3-venv,ripgrep,strace,sudo,systemd-standalone-sysusers,tmux,vim-tiny
          --dpkgopt=path-exclude=/usr/share/doc/*
          --dpkgopt=path-include=/usr/share/doc/*/copyright
          --dpkgopt=path-exclude=/usr/share/info/*
          --dpkgopt=path-exclude=/usr/share/lintian/*
          --dpkgopt=path-exclude=/usr/share/locale/*
          --dpkgopt=path-include=/usr/share/locale/locale.alias
          --dpkgopt=path-exclude=/usr/share/man/*
          --customize-hook=mkdir -p "$1/viv-build/.config/pip" "$1/viv-build/.pip" "$1/etc/xdg/pip"
          --customize-hook=upload "/home/a b/pip.conf" /viv-build/.config/pip/pip.conf
          --customize-hook=sh -c "$VIV_NPM_SCRIPT" sh "$1"
          --customize-hook=sh -c "$VIV_FINISH_SCRIPT" sh "$1"
          trixie
          -
          deb http://mirror.example/debian trixie main
          PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
          HOME=/
          TMPDIR=/var/tmp/viv-build-1
          https_proxy=http://proxy.example:3128
          PIP_INDEX_URL=https://index.example/simple
          VIV_NPM_SCRIPT=<data/root-npm.sh>
          VIV_FINISH_SCRIPT=<data/root-finish.sh>
        "#);
    }

    #[test]
    fn as_root_with_nothing_set() {
        let host = Host { root: true, ..Host::default() };
        let source = kernel_source(&host, Path::new("/var/tmp/viv-build-1"), Some("linux-source-6.12=6.12.1-1"));
        insta::assert_snapshot!(shown(&source), @r#"
        unshare
          --mount
          --propagation=private
          --pid
          --kill-child
          --mount-proc
          mmdebstrap
          --mode=root
          --verbose
          --format=null
          --skip=chroot/start-stop-daemon,cleanup/apt,cleanup/mmdebstrap,cleanup/reproducible,cleanup/run,cleanup/tmp
          --aptopt=Acquire::Languages "none"
          --aptopt=Acquire::Retries "3"
          --variant=custom
          --extract-hook=sh -c "$VIV_SOURCE_SCRIPT" sh "$1"
          trixie
          -
          PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
          HOME=/
          TMPDIR=/var/tmp/viv-build-1
          VIV_SOURCE_PACKAGE=linux-source-6.12=6.12.1-1
          VIV_SOURCE_SCRIPT=<data/kernel-source.sh>
        "#);
        insta::assert_snapshot!(shown(&root(&host, Path::new("/var/tmp/viv-build-1"))), @r#"
        unshare
          --mount
          --propagation=private
          --pid
          --kill-child
          --mount-proc
          mmdebstrap
          --mode=root
          --verbose
          --format=null
          --skip=chroot/start-stop-daemon,cleanup/apt,cleanup/mmdebstrap,cleanup/reproducible,cleanup/run,cleanup/tmp
          --aptopt=Acquire::Languages "none"
          --aptopt=Acquire::Retries "3"
          --variant=minbase
          --include=bubblewrap,ca-certificates,curl,fd-find,gcc,git,iproute2,jq,less,libc6-dev,make,nodejs,openssh-client,openssh-server,procps,python3,python3-pip,python3-venv,ripgrep,strace,sudo,systemd-standalone-sysusers,tmux,vim-tiny
          --dpkgopt=path-exclude=/usr/share/doc/*
          --dpkgopt=path-include=/usr/share/doc/*/copyright
          --dpkgopt=path-exclude=/usr/share/info/*
          --dpkgopt=path-exclude=/usr/share/lintian/*
          --dpkgopt=path-exclude=/usr/share/locale/*
          --dpkgopt=path-include=/usr/share/locale/locale.alias
          --dpkgopt=path-exclude=/usr/share/man/*
          --customize-hook=mkdir -p "$1/viv-build/.config/pip" "$1/viv-build/.pip" "$1/etc/xdg/pip"
          --customize-hook=sh -c "$VIV_NPM_SCRIPT" sh "$1"
          --customize-hook=sh -c "$VIV_FINISH_SCRIPT" sh "$1"
          trixie
          -
          PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
          HOME=/
          TMPDIR=/var/tmp/viv-build-1
          VIV_NPM_SCRIPT=<data/root-npm.sh>
          VIV_FINISH_SCRIPT=<data/root-finish.sh>
        "#);
    }

    #[test]
    fn the_packages_are_sorted_and_commented() {
        let names: Vec<_> = packages().collect();
        assert!(names.is_sorted() && names.len() > 20);
        let lines = PACKAGES.lines().filter(|line| !line.is_empty());
        assert!(lines.clone().all(|line| line.contains('#')), "every package says why it is there");
    }
}
