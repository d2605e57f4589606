//! A project's `devcontainer.json`: what of it a sandbox heeds.
//!
//! It is read only where the user or `viv.toml` says so, and may ask for no more than `viv.toml` may: it
//! changes the sandbox, and not what the sandbox sees of the host. Commands run inside.

pub mod file;
mod find;
mod variables;

pub use find::{found, read};

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use viv_image::ImageSource;
use viv_sandbox::Warning;

use self::file::{DevContainer, DevMount, Words};
use self::variables::{Unknown, Variables};
use crate::error::{Error, ErrorKind};
use crate::output::clean::clean;
use crate::output::shell_words;
use crate::settings::layer::{Found, Layer};
use crate::settings::values;
use crate::settings::{EnvironmentValue, MountRequest, Origin};

/// What a sandbox heeds of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Translated {
    /// Settings, the same as those of files.
    pub layer: Layer,
    /// What runs inside before the program, in this order.
    pub setup: Vec<SetupCommand>,
    /// What is left out, and what mends it.
    pub warnings: Vec<Warning>,
    /// What only `--verbose` wants to know.
    pub details: Vec<String>,
    /// What it needs at least.
    pub needs: Needs,
}

/// A command that runs inside before the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetupCommand {
    /// Where it comes from, such as `postCreateCommand`.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
}

/// What a machine has to have at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Virtual processors.
    pub cpus: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub disk: Option<u64>,
}

impl Needs {
    /// What of it a machine does not have.
    #[must_use]
    pub fn unmet(self, cpus: u32, memory: u64, disk: u64) -> Vec<Warning> {
        let size = |bytes: u64| values::Size(bytes.next_multiple_of(1 << 20)).to_string();
        [
            ("CPUs", "--cpus", self.cpus, u64::from(cpus), self.cpus.unwrap_or(0).to_string()),
            ("memory", "--memory", self.memory, memory, size(self.memory.unwrap_or(0).min(1 << 50))),
            ("disk", "--disk", self.disk, disk, size(self.disk.unwrap_or(0).min(1 << 50))),
        ]
        .into_iter()
        .filter(|(_, _, wanted, has, _)| wanted.is_some_and(|wanted| wanted > *has))
        .map(|(what, flag, _, _, value)| Warning {
            message: format!("devcontainer.json asks for more {what} than the sandbox has: {value}"),
            hint: Some(format!("{flag} {value}")),
        })
        .collect()
    }
}

/// What it is translated for.
pub struct Context<'a> {
    /// The workspace, canonical.
    pub workspace: &'a Path,
    /// Whether a stronger place names an image: then none has to be built.
    pub has_image: bool,
    /// The one question to the file system.
    pub canonicalize: &'a dyn Fn(&Path) -> io::Result<PathBuf>,
}

/// What a sandbox heeds of a file.
///
/// # Errors
/// [`ErrorKind::Configuration`] for an image that has to be built, for features, and for values that are
/// none; each with what mends it.
pub fn translate(file: DevContainer, context: &Context) -> Result<Translated, Error> {
    let mut into = Translated { needs: needs(&file), ..Translated::default() };
    image(&file, context, &mut into)?;
    let folder = workspace_folder(&file, context, &mut into)?;
    let variables =
        Variables { workspace: context.workspace, folder: folder.as_deref(), container_env: &file.container_env };
    environment(&file, &variables, &mut into)?;
    if let Some(user) = file.remote_user.as_ref().or(file.container_user.as_ref()) {
        let user = values::parse_user(user).map_err(|why| refuse(&format!("remoteUser: {why}")))?;
        into.layer.user = Some(found_here(user));
    }
    for mount in &file.mounts {
        self::mount(mount, context, &variables, &mut into)?;
    }
    for command in &file.commands {
        let mut replace = |text: &str| {
            let (text, unknown) = variables.replace(text);
            for unknown in unknown {
                into.warnings.push(left_out(&format!("{} in {}", unknown.name(), command.name), &unknown));
            }
            text
        };
        let argv = match &command.run {
            Words::Shell(script) => ["/bin/sh", "-c", &replace(script)].map(str::to_owned).to_vec(),
            Words::Program(words) => words.iter().map(|word| replace(word)).collect(),
        };
        into.setup.push(SetupCommand { name: command.name.clone(), argv });
    }
    ports(&file, &mut into);
    for key in &file.without_effect {
        let message = format!("`{key}` of devcontainer.json has no effect: {}", why_without_effect(key));
        into.warnings.push(Warning { message, hint: None });
    }
    for key in &file.unknown {
        into.details.push(format!("devcontainer.json: nothing is known of `{}`", clean(key)));
    }
    Ok(into)
}

