//! A first `viv.toml` that fits a project: what is found in it, and what follows from that.

mod find;

use std::fmt::Write;

use serde::Serialize;

pub use find::find;

/// What a project is written in, by the files that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// `package-lock.json`, or `package.json` alone.
    Npm,
    /// `pnpm-lock.yaml`
    Pnpm,
    /// `yarn.lock`
    Yarn,
    /// `Cargo.toml`
    Cargo,
    /// `uv.lock`
    Uv,
    /// `pyproject.toml` or `requirements.txt`
    Pip,
    /// `go.mod`
    Go,
    /// `Gemfile`
    Bundler,
    /// `pom.xml`
    Maven,
}

/// What was found in a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The directory's name, as that of a sandbox.
    pub name: String,
    /// The files that something follows from.
    pub files: Vec<String>,
    /// What they say.
    pub tools: Vec<Tool>,
    /// Whether there is a devcontainer.json that needs no name.
    pub devcontainer: bool,
    /// Whether its repository has a remote.
    pub remote: bool,
}

impl Tool {
    /// Packages that it takes, as `--package` has them.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Npm => &["nodejs", "npm"],
            Self::Pnpm => &["nodejs", "npm:pnpm"],
            Self::Yarn => &["nodejs", "yarnpkg"],
            Self::Cargo => &["cargo", "rustc"],
            Self::Uv => &["python3", "pip:uv"],
            Self::Pip => &["python3-pip", "python3-venv"],
            Self::Go => &["golang-go"],
            Self::Bundler => &["ruby-bundler"],
            Self::Maven => &["maven"],
        }
    }

    /// The set of what its client downloads from, if there is one.
    fn allow(self) -> Option<&'static str> {
        match self {
            Self::Npm | Self::Pnpm | Self::Yarn => Some("@npm"),
            Self::Cargo => Some("@cargo"),
            Self::Uv | Self::Pip => Some("@pip"),
            Self::Go | Self::Bundler | Self::Maven => None,
        }
    }

    /// What fetches the project's dependencies.
    fn set_up(self, files: &[String]) -> &'static str {
        let has = |name: &str| files.iter().any(|file| file == name);
        match self {
            Self::Npm if has("package-lock.json") => "npm ci",
            Self::Npm => "npm install",
            Self::Pnpm => "pnpm install --frozen-lockfile",
            Self::Yarn => "yarnpkg install --frozen-lockfile",
            Self::Cargo => "cargo fetch",
            Self::Uv => "uv sync",
            Self::Pip if has("requirements.txt") => {
                "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt"
            }
            Self::Pip => "python3 -m venv .venv && .venv/bin/pip install -e .",
            Self::Go => "go mod download",
            Self::Bundler => "bundle install",
            Self::Maven => "mvn -q dependency:go-offline",
        }
    }
}

/// The file for such a project. What is off by default is there as a comment that needs only its `# ` taken away.
#[must_use]
pub fn viv_toml(facts: &Facts) -> String {
    let mut text = String::from(
        "# The sandboxes of this project: `viv up` starts them. Every key is in docs/viv-toml.md, and editors that\n\
         # know JSON schemas find them in docs/reference/viv.schema.json.\n",
    );
    if !facts.files.is_empty() {
        let _ = writeln!(text, "# Found here: {}.", facts.files.join(", "));
    }
    let _ = write!(text, "\n[sandbox]\nname = \"{}\"\n", facts.name);

    text.push_str("\n# What is in it.\n");
    let packages: Vec<&str> = unique(facts.tools.iter().flat_map(|tool| tool.packages().iter().copied()));
    if facts.devcontainer {
        text.push_str("devcontainer = true\n");
        comment(&mut text, "image = \"oci:REFERENCE\"");
        comment(&mut text, &format!("packages = {}", array(&packages)));
    } else {
        comment(&mut text, "image = \"oci:REFERENCE\"");
        let (there, missing): (Vec<&str>, Vec<&str>) =
            packages.into_iter().partition(|package| viv_image::is_in_default_root(package));
        if !there.is_empty() {
            // An image of one's own may lack them.
            let _ = writeln!(text, "# In the default image already: {}.", there.join(", "));
        }
        setting(&mut text, "packages", &missing);
    }

    text.push_str(
        "\n# What it reaches besides the model of its agent: hosts, or what this host's own clients use. It counts once\n\
         # you have said `viv net trust`, and so does the agent.\n",
    );
    let mut allow = unique(facts.tools.iter().filter_map(|tool| tool.allow()));
    allow.extend(facts.remote.then_some("@git"));
    setting(&mut text, "allow", &allow);
    comment(&mut text, "agent = \"claude\"");

    text.push_str("\n# Commands run inside: once when it was made, and after each start.\n");
    let set_up: Vec<&str> = facts.tools.iter().map(|tool| tool.set_up(&facts.files)).collect();
    // A devcontainer.json has commands of its own.
    if facts.devcontainer {
        comment(&mut text, &format!("on-create = {}", array(&set_up)));
    } else {
        setting(&mut text, "on-create", &set_up);
    }
    comment(&mut text, "on-start = [\"make serve\"]");

    text.push_str("\n# The machine.\n");
    for line in ["cpus = 4", "memory = \"4G\"", "disk = \"20G\"", "persist = true", "autostart = true"] {
        comment(&mut text, line);
    }

    text.push_str(
        "\n# How it works on this directory: on the directory itself, or on a copy of which you take what you accept.\n\
         # What git on this host would run is out of its reach either way; name what else of yours should be.\n",
    );
    comment(&mut text, "workspace-mode = \"clone\"");
    comment(&mut text, "protect = [\".envrc\", \".vscode\"]");

    text.push_str("\n# Programs inside.\n");
    for line in ["env = { LOG_LEVEL = \"debug\" }", "workdir = \".\""] {
        comment(&mut text, line);
    }
    text.push_str(
        "\n# Another sandbox of this project: `viv up db`.\n\
         # [sandboxes.db]\n# image = \"oci:REFERENCE\"\n# persist = true\n",
    );
    text
}

fn unique<'a>(items: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut unique = Vec::new();
    for item in items {
        if !unique.contains(&item) {
            unique.push(item);
        }
    }
    unique
}

fn array(items: &[&str]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// A setting, or where there is nothing to say, an empty one as a comment.
fn setting(text: &mut String, key: &str, items: &[&str]) {
    let line = format!("{key} = {}", array(items));
    if items.is_empty() { comment(text, &line) } else { text.extend([line.as_str(), "\n"]) }
}

fn comment(text: &mut String, line: &str) {
    text.extend(["# ", line, "\n"]);
}

#[cfg(test)]
mod tests;
