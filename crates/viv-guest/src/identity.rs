//! Who the sandbox is: names, clock, randomness, its user.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, Timespec};
use viv_proto::message::{Configure, FailureKind, User};

use crate::error::{Context, Result, error};
use crate::layers::Layers;
use crate::{accounts, exec, files, network, sys};

/// How deep /etc/skel, or the image's home directory, is copied.
const MAX_DEPTH: usize = 16;

/// Checks what would otherwise end up in files with a syntax of their own.
///
/// # Errors
/// [`FailureKind::BadRequest`], naming the field.
pub fn check(wanted: &Configure) -> Result<()> {
    let hostname = &wanted.hostname;
    let is_host_character = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if hostname.is_empty() || hostname.len() > 64 || !hostname.chars().all(is_host_character) {
        return refuse("the host name is not one");
    }
    if !is_id(&wanted.machine_id) {
        return refuse("the machine id is not 32 hexadecimal digits");
    }
    if wanted.workspace.as_ref().is_some_and(|workspace| !is_plain_path(Path::new(workspace))) {
        return refuse("the workspace is not a plain absolute path");
    }
    if let Some((name, _)) = wanted.environment.iter().find(|(name, value)| !exec::is_valid_variable(name, value)) {
        return refuse(&format!("`{name}` cannot be an environment variable"));
    }
    network::check(&wanted.network)?;
    files::check(&wanted.files, wanted.certificates.as_deref())?;
    check_common(&wanted.user, wanted.timezone.as_deref())
}

/// The same for what is written before a template is made.
///
/// # Errors
/// [`FailureKind::BadRequest`], naming the field.
pub fn check_common(user: &User, timezone: Option<&str>) -> Result<()> {
    let User { name, uid, gid, home } = user;
    if !accounts::is_valid_name(name) || name == "root" {
        return refuse("the user's name is not one an ordinary user can have");
    }
    if *uid == 0 || *gid == 0 || *uid == u32::MAX || *gid == u32::MAX {
        return refuse("the user's ids are not those of an ordinary user");
    }
    if !is_plain_path(Path::new(home)) || home == "/" || home.contains([':', '\n']) {
        return refuse("the user's home directory is not a plain absolute path");
    }
    let is_zone_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
    if let Some(zone) = timezone
        && (zone.is_empty() || zone.len() > 64 || zone.starts_with('/') || !zone.chars().all(is_zone_character))
    {
        return refuse("the time zone is not one");
    }
    Ok(())
}

/// Whether this is 32 hexadecimal digits.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit())
}

fn refuse(what: &str) -> Result<()> {
    Err(error(FailureKind::BadRequest, format!("configure: {what}")))
}

/// Whether a path is absolute and has no `..` in it, and no zero byte.
#[must_use]
pub fn is_plain_path(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    path.is_absolute()
        && !path.components().any(|part| part == std::path::Component::ParentDir)
        && !path.as_os_str().as_bytes().contains(&0)
}

/// Sets the wall clock to a time since the Unix epoch.
///
/// # Errors
/// If the kernel refuses.
pub fn set_clock(time: Duration) -> Result<()> {
    let time = Timespec::try_from(time).unwrap_or_default();
    rustix::time::clock_settime(ClockId::Realtime, time).context(|| "cannot set the clock".to_owned())
}

/// Adds to the wall clock.
///
/// # Errors
/// If the kernel refuses, as it does for times before the epoch.
pub fn step_clock(nanoseconds: i64) -> Result<()> {
    set_clock(Duration::from_nanos(wall_clock_ns().saturating_add_signed(nanoseconds)))
}

/// The wall clock, in nanoseconds since the Unix epoch.
#[must_use]
pub fn wall_clock_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    Duration::try_from(now).map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// Stirs the host's random bytes into the kernel's generator and has it start anew from them: what it
/// would have given before, another guest restored from the same template may have been given.
///
/// # Errors
/// If they are not 32 bytes in hexadecimal, or the kernel refuses.
pub fn add_entropy(hexadecimal: &str) -> Result<()> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hexadecimal, &mut bytes)
        .map_err(|reason| error(FailureKind::BadRequest, "configure: the entropy is not 32 bytes").source(reason))?;
    OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .and_then(|device| sys::add_entropy(device.as_fd(), &bytes))
        .context(|| "cannot add entropy".to_owned())
}

