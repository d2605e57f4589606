//! What nix is asked to do: commands as data.
//!
//! `nix-build` and `nix-store` are the same in every nix there is, need no experimental feature, and heed the user's
//! `config.nix` and overlays as the user knows it from a shell. One expression finds the package set in whichever way
//! the user has one: `<nixpkgs>` of `NIX_PATH` or a channel, else the flake registry's. Only a development shell of a
//! flake takes the command `nix`.

use std::path::Path;

/// The user's package set: the one on the search path, else the registry's.
const PACKAGES: &str = "let found = builtins.tryEval <nixpkgs>; in \
    if found.success then import found.value { } \
    else (builtins.getFlake \"nixpkgs\").legacyPackages.${builtins.currentSystem}";

/// The experimental features that flakes are, under the name of the setting that adds to those of the user.
const FLAKES: [&str; 2] = ["--extra-experimental-features", "nix-command flakes"];

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) program: &'static str,
    pub(super) arguments: Vec<String>,
}

fn command(program: &'static str, arguments: impl IntoIterator<Item = impl Into<String>>) -> Command {
    Command { program, arguments: arguments.into_iter().map(Into::into).collect() }
}

/// Builds or fetches packages and prints where they are; `link`, and `link`-2 and so on, keep them from the garbage
/// collector.
pub(super) fn build(attributes: &[String], link: &Path) -> Command {
    let mut build = command("nix-build", FLAKES);
    build.arguments.extend(["--out-link".to_owned(), path(link), "-E".to_owned(), PACKAGES.to_owned()]);
    build.arguments.extend(attributes.iter().flat_map(|attribute| ["-A".to_owned(), attribute.clone()]));
    build
}

/// Says where `<nixpkgs>` is, if it is anywhere.
pub(super) fn find_packages() -> Command {
    command("nix-instantiate", ["--find-file", "nixpkgs"])
}

/// Prints the names of what there is beside an attribute, as a list in JSON.
pub(super) fn siblings(attribute: &str) -> Command {
    let names = format!(
        "{{ path }}: builtins.attrNames (builtins.foldl' (set: name: set.${{name}}) ({PACKAGES}) (builtins.fromJSON path))"
    );
    let above: Vec<&str> = attribute.rsplit_once('.').map_or(Vec::new(), |(above, _)| above.split('.').collect());
    let above = serde_json::Value::from(above).to_string();
    let mut eval = command("nix-instantiate", FLAKES);
    eval.arguments
        .extend(["--eval", "--strict", "--json", "--argstr", "path", &above, "-E", &names].map(str::to_owned));
    eval
}

/// Builds the environment of a development shell and prints it; `profile` keeps it and all it names from the garbage
/// collector. Its hook is not run.
pub(super) fn shell(flake: &str, profile: &Path) -> Command {
    let mut print = command("nix", FLAKES);
    print.arguments.extend(["print-dev-env".to_owned(), "--json".to_owned(), "--profile".to_owned(), path(profile)]);
    print.arguments.push(flake.to_owned());
    print
}

/// Prints the store paths that `paths` need to work, themselves included.
pub(super) fn closure(paths: &[String]) -> Command {
    let mut query = command("nix-store", ["--query", "--requisites"]);
    query.arguments.extend_from_slice(paths);
    query
}

/// Prints what nix knows of `paths`, or of all there are, for `nix-store --load-db` inside.
pub(super) fn registration(paths: &[String]) -> Command {
    let mut dump = command("nix-store", ["--dump-db"]);
    dump.arguments.extend_from_slice(paths);
    dump
}

/// Prints the settings, in JSON: a newer nix and an older one.
pub(super) fn settings() -> [Command; 2] {
    [["config", "show", "--json"].as_slice(), &["show-config", "--json"]]
        .map(|words| command("nix", FLAKES.iter().chain(words).copied()))
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_run() {
        let attributes = ["hello".to_owned(), "python3Packages.numpy".to_owned()];
        insta::assert_debug_snapshot!([
            build(&attributes, Path::new("/state/nix/0123abcd/packages")),
            siblings("hello"),
            siblings("python3Packages.numpy"),
            shell(".#ci", Path::new("/state/nix/0123abcd/shell")),
            closure(&["/nix/store/a".to_owned()]),
            registration(&["/nix/store/a".to_owned()]),
        ]);
    }
}
