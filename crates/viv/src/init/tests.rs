use std::path::Path;

use super::*;
use crate::settings::file::{self, Configuration, Trust};

const ALL: [Tool; 9] =
    [Tool::Npm, Tool::Pnpm, Tool::Yarn, Tool::Cargo, Tool::Uv, Tool::Pip, Tool::Go, Tool::Bundler, Tool::Maven];

fn read(text: &str) -> Configuration {
    let workspace = Path::new("/nowhere/project");
    file::parse(text, Path::new("viv.toml"), Trust::Project { workspace })
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Without the marks of comments before settings.
fn uncommented(text: &str) -> String {
    let is_setting =
        |line: &str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    text.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line)).fold(
        String::new(),
        |mut all, line| {
            all.extend([line, "\n"]);
            all
        },
    )
}

fn project(files: &[&str]) -> Facts {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("My Shop");
    for file in files {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "[remote \"origin\"]\n").unwrap();
    }
    std::fs::create_dir_all(&directory).unwrap();
    find(&directory)
}

#[test]
fn what_is_found() {
    assert_eq!(project(&[]), Facts { name: "my-shop".to_owned(), ..Facts::default() });
    assert_eq!(project(&["package.json", "yarn.lock"]).tools, [Tool::Yarn]);
    assert_eq!(project(&["package.json", "package-lock.json", "go.mod"]).tools, [Tool::Npm, Tool::Go]);
    assert_eq!(project(&["pyproject.toml", "uv.lock", "Cargo.toml"]).tools, [Tool::Cargo, Tool::Uv]);
    let facts = project(&[".devcontainer/devcontainer.json", ".git/config"]);
    assert!(facts.devcontainer && facts.remote);
}

#[test]
fn a_project_of_two_languages_with_a_remote() {
    insta::assert_snapshot!(viv_toml(&project(&["package.json", "package-lock.json", "Cargo.toml", ".git/config"])));
}

#[test]
fn whatever_is_found_the_file_is_read_and_so_is_all_of_it() {
    let projects = [vec![], ALL.to_vec()].into_iter().chain(ALL.map(|tool| vec![tool]));
    for tools in projects {
        for devcontainer in [false, true] {
            let facts =
                Facts { name: "shop".to_owned(), tools: tools.clone(), devcontainer, remote: true, ..Facts::default() };
            let text = viv_toml(&facts);
            let own = read(&text).own.unwrap();
            assert_eq!(own.on_create.len(), if devcontainer { 0 } else { tools.len() });
            assert_eq!(own.layer.devcontainer.is_some(), devcontainer);
            // The placeholder is for people.
            let all = read(&uncommented(&text).replace("REFERENCE", "registry.example.com/team/tools"));
            assert!(all.named.contains_key("db"), "{text}");
            assert_eq!(all.own.unwrap().agent.as_deref(), Some("claude"));
        }
    }
}
