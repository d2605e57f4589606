//! `cargo xtask demo`: from a fresh machine to a command in a microVM, in one go.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::bench::measure;
use crate::command;
use crate::setup;
use crate::workspace::{self, Profile};

const SCRIPT: &str = "uname -a; id; pwd; ls; echo made in the VM > viv-demo.txt";

/// Runs the demo; fails unless the file made in the VM is there and belongs to this user.
pub fn run() -> Result<()> {
    setup::run(setup::Purpose::Run, false)?;
    let viv = workspace::build_viv(Profile::Release)?;

    let project = tempfile::Builder::new().prefix("viv-demo-").tempdir().context("cannot make a scratch project")?;
    fs::write(project.path().join("README.md"), "# A scratch project\n")?;
    fs::create_dir(project.path().join("src"))?;
    fs::write(project.path().join("src/hello.py"), "print('hello from the project')\n")?;

    // The first start builds the kernel and the root image, which is not what a start costs.
    let mut first = Command::new(&viv);
    first.args(["run", "--", "sh", "-c", SCRIPT]).current_dir(project.path());
    command::run(&mut first).context("the demo's command did not succeed in the VM")?;

    let made = project.path().join("viv-demo.txt");
    let mut list = Command::new("ls");
    command::run(list.arg("-l").arg(&made)).context("viv-demo.txt, made in the VM, is not on the host")?;
    let text = fs::read_to_string(&made)?;
    ensure!(text == "made in the VM\n", "viv-demo.txt holds {text:?}");
    let (owner, user) = (fs::metadata(&made)?.uid(), rustix::process::geteuid().as_raw());
    ensure!(owner == user, "viv-demo.txt belongs to user {owner}, not to user {user} who ran viv");

    let mut again = Command::new(&viv);
    again.args(["run", "--quiet", "--", "echo", "x"]).current_dir(project.path()).stderr(Stdio::inherit());
    let timing = measure::until_first_byte_and_end(&mut again, None)?;
    println!(
        "\nThe file above was made in the VM and belongs to you.\n\
         A start now costs {:.2} s to the command's first output byte, {:.2} s from start to end.",
        timing.first_byte.as_secs_f64(),
        timing.end.as_secs_f64()
    );
    println!("viv is at {}; try `viv run` in a project of yours.", viv.display());
    Ok(())
}