fn found_here<T>(value: T) -> Found<T> {
    Found { value, origin: Origin::DevContainer }
}

fn refuse(what: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("devcontainer.json: {}", clean(what)))
}

fn needs(file: &DevContainer) -> Needs {
    Needs { cpus: file.cpus, memory: file.memory, disk: file.storage }
}

fn image(file: &DevContainer, context: &Context, into: &mut Translated) -> Result<(), Error> {
    if context.has_image {
        // Whoever names an image has one that was built, features and all.
        if file.build.is_some() || !file.features.is_empty() {
            into.details.push("devcontainer.json: an image is named elsewhere, nothing is built".to_owned());
        }
        return Ok(());
    }
    if let Some(key) = file.build {
        return Err(refuse(&format!("`{key}` asks for an image to be built, which viv does not do"))
            .hint("build it with your builder, and give the result: --image oci:REFERENCE, or --image oci-archive:FILE")
            .hint("for example: docker build -t tools .devcontainer && docker save -o tools.tar tools"));
    }
    if let Some(feature) = file.features.first() {
        return Err(refuse(&format!("`features` asks for {feature}, which viv does not install"))
            .hint("have packages instead: viv run -p NAME, or `packages` in [image] of viv.toml")
            .hint("or give an image that was built with it: --image oci:REFERENCE"));
    }
    if let Some(reference) = &file.image {
        if reference.contains("${") {
            return Err(refuse("`image` has a variable in it").hint("name the image with --image oci:REFERENCE"));
        }
        let source: ImageSource =
            format!("oci:{reference}").parse().map_err(|error| refuse("`image`").source(error))?;
        into.layer.image = Some(found_here(source));
    }
    Ok(())
}

/// Where the workspace is besides its own path; programs start there.
fn workspace_folder(file: &DevContainer, context: &Context, into: &mut Translated) -> Result<Option<String>, Error> {
    let Some(folder) = &file.workspace_folder else { return Ok(None) };
    let variables = Variables { workspace: context.workspace, folder: None, container_env: &file.container_env };
    let (folder, unknown) = variables.replace(folder);
    if let Some(unknown) = unknown.first() {
        into.warnings.push(left_out("workspaceFolder", unknown));
        return Ok(None);
    }
    let folder = values::parse_destination(&folder).map_err(|why| refuse(&format!("workspaceFolder: {why}")))?;
    into.layer.workdir = Some(found_here(folder.clone()));
    // Where it is anyway needs no further mount, nor does what is within it.
    if folder != "/workspace" && !Path::new(&folder).starts_with(context.workspace) {
        let source = context.workspace.to_path_buf();
        let request = MountRequest { source, destination: Some(folder.clone()), read_only: false };
        into.layer.mounts.push(found_here(request));
    }
    Ok(Some(folder))
}

fn environment(file: &DevContainer, variables: &Variables, into: &mut Translated) -> Result<(), Error> {
    let container = file.container_env.iter().map(|(name, value)| (name, Some(value)));
    let remote = file.remote_env.iter().map(|(name, value)| (name, value.as_ref()));
    for (name, value) in container.chain(remote) {
        let known =
            values::parse_environment_name(name).map_err(|why| refuse(&format!("the variable `{name}`: {why}")))?;
        let Some(value) = value else {
            into.layer.env.remove(&known);
            continue;
        };
        let (value, unknown) = variables.replace(value);
        match unknown.first() {
            Some(unknown) => into.warnings.push(left_out(&format!("the variable {known}"), unknown)),
            None => {
                into.layer.env.insert(known, found_here(EnvironmentValue::Literal(value)));
            }
        }
    }
    Ok(())
}

