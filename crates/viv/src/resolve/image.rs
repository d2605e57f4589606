//! What an image says about how its programs are run, put beneath what was asked for.
//!
//! An image may have to be fetched before this is known, so it comes after everything else is resolved.
//!
//! | of the image | counts where | gives way to |
//! |---|---|---|
//! | `Env` | for every program inside | viv's own variables, presets, `--env` |
//! | `Entrypoint` | before the command, whoever named that | `--entrypoint` |
//! | `Cmd` | where no command is named, after the image's own entrypoint | a command, `--entrypoint` |
//! | `WorkingDir` | where the image's entrypoint or command is what runs | `--workdir` |
//! | `User` | for the program of the run | `--user`, `--root` |
//!
//! The rules are those of `docker run`, but for two: a command without an entrypoint of the image's starts in
//! the workspace, which is what the sandbox is for; and without anything to run there is a login shell.

use std::collections::BTreeMap;
use std::mem;

use viv_image::ImageConfig;

use super::Resolved;
use crate::settings::Origin;

/// The variables that come from an account inside: another user's would be wrong.
const OF_THE_ACCOUNT: [&str; 4] = ["HOME", "LOGNAME", "SHELL", "USER"];

/// Puts an image's configuration beneath what was asked for.
pub fn apply_image_config(resolved: &mut Resolved, config: &ImageConfig) {
    let Resolved { sandbox, exec, entrypoint, origins, .. } = resolved;
    let is_open =
        |origins: &BTreeMap<&'static str, Origin>, key| matches!(origins.get(key), None | Some(Origin::Default));

    let asked = mem::take(&mut exec.argv);
    let is_shown = sandbox.command == asked;
    // With another entrypoint the image's command would mean something else.
    let (entrypoint, default_command) = match entrypoint {
        Some(other) => (other.as_slice(), &[][..]),
        None => (config.entrypoint.as_slice(), config.command.as_slice()),
    };
    let runs_its_own = !config.entrypoint.is_empty() && entrypoint == config.entrypoint
        || asked.is_empty() && !default_command.is_empty();
    let command = if asked.is_empty() { default_command } else { &asked };
    exec.argv = [entrypoint, command].concat();
    if is_shown {
        sandbox.command.clone_from(&exec.argv);
    }

    if let Some(directory) = &config.working_directory
        && runs_its_own
        && is_open(origins, "workdir")
    {
        exec.cwd.clone_from(directory);
    }
    let is_its_user = is_open(origins, "user") && config.user.as_ref().is_some_and(|user| !user.is_empty());
    if let Some(user) = config.user.as_ref().filter(|_| is_its_user) {
        exec.user.clone_from(user);
    }
    for (name, value) in &config.environment {
        // Neither the kernel nor a program could make sense of it.
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            continue;
        }
        if !OF_THE_ACCOUNT.contains(&name.as_str()) {
            sandbox.environment.entry(name.clone()).or_insert_with(|| value.clone());
        } else if is_its_user {
            // Numbers have no account to say it.
            exec.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{found, request, resolved_with};
    use super::*;
    use crate::settings::Layer;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn config() -> ImageConfig {
        let environment = [("PATH", "/opt/bin:/usr/bin"), ("HOME", "/srv"), ("LANG", "C"), ("ODD=", "x")];
        ImageConfig {
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            entrypoint: words(&["/entry", "--flag"]),
            command: words(&["serve"]),
            working_directory: Some("/srv".into()),
            user: Some("1001".into()),
        }
    }

    /// What is run of an image, for a command and `--entrypoint`.
    fn run(config: &ImageConfig, command: &[&str], entrypoint: Option<&[&str]>, settings: Layer) -> serde_json::Value {
        let mut resolved = resolved_with(super::super::Request { command: words(command), ..request(settings) });
        resolved.entrypoint = entrypoint.map(words);
        apply_image_config(&mut resolved, config);
        assert_eq!(resolved.sandbox.command, resolved.exec.argv);
        let exec = &resolved.exec;
        json!({ "argv": exec.argv, "cwd": exec.cwd, "user": exec.user, "env": exec.env, "all": resolved.sandbox.environment })
    }

    #[test]
    fn an_image_says_what_nobody_else_does() {
        let settings = || Layer {
            user: Some(found("root".into(), Origin::CommandLine)),
            workdir: Some(found("/tmp".into(), Origin::Project)),
            ..Layer::default()
        };
        let bare = ImageConfig { entrypoint: vec![], user: None, ..config() };
        insta::assert_json_snapshot!(json!({
            "nothing is asked for": run(&config(), &[], None, Layer::default()),
            "a command": run(&config(), &["work"], None, Layer::default()),
            "another entrypoint": run(&config(), &[], Some(&["/other"]), Layer::default()),
            "no entrypoint": run(&config(), &[], Some(&[]), Layer::default()),
            "no entrypoint, a command": run(&config(), &["work"], Some(&[]), Layer::default()),
            "user and directory": run(&config(), &[], None, settings()),
            "an image with a command alone": run(&bare, &[], None, Layer::default()),
            "the same, and a command": run(&bare, &["work"], None, Layer::default()),
        }));
    }

    #[test]
    fn an_image_that_says_nothing_changes_nothing() {
        let plain = |resolved: &Resolved| serde_json::to_value(resolved).unwrap();
        let mut resolved = resolved_with(request(Layer::default()));
        let before = plain(&resolved);
        apply_image_config(&mut resolved, &ImageConfig::default());
        assert_eq!(plain(&resolved), before);
    }
}
