//! The repository as a flake: what it offers has the right names and evaluates, with a package set of the test's own in
//! the place of nixpkgs, which is not to be had without a network. What is built from it is not tested here.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

/// Of nixpkgs, what flake.nix, nix/package.nix and nix/module.nix use.
const NIXPKGS: &str = r#"{
  outputs = { self }: let
    lib = {
      importTOML = path: builtins.fromTOML (builtins.readFile path);
      cleanSource = path: path;
      makeBinPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages);
      licenses.asl20 = "Apache-2.0";
      mkDefault = value: value;
      mkIf = condition: value: if condition then value else { };
      mkEnableOption = description: { inherit description; default = false; };
      mkOption = option: option;
      genAttrs = names: make: builtins.listToAttrs (map (name: { inherit name; value = make name; }) names);
      types = { package = "package"; str = "str"; listOf = kind: "list of ${kind}"; };
    };
    package = name: derivation { inherit name; system = "x86_64-linux"; builder = "builtin:none"; };
    names = [
      "makeWrapper" "cacert" "qemu_kvm" "mmdebstrap" "apt" "dpkg" "erofs-utils" "e2fsprogs" "util-linux" "passt"
      "cargo-deny" "cargo-nextest" "clippy" "rust-analyzer" "rustfmt"
    ];
    pkgs = lib.genAttrs names package // {
      inherit lib;
      glibc.static = package "glibc-static";
      stdenv.hostPlatform.system = "x86_64-linux";
      rustPlatform.buildRustPackage = args: package "${args.pname}-${args.version}" // args.passthru // { inherit args; };
      mkShell = args: package "nix-shell" // { inherit args; };
      callPackage = path: overrides:
        let made = import path; in made (builtins.intersectAttrs (builtins.functionArgs made) pkgs // overrides);
    };
  in { legacyPackages.x86_64-linux = pkgs; inherit lib; };
}
"#;

/// What is looked at, of the flake in the current directory and the package set beside it.
const QUESTION: &str = r#"let
  nixpkgs = (import ../nixpkgs/flake.nix).outputs { self = nixpkgs; };
  offered = (import ./flake.nix).outputs { inherit nixpkgs; self = offered; };
  viv = offered.packages.x86_64-linux.viv;
  wanted = { enable = true; package = viv; users = [ "alice" ]; };
  module = import ./nix/module.nix { config.programs.viv = wanted; lib = nixpkgs.lib; };
  outer = offered.nixosModules.default { lib = nixpkgs.lib; pkgs = nixpkgs.legacyPackages.x86_64-linux; };
in {
  name = viv.name;
  isDefault = offered.packages.x86_64-linux.default.name == viv.name;
  mainProgram = viv.args.meta.mainProgram;
  source = builtins.pathExists (viv.args.src + "/flake.nix");
  lock = builtins.pathExists viv.args.cargoLock.lockFile;
  program = offered.apps.x86_64-linux.default.program == "${viv}/bin/viv";
  shell = map (package: package.name) offered.devShells.x86_64-linux.default.args.packages;
  options = builtins.attrNames module.options.programs.viv;
  kvm = module.config.users.users.alice.extraGroups;
  installed = map (package: package.name) module.config.environment.systemPackages;
  imports = builtins.length outer.imports;
  modulePackage = outer.programs.viv.package.name;
}"#;

#[test]
fn what_the_flake_offers() {
    if Command::new("nix").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("CI").is_none(), "nix is not installed: apt install nix-bin");
        eprintln!("SKIPPED: nix is not installed: apt install nix-bin");
        return;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let directory = tempfile::tempdir().unwrap();
    let path = |relative: &str| directory.path().join(relative);
    for made in ["nixpkgs", "viv/nix"] {
        fs::create_dir_all(path(made)).unwrap();
    }
    fs::write(path("nixpkgs/flake.nix"), NIXPKGS).unwrap();
    for file in ["flake.nix", "nix/package.nix", "nix/module.nix", "Cargo.toml", "Cargo.lock"] {
        fs::copy(repository.join(file), path("viv").join(file)).unwrap();
    }
    let ask = |program: &str, arguments: &[&str]| {
        let asked = Command::new(program)
            .args(["--extra-experimental-features", "nix-command flakes"])
            .args(arguments)
            .current_dir(path("viv"))
            .env("HOME", path("home"))
            .env("NIX_REMOTE", path("store"))
            .env("NIX_CONFIG", "substituters =\nbuild-users-group =\nflake-registry =")
            .output()
            .unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        serde_json::from_slice::<serde_json::Value>(&asked.stdout).unwrap()
    };
    let version = env!("CARGO_PKG_VERSION");
    // As a flake, with its input replaced.
    let stub = format!("path:{}", path("nixpkgs").display());
    let viv = format!("path:{}#packages.x86_64-linux.default.name", path("viv").display());
    let named = ask("nix", &["eval", "--json", "--no-write-lock-file", "--override-input", "nixpkgs", &stub, &viv]);
    assert_eq!(named, format!("viv-{version}"));
    // All of it, without the machinery of flakes, which shows one output at a time.
    assert_eq!(
        ask("nix-instantiate", &["--eval", "--strict", "--json", "-E", QUESTION]),
        json!({
            "name": format!("viv-{version}"),
            "isDefault": true,
            "mainProgram": "viv",
            "source": true,
            "lock": true,
            "program": true,
            "shell": [
                "cargo-deny", "cargo-nextest", "clippy", "rust-analyzer", "rustfmt",
                "qemu_kvm", "mmdebstrap", "apt", "dpkg", "erofs-utils", "e2fsprogs", "util-linux", "passt",
            ],
            "options": ["enable", "package", "users"],
            "kvm": ["kvm"],
            "installed": [format!("viv-{version}")],
            "imports": 1,
            "modulePackage": format!("viv-{version}"),
        })
    );
}