/// Login shells, the first one that an image has.
const SHELLS: [&str; 4] = ["/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"];

/// Where what names the sandbox is: in memory, because through the overlay and its disk each of these
/// files takes ten times as long to write, and they are written at every start.
const NAMES: &str = "/run/viv/names";

/// The files there, and where programs look for them.
const NAME_FILES: [(&str, &str); 5] = [
    ("hostname", "etc/hostname"),
    ("hosts", "etc/hosts"),
    ("machine-id", "etc/machine-id"),
    ("resolv.conf", "etc/resolv.conf"),
    ("environment", "etc/environment"),
];

/// A link to the workspace.
const WORKSPACE_LINK: &str = "/run/viv/workspace";

/// Writes what all heirs of a template have in common, and the links to what they are told later.
///
/// # Errors
/// The first file that cannot be written.
pub fn write_common(layers: Layers<'_>, user: &User, timezone: Option<&str>) -> Result<()> {
    layers.make_mount_points().context(|| "cannot make room for file systems".to_owned())?;
    let etc = layers.directory("etc").context(|| "cannot make /etc".to_owned())?.upper;
    for (name, place) in NAME_FILES {
        let link = etc.join(Path::new(place).file_name().unwrap_or_default());
        symlink(Path::new(NAMES).join(name), link).context(|| format!("cannot make /{place}"))?;
    }
    let workspace = layers.lower.join("workspace");
    let in_the_way = match fs::symlink_metadata(&workspace) {
        // An empty directory is in no one's way.
        Ok(facts) if facts.is_dir() => fs::read_dir(&workspace).is_ok_and(|mut entries| entries.next().is_some()),
        Ok(facts) => !facts.is_symlink(),
        Err(_) => false,
    };
    if !in_the_way {
        symlink(WORKSPACE_LINK, layers.upper.join("workspace")).context(|| "cannot make /workspace".to_owned())?;
    }
    if let Some(zone) = timezone {
        set_timezone(&etc, zone)?;
    }
    add_user(layers, &etc, user)?;
    install_power_commands(layers)
}

/// Makes the files that [`write_names`] writes. `root` has [`NAMES`]'s file system mounted.
///
/// # Errors
/// The first that cannot be made.
pub fn make_names(root: &Path) -> Result<()> {
    let names = below(root, NAMES);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&names).context(|| format!("cannot make {NAMES}"))?;
    NAME_FILES.iter().try_for_each(|(name, _)| write(&names.join(name), 0o644, ""))
}

/// Writes what names the sandbox, and what names others: `resolver` is for /etc/resolv.conf. Returns what the
/// user should know.
///
/// # Errors
/// The first file that cannot be written.
pub fn write_names(root: &Path, wanted: &Configure, resolver: &str) -> Result<Vec<String>> {
    let hostname = &wanted.hostname;
    let hosts = format!(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    );
    let texts = [
        format!("{hostname}\n"),
        hosts,
        format!("{}\n", wanted.machine_id.to_ascii_lowercase()),
        resolver.to_owned(),
        environment_file(&wanted.environment),
    ];
    for ((name, _), text) in NAME_FILES.iter().zip(texts) {
        let path = below(root, NAMES).join(name);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .context(|| format!("cannot write {}", path.display()))?;
    }
    link_workspace(root, wanted)
}

/// The environment as PAM and sudo read it (pam_env(8), `env_file` of sudoers(5)): what was taken away by
/// them comes back. Neither has a way to write a line break or, next to the other, a quote.
fn environment_file(environment: &BTreeMap<String, String>) -> String {
    let plain = |value: &str| !value.contains(['\n', '"', '\\']);
    let lines = environment.iter().filter(|(_, value)| plain(value));
    lines.map(|(name, value)| format!("{name}=\"{value}\"\n")).collect()
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Makes a file. Nothing is in its place yet: the upper layer is empty.
fn write(path: &Path, mode: u32, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .context(|| format!("cannot write {}", path.display()))
}

/// A zone the image does not know leaves a link to nothing, which means UTC.
fn set_timezone(etc: &Path, zone: &str) -> Result<()> {
    let target = Path::new("/usr/share/zoneinfo").join(zone);
    symlink(target, etc.join("localtime")).context(|| "cannot set the time zone".to_owned())?;
    write(&etc.join("timezone"), 0o644, &format!("{zone}\n"))
}

/// Sets another time zone in an upper layer that has been written; without one, that of the image.
///
/// # Errors
/// The first file that cannot be changed.
pub(crate) fn change_timezone(layers: Layers<'_>, timezone: Option<&str>) -> Result<()> {
    let etc = layers.directory("etc").context(|| "cannot make /etc".to_owned())?.upper;
    for name in ["localtime", "timezone"] {
        match fs::remove_file(etc.join(name)) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
                return Err(reason).context(|| format!("cannot change /etc/{name}"));
            }
            _ => {}
        }
    }
    timezone.map_or(Ok(()), |zone| set_timezone(&etc, zone))
}

