//! `cargo xtask bench peers`: what one command costs with others who give it a machine of its own.
//!
//! virtme-ng is installed by pip into an environment in the target directory, and boots the kernel
//! that viv uses: the package of the same release, unpacked beside it and not installed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::figures::{Pairs, print_table, require_goals};
use super::measure::until_first_byte_and_end;
use super::{starts, templates};
use crate::workspace::{self, Profile};
use crate::{command, setup};

/// What is compared with.
const VIRTME_NG: &str = "virtme-ng==1.42";

/// Of virtme-ng's time, at most this much.
const GOAL: f64 = 0.06;

/// virtme-ng's file daemon, where the distribution has none: the release viv's own is made of.
const VIRTIOFSD: &str = "1.14.0";

/// Where virtme-ng looks for it outside PATH.
const VIRTIOFSD_PLACES: &[&str] = &["/usr/libexec/virtiofsd", "/usr/lib/virtiofsd/virtiofsd", "/usr/lib/virtiofsd"];

/// The suite that viv's kernel is from.
const SUITE: &str = "trixie";

/// `cargo xtask bench peers`
#[derive(Debug, Args)]
pub struct PeersArguments {
    /// How often each command is run; medians are of these
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(7..=1000))]
    runs: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Measures and prints; fails where the goal is missed.
pub fn peers(arguments: &PeersArguments) -> Result<()> {
    setup::run(setup::Purpose::Peers, false)?;
    let viv = workspace::build_viv(Profile::Release)?;
    let scratch = tempfile::Builder::new().prefix("viv-bench-").tempdir()?;
    let project = scratch.path();
    templates::build(&viv, &[])?;
    let release = command::capture(&mut starts::run(&viv, project, &[], &["uname", "-r"]))?;
    let accelerated = accelerated(&viv, project)?;
    let peer = Peer::install(release.trim(), project, accelerated)?;

    let ours = || until_first_byte_and_end(&mut starts::run(&viv, project, &[], &["uname", "-a"]), None);
    let theirs = || until_first_byte_and_end(&mut peer.command(&["uname", "-a"]), None);
    // Both warm: virtme-ng keeps what it works out of a kernel.
    ours()?;
    theirs().context("virtme-ng does not work here")?;
    let mut pairs = Pairs::new();
    for run in 1..=arguments.runs {
        eprintln!("run {run} of {}", arguments.runs);
        let theirs = theirs()?;
        pairs.push(ours()?.end, theirs.end);
    }
    let figures = [pairs.figure("uname -a, from start to end", GOAL)];
    if arguments.json {
        println!("{}", serde_json::json!({ "figures": figures, "runs": arguments.runs, "peer": VIRTME_NG }));
    } else {
        print_table(&figures, arguments.runs, "peer");
        println!("\nThe peer is {VIRTME_NG} with the same kernel, {}.", release.trim());
    }
    require_goals(&figures)
}

/// Whether viv has hardware to run on; the peer gets the same.
fn accelerated(viv: &Path, project: &Path) -> Result<bool> {
    let shown =
        command::capture(Command::new(viv).args(["run", "--dry-run", "--json", "--", "true"]).current_dir(project))?;
    let shown: Value = serde_json::from_str(&shown).context("`viv run --dry-run --json` printed no JSON")?;
    Ok(shown["machine"]["accel"] == "kvm")
}

/// virtme-ng, ready to be run.
struct Peer {
    program: PathBuf,
    path: OsString,
    kernel: PathBuf,
    project: PathBuf,
    accelerated: bool,
}

impl Peer {
    fn install(release: &str, project: &Path, accelerated: bool) -> Result<Self> {
        let place = workspace::target_directory()?.join("peers");
        fs::create_dir_all(&place)?;
        let environment = place.join(VIRTME_NG.replace("==", "-"));
        let program = environment.join("bin/vng");
        if !program.is_file() {
            command::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
            command::run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", VIRTME_NG]))?;
        }
        let file_daemon = place.join("virtiofsd");
        let found = command::find_program("virtiofsd").is_some()
            || VIRTIOFSD_PLACES.iter().any(|path| Path::new(path).is_file())
            || file_daemon.join("bin/virtiofsd").is_file();
        if !found {
            let mut install = workspace::cargo();
            install.args(["install", "--locked", "--version", VIRTIOFSD, "--root"]).arg(&file_daemon).arg("virtiofsd");
            command::run(&mut install)?;
        }
        let kernel = kernel(&place, release)?;
        let paths = [environment.join("bin"), file_daemon.join("bin")].into_iter();
        let path =
            std::env::join_paths(paths.chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())))?;
        Ok(Self { program, path, kernel, project: project.to_owned(), accelerated })
    }

    fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        if !self.accelerated {
            // It takes an openable /dev/kvm for a working one.
            command.arg("--disable-kvm");
        }
        command.arg("--run").arg(&self.kernel).arg("--").args(program);
        command.env("PATH", &self.path).current_dir(&self.project);
        command
    }
}

