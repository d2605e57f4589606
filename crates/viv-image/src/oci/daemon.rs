//! Images of this host's Docker, by its own command: where its daemon is, and who may speak to it, is
//! configured in several places that only that command knows all of.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::access::RegistryAccess;
use crate::error::{Error, ErrorKind, Output, Result, io_error};
use crate::{sys, tools};

/// Has Docker write an image to `output`, as an archive.
///
/// # Errors
/// [`ErrorKind::MissingTool`] without Docker, [`ErrorKind::Docker`] where its daemon does not answer,
/// [`ErrorKind::NoSuchImage`].
pub(super) fn save(access: &RegistryAccess, reference: &str, output: &Path, lock: &File) -> Result<()> {
    let program: PathBuf = access.docker.clone().or_else(|| tools::find("docker")).ok_or_else(|| {
        Error::new(ErrorKind::MissingTool, "docker is not installed; docker-daemon: is for images of its daemon")
            .hint(format!("to download the image, give --image oci:{reference}"))
            .hint("of a file that `docker save` wrote elsewhere, give --image oci-archive:FILE")
    })?;
    let mut command = Command::new(&program);
    command.args(["image", "save", "--output"]).arg(output).arg("--").arg(reference);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    let mut run = || {
        sys::tie(&mut command, &[lock])?;
        command.output()
    };
    let ended = run().map_err(io_error("run", &program))?;
    if ended.status.success() {
        return Ok(());
    }
    let said: String =
        String::from_utf8_lossy(&ended.stderr).chars().filter(|c| !c.is_control() || *c == '\n').collect();
    Err(failure(reference, said.trim()))
}

/// What Docker's words mean.
fn failure(reference: &str, said: &str) -> Error {
    let has = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
    let error = if has(&["permission denied"]) {
        Error::new(ErrorKind::Docker, "Docker's daemon does not let this user in")
            .hint("have an administrator add you to the group docker, or use rootless Docker")
    } else if has(&[
        "Cannot connect to the Docker daemon",
        "failed to connect to the docker API",
        "Is the docker daemon running",
    ]) {
        Error::new(ErrorKind::Docker, "Docker's daemon does not answer")
            .hint("start it: systemctl start docker")
            .hint(format!("to download the image without it, give --image oci:{reference}"))
    } else if has(&["No such image", "does not exist", "not found"]) {
        Error::new(ErrorKind::NoSuchImage, format!("Docker has no image {reference}"))
            .hint(format!("docker pull {reference}"))
    } else {
        Error::new(ErrorKind::Docker, format!("Docker does not give the image {reference}"))
    };
    let mut tail: Vec<&str> = said.lines().rev().take(5).collect();
    tail.reverse();
    error.source(Output(tail.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_says() {
        let kind = |said: &str| *failure("x", said).kind();
        let unix = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?";
        assert_eq!(kind(unix), ErrorKind::Docker);
        assert_eq!(kind("Error response from daemon: reference does not exist"), ErrorKind::NoSuchImage);
        assert_eq!(kind("Error response from daemon: No such image: x:latest"), ErrorKind::NoSuchImage);
        assert_eq!(kind("permission denied while trying to connect to the Docker daemon socket"), ErrorKind::Docker);
    }
}