/// The user, its group, its right to sudo, its home.
fn add_user(layers: Layers<'_>, etc: &Path, user: &User) -> Result<()> {
    let shell = layers.program(&SHELLS).unwrap_or(accounts::DEFAULT_SHELL);
    // An image may lack any of them.
    let passwd = layers.read("etc/passwd");
    write(&etc.join("passwd"), 0o644, &accounts::passwd_with(&passwd, user, shell))?;
    if !accounts::has_root(&passwd) {
        let home = || layers.directory(accounts::ROOT_HOME.trim_start_matches('/'));
        home().context(|| format!("cannot make {}", accounts::ROOT_HOME))?;
    }
    write(&etc.join("group"), 0o644, &accounts::group_with(&layers.read("etc/group"), user))?;
    write(&etc.join("shadow"), 0o600, &accounts::shadow_with(&layers.read("etc/shadow"), user))?;
    let rights = || -> io::Result<PathBuf> { Ok(layers.directory("etc/sudoers.d")?.upper.join("viv")) };
    let rights = rights().context(|| "cannot make /etc/sudoers.d".to_owned())?;
    let text = format!("Defaults env_file={NAMES}/environment\n{} ALL=(ALL:ALL) NOPASSWD: ALL\n", user.name);
    write(&rights, 0o440, &text)?;
    make_home(layers, user).context(|| format!("cannot make the home directory {}", user.home))
}

/// The user's home: a copy of what the image has in its place, else of /etc/skel.
fn make_home(layers: Layers<'_>, user: &User) -> io::Result<()> {
    let home = layers.directory(user.home.trim_start_matches('/'))?;
    own(&home.upper, user)?;
    let is_directory = fs::symlink_metadata(&home.lower).is_ok_and(|facts| facts.is_dir());
    let skel = || layers.canonical(Path::new("etc/skel")).ok().map(|skel| layers.lower.join(skel));
    let model = if is_directory { Some(home.lower) } else { skel() };
    model.map_or(Ok(()), |model| copy_tree(&model, &home.upper, user, MAX_DEPTH))
}

fn own(path: &Path, user: &User) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
}

fn copy_tree(from: &Path, to: &Path, user: &User, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&target)?;
            fs::set_permissions(&target, entry.metadata()?.permissions())?;
            if depth > 0 {
                copy_tree(&source, &target, user, depth - 1)?;
            }
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        } else {
            continue;
        }
        own(&target, user)?;
    }
    Ok(())
}

/// The commands people end a machine with. There is no init system to ask, so they ask PID 1.
fn install_power_commands(layers: Layers<'_>) -> Result<()> {
    const SCRIPT: &str = "#!/bin/sh\n\
        # Ends this sandbox: PID 1 stops what runs, saves the shares and powers off.\n\
        [ \"$(id -u)\" = 0 ] || exec sudo -n -- \"$0\" \"$@\"\n\
        exec kill -s PWR 1\n";
    let install = || -> io::Result<PathBuf> {
        let directory = layers.directory("usr/local/sbin")?.upper;
        for name in ["halt", "reboot", "shutdown"] {
            symlink("poweroff", directory.join(name))?;
        }
        Ok(directory.join("poweroff"))
    };
    write(&install().context(|| "cannot write to /usr/local/sbin".to_owned())?, 0o755, SCRIPT)
}

