use std::os::unix::fs::symlink;

use super::*;

struct Project(tempfile::TempDir);

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(project.root()).unwrap();
        for (path, content) in files {
            project.write(path, content);
        }
        project
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("project")
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// What is protected, where the user's own configuration says `global`.
    fn protected(&self, global: &[(&str, &str)]) -> Vec<String> {
        let home = self.0.path().join("home");
        let global: Vec<Setting> = global
            .iter()
            .map(|(name, value)| Setting {
                file: Some(home.join(".gitconfig")),
                name: (*name).to_owned(),
                value: value.into(),
            })
            .collect();
        let git = |file: Option<&Path>| file.map_or_else(|| global.clone(), |file| git_lists(Some(file)));
        let found = protected_with(&self.root(), Some(&home), &git);
        found.iter().map(|path| path.display().to_string()).collect()
    }
}

const REPOSITORY: [(&str, &str); 3] =
    [(".git/HEAD", "ref: refs/heads/main\n"), (".git/config", "[core]\n\tbare = false\n"), (".git/hooks/x", "")];

#[test]
fn nothing_is_protected_where_there_is_no_repository() {
    assert!(Project::new(&[("src/main.c", ""), ("config", ""), ("hooks/pre-commit", "")]).protected(&[]).is_empty());
    assert!(protected_with(Path::new("/nowhere"), None, &|_| Vec::new()).is_empty());
}

#[test]
fn a_repository_with_submodules_and_worktrees() {
    let project = Project::new(&REPOSITORY);
    for path in [
        ".git/config.worktree",
        ".git/modules/lib/HEAD",
        ".git/modules/lib/config",
        ".git/modules/vendor/deep/HEAD",
        ".git/modules/vendor/deep/hooks/post-checkout",
        ".git/modules/vendor/deep/modules/deeper/HEAD",
        ".git/modules/vendor/deep/modules/deeper/config",
        ".git/worktrees/feature/HEAD",
        ".git/worktrees/feature/commondir",
        ".git/worktrees/feature/gitdir",
        ".git/worktrees/feature/config.worktree",
    ] {
        project.write(path, "");
    }
    assert_eq!(
        project.protected(&[]),
        [
            ".git/config",
            ".git/config.worktree",
            ".git/hooks",
            ".git/modules/lib/config",
            ".git/modules/vendor/deep/hooks",
            ".git/modules/vendor/deep/modules/deeper/config",
            ".git/worktrees/feature/commondir",
            ".git/worktrees/feature/config.worktree",
            ".git/worktrees/feature/gitdir",
        ]
    );
}

#[test]
fn hooks_and_configurations_elsewhere_in_the_project() {
    let project = Project::new(&REPOSITORY);
    project.write(
        ".git/config",
        "[core]\n\thooksPath = .githooks\n[include]\n\tpath = ../tools/gitconfig\n\
         [includeIf \"onbranch:x\"]\n\tpath = ../missing/config\n[include]\n\tpath = /etc/elsewhere\n",
    );
    project.write("tools/gitconfig", "[include]\n\tpath = more\n[core]\n\thookspath = sub/../hooks\n");
    project.write("tools/more", "[include]\n\tpath = gitconfig\n");
    project.write(".githooks/pre-commit", "");
    let elsewhere = [".githooks", "hooks", "missing/config", "tools/gitconfig", "tools/more"];
    assert_eq!(project.protected(&[]), [&[".git/config", ".git/hooks"][..], &elsewhere].concat());
}

#[test]
fn hooks_of_husky_and_of_the_users_own_configuration() {
    let project = Project::new(&REPOSITORY);
    let hooks = |value: &str| {
        let found = project.protected(&[("core.hookspath", value), ("user.name", "x")]);
        found.into_iter().filter(|path| !path.starts_with(".git/")).collect::<Vec<_>>()
    };
    assert_eq!(hooks(".husky/_"), [".husky"]);
    assert_eq!(hooks(".githooks"), [".githooks"], "not there, and not to be made");
    assert_eq!(hooks("~/hooks"), [""; 0]);
    assert_eq!(hooks("../outside"), [""; 0]);
    assert_eq!(hooks("."), [""; 0], "the whole workspace is not made read-only");
    let absolute = project.root().canonicalize().unwrap().join("ci/hooks");
    assert_eq!(hooks(absolute.to_str().unwrap()), ["ci/hooks"]);
}

#[test]
fn a_worktree_of_a_repository_elsewhere_and_one_that_is_reached_by_a_link() {
    let project = Project::new(&[(".git", "gitdir: ../main/.git/worktrees/project\n")]);
    assert_eq!(project.protected(&[]), [".git"]);

    let project = Project::new(&[("real/HEAD", ""), ("real/config", ""), ("real/hooks/x", "")]);
    symlink("real", project.root().join(".git")).unwrap();
    assert_eq!(project.protected(&[]), ["real/config", "real/hooks"]);

    let bare = Project::new(&[("HEAD", ""), ("config", ""), ("hooks/x", ""), ("objects/x", "")]);
    assert_eq!(bare.protected(&[]), ["config", "hooks"]);

    let inside = Project::new(&[(".git", "gitdir: store"), ("store/HEAD", ""), ("store/commondir", "../common\n")]);
    inside.write("common/config", "[core]\n\thooksPath = evil\n");
    assert_eq!(inside.protected(&[]), [".git", "common/config", "evil", "store/commondir"]);
}

#[test]
fn what_a_project_has_put_in_the_place_of_a_file_is_not_waited_for() {
    let project = Project::new(&[(".git/HEAD", "")]);
    let fifo = project.root().join(".git/config");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    symlink("commondir", project.root().join(".git/commondir")).unwrap();
    project.write(".git/worktrees/x/commondir", "../..");
    assert_eq!(project.protected(&[]), [".git/config", ".git/worktrees/x/commondir"]);
}
