//! `@git`: the project's remotes and submodules, as the user's git would reach them.
//!
//! The repository's configuration may be a stranger's. git reads it from standard input, outside of
//! any repository and without following includes, so that nothing it names is run or opened.

use std::path::{Path, PathBuf};

use super::ask::Question;
use super::build::Builder;
use super::config;
use super::location::Location;
use super::{Error, Host, SetAnswer, SetName};

/// What git is configured with.
#[derive(Clone, Default)]
pub struct GitClient {
    /// Whether git is there.
    pub installed: bool,
    /// Keys and values of the repository's own configuration.
    pub repository: Vec<(String, String)>,
    /// Those of the user's and the system's with a URL in their key: `url.*`, `http.*`, `credential.*`.
    pub user: Vec<(String, String)>,
}

impl std::fmt::Debug for GitClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = (self.repository.len(), self.user.len());
        f.debug_struct("GitClient").field("installed", &self.installed).field("settings", &counts).finish()
    }
}

pub(super) fn gather(host: &Host<'_>) -> GitClient {
    let Some(git) = host.asker.find("git") else { return GitClient::default() };
    // No repository, wherever git is started.
    let environment = [("GIT_DIR", "/dev/null")];
    let ask = |arguments: &[&str], stdin: &str| {
        host.asker.ask(&git, &Question { arguments, environment: &environment, stdin, ..Question::default() })
    };
    let text = repository_config(host.workspace).and_then(|path| config::read(&path));
    let list = ["config", "--file", "-", "--no-includes", "--null", "--list"];
    let repository = text.and_then(|text| ask(&list, &text)).unwrap_or_default();
    let pattern = ["config", "--null", "--get-regexp", r"^(url|http|credential)\..*\."];
    let mut user = pairs(&ask(&pattern, "").unwrap_or_default());
    // Headers with logins are among them; of these the keys alone are needed.
    user.iter_mut().filter(|(key, _)| !key.starts_with("url.")).for_each(|(_, value)| value.clear());
    GitClient { installed: true, repository: pairs(&repository), user }
}

/// The configuration of the repository: a worktree and a submodule have a file instead of a directory
/// (gitrepository-layout(5)).
fn repository_config(workspace: &Path) -> Option<PathBuf> {
    let git = workspace.join(".git");
    if git.is_dir() {
        return Some(git.join("config"));
    }
    let text = config::read(&git)?;
    let directory = workspace.join(text.strip_prefix("gitdir:")?.trim());
    let common = config::read(&directory.join("commondir"));
    Some(common.map_or(directory.clone(), |path| directory.join(path.trim())).join("config"))
}

/// The output of `git config --null`: a key, a newline and the value; a key without a value is a flag.
fn pairs(output: &str) -> Vec<(String, String)> {
    let split = |entry: &str| entry.split_once('\n').map(|(key, value)| (key.to_owned(), value.to_owned()));
    output.split('\0').filter_map(split).collect()
}

/// A key with a subsection: `url.https://git.example/.insteadOf`. git shows the other two in lower case.
fn subsection<'a>(key: &'a str, section: &str, names: &[&str]) -> Option<&'a str> {
    let (subsection, name) = key.strip_prefix(section)?.strip_prefix('.')?.rsplit_once('.')?;
    names.contains(&name).then_some(subsection)
}

/// A rule of rewriting: what begins with the second begins with the first instead (git-config(1),
/// `url.<base>.insteadOf`).
struct Rewrite<'a> {
    base: &'a str,
    prefix: &'a str,
    push: bool,
}

fn rewrites(settings: &[(String, String)]) -> impl Iterator<Item = Rewrite<'_>> {
    settings.iter().filter_map(|(key, prefix)| {
        let push = subsection(key, "url", &["pushinsteadof"]);
        let base = push.or_else(|| subsection(key, "url", &["insteadof"]))?;
        Some(Rewrite { base, prefix, push: push.is_some() })
    })
}

/// The longest prefix counts.
fn rewritten(url: &str, rules: &[Rewrite<'_>], push: bool) -> Option<String> {
    let fits = rules.iter().filter(|rule| rule.push == push && url.starts_with(rule.prefix));
    let rule = fits.max_by_key(|rule| rule.prefix.len())?;
    Some(format!("{}{}", rule.base, &url[rule.prefix.len()..]))
}

/// More settings of a repository do not count: every remote is held against every rule.
const MAX_SETTINGS: usize = 1024;

pub(super) fn answer(client: &GitClient) -> Result<SetAnswer, Error> {
    let mut builder = Builder::new(SetName::Git);
    let repository = &client.repository[..client.repository.len().min(MAX_SETTINGS)];
    let rules: Vec<Rewrite<'_>> = rewrites(&client.user).chain(rewrites(repository)).collect();
    let known: Vec<String> = client
        .user
        .iter()
        .filter_map(|(key, _)| key.split_once('.')?.1.rsplit_once('.'))
        .filter_map(|(url, _)| Some(Location::parse_git(url)?.host))
        .collect();
    let mut allow = |url: &str| {
        let private = Location::parse_git(url).is_some_and(|at| known.contains(&at.host));
        builder.allow_with(url, private);
    };
    for (key, url) in repository {
        if subsection(key, "remote", &["url"]).is_some() || subsection(key, "submodule", &["url"]).is_some() {
            allow(rewritten(url, &rules, false).as_deref().unwrap_or(url));
            // Where there is no address for pushing, pushInsteadOf makes one of the other.
            if let Some(url) = rewritten(url, &rules, true) {
                allow(&url);
            }
        } else if subsection(key, "remote", &["pushurl"]).is_some() {
            allow(rewritten(url, &rules, false).as_deref().unwrap_or(url));
        }
    }
    give(client, &mut builder);
    builder.finish(client.installed)
}

/// The guest's git rewrites as the host's does. In the environment (git-config(1),
/// `GIT_CONFIG_COUNT`), because a file could hide the image's own.
fn give(client: &GitClient, builder: &mut Builder) {
    let mut count = 0;
    for rule in rewrites(&client.user) {
        let Some(base) = Location::parse_git(rule.base).filter(|at| at.unreachable.is_none()) else { continue };
        // Without its login such a rule often says nothing any more.
        if base.url == rule.prefix || Location::parse_git(rule.prefix).is_some_and(|at| at.login) {
            continue;
        }
        let name = if rule.push { "pushInsteadOf" } else { "insteadOf" };
        builder.environment(&format!("GIT_CONFIG_KEY_{count}"), format!("url.{}.{name}", base.url));
        builder.environment(&format!("GIT_CONFIG_VALUE_{count}"), rule.prefix.to_owned());
        count += 1;
    }
    if count > 0 {
        builder.environment("GIT_CONFIG_COUNT", count.to_string());
    }
}
