//! The host's nix: its packages and shells inside, and nothing else of its store.
//!
//! The packages are the tests' own, made without a builder, a binary cache or a network. The store is below the test's
//! home (a `NIX_REMOTE` that is a path), so that neither root nor `/nix` is needed; inside it is at `/nix/store` all
//! the same. What nix runs inside is a copy of the host's nix with the libraries it needs, as a package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Host, Ran, finish};

/// `hello`, a package whose closure is two paths; `nix`, what is needed to use it inside; `other`, which is built and
/// never asked for.
const PACKAGES: &str = r#"{ }: let
  tree = name: path: derivation {
    inherit name;
    system = "x86_64-linux";
    builder = "builtin:buildenv";
    derivations = [ "true" 5 1 path ];
    manifest = "/dummy";
  };
in {
  hello = tree "hello-1.0" ./hello;
  other = tree "other-1.0" ./other;
  nix = tree "nix-1.0" ./nix;
  nested = { hello = tree "hello-2.0" ./hello; };
}
"#;

const FLAKE: &str = r#"{
  outputs = { self }: {
    devShells.x86_64-linux.default = derivation {
      name = "shell";
      system = "x86_64-linux";
      builder = "/bin/bash";
      args = [ "-c" "echo > $out" ];
      outputs = [ "out" ];
      GREETING = "hello from the shell";
      shellHook = "export HOOK=$(id -un)";
      PATH = "${./bin}";
    };
  };
}
"#;

/// A program that runs the nix beside it, whatever libraries the system has.
const LAUNCHER: &str = r#"#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/..
exec "$root/lib/ld-linux-x86-64.so.2" --argv0 "$(basename "$0")" --library-path "$root/lib" "$root/libexec/nix" "$@"
"#;

/// A host on which the user has a nix with the tests' packages; `None`, loudly, without nix. In CI that is a failure.
pub struct Nix {
    pub host: Host,
}