/// A bind of something beneath the workspace; nothing else is safe, or outlives a sandbox.
fn mount(mount: &DevMount, context: &Context, variables: &Variables, into: &mut Translated) -> Result<(), Error> {
    let mut skip = |why: String, hint: Option<String>| {
        let message = format!("devcontainer.json: the mount at {} is left out: {why}", clean(&mount.target));
        into.warnings.push(Warning { message, hint });
        Ok(())
    };
    if mount.kind != "bind" {
        let why = format!("it is a {}, and nothing outlives a sandbox but what is shared", clean(&mount.kind));
        return skip(why, Some(format!("share a directory of yours: --mount DIR:{}", clean(&mount.target))));
    }
    let (target, mut unknown) = variables.replace(&mount.target);
    let (source, more) = variables.replace(mount.source.as_deref().unwrap_or_default());
    unknown.extend(more);
    if let Some(unknown) = unknown.first() {
        return skip(unknown.why(), Some(format!("--mount DIR:{}", clean(&target))));
    }
    let target = values::parse_destination(&target).map_err(|why| refuse(&format!("mounts: {why}")))?;
    let hint = format!("if you want it shared: --mount {}:{}", clean(&source), clean(&target));
    let outside = "it is not beneath the workspace".to_owned();
    let path = context.workspace.join(&source);
    // Looked at before the file system is: whether a path outside exists is no business of the project.
    let steps_out = path.components().any(|part| part == std::path::Component::ParentDir);
    if source.is_empty() || steps_out || !path.starts_with(context.workspace) {
        return skip(outside, Some(hint));
    }
    let Ok(canonical) = (context.canonicalize)(&path) else { return skip("there is no such file".to_owned(), None) };
    let Ok(within) = canonical.strip_prefix(context.workspace) else { return skip(outside, Some(hint)) };
    // Hooks in there are run by git on the host.
    let of_git = within.components().any(|part| part.as_os_str() == ".git");
    if of_git && !mount.read_only {
        return skip("it belongs to git, and may be shared read-only".to_owned(), Some(hint));
    }
    let request = MountRequest { source: canonical, destination: Some(target), read_only: mount.read_only };
    into.layer.mounts.push(found_here(request));
    Ok(())
}

/// A port of the host is the user's to give.
fn ports(file: &DevContainer, into: &mut Translated) {
    let (own, others): (Vec<&String>, Vec<&String>) =
        file.ports.iter().partition(|port| port.split(':').all(|part| part.parse::<u16>().is_ok_and(|port| port > 0)));
    if !own.is_empty() {
        let flags: Vec<String> = own.iter().map(|port| format!("--publish {port}")).collect();
        into.warnings.push(Warning {
            message: "devcontainer.json forwards ports, which a project's file may not show on this host by itself"
                .to_owned(),
            hint: Some(flags.join(" ")),
        });
    }
    for port in others {
        let port = shell_words(std::slice::from_ref(port));
        into.warnings.push(Warning {
            message: format!("devcontainer.json: the port {} is of another container, and left out", clean(&port)),
            hint: None,
        });
    }
}

fn left_out(what: &str, unknown: &Unknown) -> Warning {
    Warning {
        message: format!("devcontainer.json: {} is left out: {}", clean(what), unknown.why()),
        hint: unknown.hint(),
    }
}

fn why_without_effect(key: &str) -> &'static str {
    match key {
        "initializeCommand" => "it would run on this host",
        "workspaceMount" => "the workspace is shared under its own path, at /workspace and at workspaceFolder",
        "postAttachCommand" => "nothing attaches to a sandbox",
        "hostRequirements.gpu" => "a sandbox has no GPU",
        _ => "the sandbox is a virtual machine, not a container",
    }
}

#[cfg(test)]
mod tests;