/// `/workspace` points at the workspace, unless something else is or will be there.
fn link_workspace(root: &Path, wanted: &Configure) -> Result<Vec<String>> {
    let place = Path::new("/workspace");
    let is_place = |path: &str| Path::new(path) == place;
    let ours = || fs::read_link(root.join("workspace")).is_ok_and(|target| target == Path::new(WORKSPACE_LINK));
    let shared = wanted.shares.iter().any(|share| is_place(&share.destination));
    if shared && ours() {
        // A share cannot be mounted on a link.
        fs::remove_file(root.join("workspace")).context(|| "cannot make room for /workspace".to_owned())?;
    }
    let Some(workspace) = wanted.workspace.as_deref().filter(|&workspace| !is_place(workspace)) else {
        return Ok(Vec::new());
    };
    if shared || !ours() {
        return Ok(vec!["/workspace exists already and does not point at the workspace".to_owned()]);
    }
    symlink(workspace, below(root, WORKSPACE_LINK)).context(|| "cannot make /workspace".to_owned())?;
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use viv_proto::message::{Network, Share, ShareKind};

    use super::*;

    struct Image {
        directory: tempfile::TempDir,
    }

    impl Image {
        fn new() -> Self {
            let image = Self { directory: tempfile::tempdir().unwrap() };
            for path in ["upper", "lower/etc/skel/.config", "lower/usr/bin"] {
                fs::create_dir_all(image.path(path)).unwrap();
            }
            for (path, text) in [
                ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
                ("etc/group", "root:x:0:\nsudo:x:27:\n"),
                ("etc/shadow", "root:*:1::::::\n"),
                ("etc/skel/.profile", "# profile\n"),
                ("etc/skel/.config/x", "x"),
                ("usr/bin/bash", ""),
            ] {
                fs::write(image.path("lower").join(path), text).unwrap();
            }
            symlink("usr/bin", image.path("lower/bin")).unwrap();
            fs::set_permissions(image.path("lower/usr/bin/bash"), fs::Permissions::from_mode(0o755)).unwrap();
            image
        }

        fn path(&self, path: &str) -> PathBuf {
            self.directory.path().join(path)
        }

        fn upper(&self, path: &str) -> String {
            fs::read_to_string(self.path("upper").join(path)).unwrap()
        }

        fn write(&self, wanted: &Configure) -> Vec<String> {
            let layers = Layers { lower: &self.path("lower"), upper: &self.path("upper") };
            write_common(layers, &wanted.user, wanted.timezone.as_deref()).unwrap();
            // No overlay here: of the joined root, the upper layer is what matters.
            make_names(&self.path("upper")).unwrap();
            write_names(&self.path("upper"), wanted, "nameserver 127.0.0.53\n").unwrap()
        }
    }

    fn wanted() -> Configure {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Configure {
            hostname: "quiet-fox".into(),
            wall_clock_ns: 0,
            entropy: String::new(),
            machine_id: "0123456789ABCDEF0123456789abcdef".into(),
            timezone: Some("Europe/Berlin".into()),
            user: User { name: "agent".into(), uid, gid, home: "/home/agent".into() },
            shares: vec![],
            workspace: Some("/srv/project".into()),
            network: Network::default(),
            environment: [("HTTPS_PROXY", "http://127.0.0.1:3128"), ("ODD", "a\nb")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            files: vec![],
            certificates: None,
        }
    }

    #[test]
    fn the_upper_layer_holds_what_names_the_sandbox() {
        let image = Image::new();
        fs::set_permissions(image.path("lower/etc"), fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(image.write(&wanted()), Vec::<String>::new());
        assert_eq!(image.upper("run/viv/names/hostname"), "quiet-fox\n");
        assert!(image.upper("run/viv/names/hosts").contains("127.0.1.1\tquiet-fox\n"));
        assert_eq!(image.upper("run/viv/names/machine-id"), "0123456789abcdef0123456789abcdef\n");
        assert_eq!(image.upper("etc/timezone"), "Europe/Berlin\n");
        let link = |path: &str| fs::read_link(image.path("upper").join(path)).unwrap();
        assert_eq!(link("etc/localtime"), Path::new("/usr/share/zoneinfo/Europe/Berlin"));
        assert_eq!(link("etc/hosts"), Path::new("/run/viv/names/hosts"));
        assert_eq!(link("etc/resolv.conf"), Path::new("/run/viv/names/resolv.conf"));
        assert_eq!(image.upper("run/viv/names/resolv.conf"), "nameserver 127.0.0.53\n");
        assert_eq!(image.upper("run/viv/names/environment"), "HTTPS_PROXY=\"http://127.0.0.1:3128\"\n");
        assert_eq!(link("workspace"), Path::new("/run/viv/workspace"));
        assert_eq!(link("run/viv/workspace"), Path::new("/srv/project"));
        assert_eq!(link("usr/local/sbin/halt"), Path::new("poweroff"));
        let mode = |path: &str| fs::metadata(image.path("upper").join(path)).unwrap().mode() & 0o7777;
        assert_eq!([mode("etc"), mode("etc/shadow"), mode("etc/sudoers.d/viv")], [0o711, 0o600, 0o440]);
        assert_eq!(mode("usr/local/sbin/poweroff"), 0o755);
        assert!(image.upper("etc/passwd").ends_with(":/home/agent:/bin/bash\n"));
        assert_eq!(
            image.upper("etc/sudoers.d/viv"),
            "Defaults env_file=/run/viv/names/environment\nagent ALL=(ALL:ALL) NOPASSWD: ALL\n"
        );
        assert_eq!(image.upper("home/agent/.profile"), "# profile\n");
        assert_eq!(image.upper("home/agent/.config/x"), "x");
    }

    #[test]
    fn links_of_the_image_are_followed_within_it() {
        let image = Image::new();
        fs::create_dir_all(image.path("lower/var/home/agent")).unwrap();
        fs::write(image.path("lower/var/home/agent/kept"), "kept").unwrap();
        symlink("/var/home", image.path("lower/home")).unwrap();
        symlink("../../../../../../tmp", image.path("lower/usr/local")).unwrap();
        fs::create_dir(image.path("lower/tmp")).unwrap();
        image.write(&wanted());
        assert_eq!(image.upper("var/home/agent/kept"), "kept");
        assert!(!image.path("upper/var/home/agent/.profile").exists());
        assert!(image.path("upper/tmp/sbin/poweroff").exists());
    }

    #[test]
    fn what_is_at_workspace_stays() {
        let image = Image::new();
        fs::create_dir_all(image.path("lower/workspace/full")).unwrap();
        assert_eq!(image.write(&wanted()).len(), 1);
        assert!(!image.path("upper/workspace").is_symlink());
        let image = Image::new();
        fs::create_dir_all(image.path("lower/workspace")).unwrap();
        assert!(image.write(&wanted()).is_empty());
        assert!(image.path("upper/workspace").is_symlink());
        let image = Image::new();
        let share = Share {
            entry: "0".into(),
            destination: "/workspace/".into(),
            kind: ShareKind::Directory,
            read_only: false,
            writable_overlay: false,
        };
        assert_eq!(image.write(&Configure { shares: vec![share], ..wanted() }).len(), 1);
        assert!(!image.path("upper/workspace").is_symlink(), "the share goes there");
        let image = Image::new();
        assert!(image.write(&Configure { workspace: Some("/workspace".into()), ..wanted() }).is_empty());
    }

    #[test]
    fn names_with_a_meaning_of_their_own_are_refused() {
        let user = User { name: "agent".into(), uid: 1000, gid: 1000, home: "/home/agent".into() };
        let wanted = Configure { user: user.clone(), ..wanted() };
        check(&wanted).unwrap();
        for bad in [
            Configure { hostname: "a b".into(), ..wanted.clone() },
            Configure { hostname: String::new(), ..wanted.clone() },
            Configure { machine_id: "0".repeat(31), ..wanted.clone() },
            Configure { timezone: Some("../../etc/shadow".into()), ..wanted.clone() },
            Configure { timezone: Some("/etc/shadow".into()), ..wanted.clone() },
            Configure { user: User { name: "root".into(), ..user.clone() }, ..wanted.clone() },
            Configure { user: User { name: "a:b".into(), ..user.clone() }, ..wanted.clone() },
            Configure { user: User { uid: 0, ..user.clone() }, ..wanted.clone() },
            Configure { user: User { gid: 0, ..user.clone() }, ..wanted.clone() },
            Configure { user: User { home: "home".into(), ..user.clone() }, ..wanted.clone() },
            Configure { user: User { home: "/".into(), ..user.clone() }, ..wanted.clone() },
            Configure { user: User { home: "/a/../b".into(), ..user.clone() }, ..wanted.clone() },
            Configure { user: User { home: "/a:b".into(), ..user }, ..wanted.clone() },
            Configure { workspace: Some("project".into()), ..wanted.clone() },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