/// The kernel of this release, with its modules where virtme-ng looks for them.
fn kernel(place: &Path, release: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    ensure!(!release.is_empty() && release.chars().all(plain), "not a kernel's release: {release:?}");
    let tree = place.join(format!("kernel-{release}"));
    let image = PathBuf::from(format!("boot/vmlinuz-{release}"));
    if tree.join(&image).is_file() {
        return Ok(tree.join(image));
    }
    let apt = tempfile::Builder::new().prefix("apt-").tempdir_in(place)?;
    let partial = apt.path().join("kernel");
    download(apt.path(), &format!("linux-image-{release}"))?;
    let packages = fs::read_dir(apt.path())?.flatten().map(|entry| entry.path());
    let package = packages.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).last();
    let package = package.context("apt downloaded no package")?;
    command::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&partial))?;
    let modules = partial.join("usr/lib/modules").join(release);
    if modules.is_dir() {
        std::os::unix::fs::symlink("usr/lib", partial.join("lib"))?;
    }
    // What loads them in virtme-ng's initramfs reads no compressed ones.
    let unpack = ["find", "lib/modules/", "-name", "*.ko.xz", "-exec", "unxz", "{}", "+"];
    command::run(Command::new(unpack[0]).args(&unpack[1..]).current_dir(&partial))?;
    let depmod = command::find_program("depmod").context("there is no depmod")?;
    command::run(Command::new(depmod).arg("--basedir").arg(&partial).arg(release))?;
    fs::rename(&partial, &tree)?;
    Ok(tree.join(image))
}

/// Downloads a package of [`SUITE`] with an apt of its own, from where the host's packages are from.
fn download(directory: &Path, package: &str) -> Result<()> {
    let sources = directory.join("sources.list.d");
    for made in [&sources, &directory.join("state/lists/partial"), &directory.join("cache/archives/partial")] {
        fs::create_dir_all(made)?;
    }
    fs::write(sources.join("kernel.sources"), setup::sources_of(SUITE)?)?;
    fs::write(directory.join("status"), "")?;
    let set = |name: &str, value: &Path| [OsString::from("-o"), format!("{name}={}", value.display()).into()];
    let mut options: Vec<OsString> = Vec::new();
    for (name, value) in [
        ("Dir::Etc::SourceList", Path::new("/dev/null")),
        ("Dir::Etc::SourceParts", &sources),
        ("Dir::State", &directory.join("state")),
        ("Dir::State::status", &directory.join("status")),
        ("Dir::Cache", &directory.join("cache")),
        // The user that apt would become cannot write here.
        ("APT::Sandbox::User", Path::new("")),
    ] {
        options.extend(set(name, value));
    }
    for words in [&["update"][..], &["download", package][..]] {
        let mut apt = Command::new("apt-get");
        apt.arg("--quiet").args(&options).args(words).current_dir(directory);
        command::run(&mut apt)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_boots_the_same_kernel_on_the_same_kind_of_machine() {
        let peer = |accelerated| Peer {
            program: "vng".into(),
            path: "/bin".into(),
            kernel: "/k/boot/vmlinuz-6".into(),
            project: "/project".into(),
            accelerated,
        };
        let shown = |accelerated| command::display(&peer(accelerated).command(&["uname", "-a"]));
        assert_eq!(shown(true), "PATH=/bin vng --run /k/boot/vmlinuz-6 -- uname -a");
        assert_eq!(shown(false), "PATH=/bin vng --disable-kvm --run /k/boot/vmlinuz-6 -- uname -a");
    }

    #[test]
    fn a_release_is_no_path() {
        for release in ["", "../6.1", "6.1 x", "6.1/x", "6.1\n"] {
            assert!(kernel(Path::new("/nowhere"), release).is_err(), "{release:?}");
        }
    }
}