impl Nix {
    pub fn new() -> Option<Self> {
        let host = Host::ordinary()?;
        if Command::new("nix-build").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("CI").is_none(), "nix is not installed: apt install nix-bin");
            eprintln!("SKIPPED: nix is not installed: apt install nix-bin");
            return None;
        }
        let nix = Self { host };
        nix.program("packages/hello/bin/hello", "#!/bin/sh\necho hello from nix\n");
        nix.program("packages/other/bin/other", "#!/bin/sh\n");
        nix.write("packages/default.nix", PACKAGES);
        nix.write("flake/flake.nix", FLAKE);
        nix.program("flake/bin/greet", "#!/bin/sh\necho \"$GREETING\"\n");
        Some(nix)
    }

    fn write(&self, relative: &str, content: &str) -> PathBuf {
        let path = self.host.path("home").join(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn program(&self, relative: &str, content: &str) {
        let path = self.write(relative, content);
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Makes the package `nix` of the host's.
    fn with_nix_inside(self) -> Self {
        for name in ["nix-store", "nix-build", "build-remote"] {
            self.program(&format!("packages/nix/bin/{name}"), LAUNCHER);
        }
        let tree = self.host.path("home/packages/nix");
        let found = Command::new("sh").args(["-c", "command -v nix"]).output().unwrap();
        let nix = String::from_utf8(found.stdout).unwrap();
        fs::create_dir_all(tree.join("libexec")).unwrap();
        fs::create_dir_all(tree.join("lib")).unwrap();
        fs::copy(nix.trim(), tree.join("libexec/nix")).unwrap();
        let listed = Command::new("ldd").arg(nix.trim()).output().unwrap();
        for word in String::from_utf8(listed.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
            fs::copy(word, tree.join("lib").join(Path::new(word).file_name().unwrap())).unwrap();
        }
        self
    }

    fn environment(&self, command: &mut Command) {
        let home = self.host.path("home");
        command.env("NIX_REMOTE", home.join("store"));
        command.env("NIX_PATH", format!("nixpkgs={}", home.join("packages").display()));
        // The shell of the flake is made by the host's bash. No network, no users of its own for builds.
        let settings = "substituters =\nbuild-users-group =\nflake-registry =\nsandbox-paths = /bin /lib /lib64 /usr\n";
        command.env("NIX_CONFIG", settings);
    }

    /// `viv`, run by that user.
    pub fn viv(&self, arguments: &[&str]) -> Command {
        let mut viv = self.host.viv(arguments);
        self.environment(&mut viv);
        viv
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut viv = self.viv(arguments);
        finish(viv.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Has the host's nix build an attribute, and says which store path it is.
    fn build(&self, attribute: &str) -> String {
        let mut build = self.host.command("nix-build");
        self.environment(&mut build);
        let built = build.args(["--no-out-link", "<nixpkgs>", "-A", attribute]).output().unwrap();
        assert!(built.status.success(), "{built:?}");
        String::from_utf8(built.stdout).unwrap().trim().to_owned()
    }

    /// Everything in the host's store, with its mode and time of change.
    fn store(&self) -> String {
        let mut list = Command::new("find");
        list.arg(self.host.path("home/store/nix/store")).args(["-printf", "%P %m %C@ %s\\n"]);
        let mut lines: Vec<String> =
            String::from_utf8(list.output().unwrap().stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    }

    fn roots(&self) -> usize {
        fs::read_dir(self.host.path("state/viv/nix")).map_or(0, Iterator::count)
    }
}

#[test]
fn a_package_runs_and_the_rest_of_the_store_is_not_there() {
    let Some(nix) = Nix::new() else { return };
    let other = nix.build("other");
    nix.build("hello");
    let before = nix.store();
    let script = format!(
        "hello; bash -lc hello; ls /nix/store | wc -l; \
         cat {other}/bin/other; sudo ls -d /run/viv/shares/nix-store/{name} /run/viv/shares/nix-store/../{name}; \
         sudo sh -c 'cd /run/viv/shares/nix-store && for path in *; do \
             touch $path/new; chmod -R u+w $path; mv $path moved; rm -rf $path; done; touch new; mkdir dir; \
             mount -o remount,rw,bind /run/viv/shares/nix-store; touch $path/bin/new; ls | wc -l'; \
         echo over >/nix/store/over && cat /nix/store/over; chmod -R u+w /nix/store/*; rm -rf /nix/store/*; \
         ls /nix/store | wc -l",
        name = other.rsplit('/').next().unwrap(),
    );
    let ran = nix.run(&["run", "-p", "nix:hello", "--", "sh", "-c", &script]);
    assert_eq!(ran.stdout, "hello from nix\nhello from nix\n2\n2\nover\n0\n", "{ran:?}");
    assert_eq!(nix.store(), before, "the host's store is as it was");
    assert_eq!(nix.roots(), 0, "no root is left");
    nix.host.assert_nothing_is_left();
}

#[test]
fn the_collector_leaves_what_a_sandbox_uses_and_no_more() {
    let Some(nix) = Nix::new() else { return };
    let other = nix.build("other");
    let mut client = nix.host.viv(&["run", "--quiet", "--name", "user", "-p", "nix:hello", "--", "sh", "-c"]);
    nix.environment(&mut client);
    client.arg("echo up; read line; hello").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut up = [0; 3];
    let read = std::io::Read::read_exact(client.stdout.as_mut().unwrap(), &mut up);
    assert!(read.is_ok(), "{:?}", finish(client));
    let mut collect = nix.host.command("nix-store");
    nix.environment(&mut collect);
    let collected = collect.arg("--gc").output().unwrap();
    assert!(collected.status.success(), "{collected:?}");
    assert!(!nix.host.path("home/store").join(other.trim_start_matches('/')).exists(), "it was nobody's");
    drop(client.stdin.take());
    let ran = finish(client);
    assert!(ran.stdout.ends_with("hello from nix\n"), "{ran:?}");
    assert_eq!(nix.roots(), 0);
}

#[test]
fn a_development_shell_has_its_variables_and_its_hook_runs_inside() {
    let Some(nix) = Nix::new() else { return };
    let flake = nix.host.path("home/flake");
    let script = "greet; echo \"$HOOK $HOME $IN_NIX_SHELL\"; echo ${TMPDIR-none}";
    let ran = nix.run(&["run", "--flake", flake.to_str().unwrap(), "--", "sh", "-c", script]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stdout, "hello from the shell\nagent /home/agent impure\nnone\n", "{ran:?}");
    let missing = nix.run(&["run", "--flake", flake.to_str().unwrap(), "--", "no-such-program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
}

#[test]
fn nix_itself_knows_the_store_inside_and_builds_over_it() {
    let Some(nix) = Nix::new().map(Nix::with_nix_inside) else { return };
    let before = nix.build("hello");
    let made = "derivation { name = \"made\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
                args = [ \"-c\" \"echo made inside > $out\" ]; }";
    let script = format!(
        "nix-store --query --requisites {before} | wc -l; \
         cat $(nix-build --no-out-link --option sandbox false --option substituters '' \
             --option build-hook $(dirname $(command -v nix-store))/build-remote -E '{made}')"
    );
    let ran = nix.run(&["run", "-p", "nix:nix,nix:hello", "--", "sh", "-c", &script]);
    assert_eq!(ran.stdout, "2\nmade inside\n", "{ran:?}");
    let made = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().ends_with("-made");
    let store = fs::read_dir(nix.host.path("home/store/nix/store")).unwrap();
    assert!(!store.flatten().any(|entry| made(&entry)), "it was not made on the host");
}

#[test]
fn the_whole_store_is_shown_to_who_asks_for_it() {
    let Some(nix) = Nix::new() else { return };
    let other = nix.build("other");
    let script = format!("test -e {other} && touch /nix/store/new && hello");
    let ran = nix.run(&["run", "-p", "nix:hello", "--nix-store", "--", "sh", "-c", &script]);
    assert_eq!(ran.stdout, "hello from nix\n", "{ran:?}");
    nix.host.write("viv.toml", "[run]\nnix-store = true\n");
    let refused = nix.run(&["run", "--", "true"]);
    assert!(refused.stderr.contains("`nix-store` is not taken from a project's file"), "{refused:?}");
    nix.host.write("viv.toml", "[run]\nflake = \".\"\n");
    let refused = nix.run(&["run", "--", "true"]);
    assert!(refused.stderr.contains("`flake` is not taken from a project's file"), "{refused:?}");
}

#[test]
fn what_nix_has_not_is_refused() {
    let Some(nix) = Nix::new() else { return };
    let missing = nix.run(&["run", "-p", "nix:hallo", "--", "true"]);
    assert_eq!(missing.code, 125, "{missing:?}");
    assert!(missing.stderr.contains("nix knows no package `hallo`"), "{missing:?}");
    assert!(missing.stderr.contains("did you mean nix:hello?"), "{missing:?}");
    assert_eq!(nix.roots(), 0);
    let mut without = nix.host.viv(&["run", "--json", "-p", "nix:hello", "--", "true"]);
    nix.environment(&mut without);
    // QEMU and the tools of builds, but for nix.
    let programs = nix.host.path("programs");
    fs::create_dir(&programs).unwrap();
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        for program in fs::read_dir(directory).into_iter().flatten().flatten() {
            if !program.file_name().to_string_lossy().starts_with("nix") {
                let _ = std::os::unix::fs::symlink(program.path(), programs.join(program.file_name()));
            }
        }
    }
    let without = finish(without.env("PATH", &programs).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    assert_eq!(without.code, 125, "{without:?}");
    assert!(without.stderr.contains("missing_tool") && without.stderr.contains("nix-bin"), "{without:?}");
}
