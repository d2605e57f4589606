//! The floor of a start from a template: the VMM that viv restores, restored from the same template
//! by the smallest possible client (`src/bin/restore-floor`).
//!
//! The command line is derived from that of a running sandbox's QEMU, so the machine is the same by
//! construction; only the numbers of descriptors are the client's own. So is what the guest is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::measure::{self, Timing};
use super::sandbox::Running;
use crate::{command, workspace};

/// A floor that is ready to be started again and again.
pub struct RestoreFloor {
    client: PathBuf,
    plan: PathBuf,
}

impl RestoreFloor {
    /// Builds the client and its file daemon, and plans what they do from `sandbox`, which viv has
    /// restored from a template, and from what viv says of such a start.
    ///
    /// # Errors
    /// If the sandbox does not come from a template.
    pub fn prepare(viv: &Path, sandbox: &Running, directory: &Path) -> Result<Self> {
        let (client, file_daemon) = build()?;
        let machine = derive(&sandbox.machine()?)?;
        let [.., vmm] = sandbox.processes()?;
        let template = template_of(vmm)?;
        let shown =
            Command::new(viv).args(["run", "--dry-run", "--json", "--", "true"]).current_dir(directory).output();
        let resolved = serde_json::from_slice(&shown.context("cannot run viv")?.stdout)
            .context("`viv run --dry-run --json` printed no JSON")?;
        let facts = serde_json::from_slice(&fs::read(template.join(DESCRIPTION))?)
            .context("the template's description is not JSON")?;
        let share = directory.join("floor-share");
        fs::create_dir_all(share.join(ENTRY))?;
        let mut contents = told(&resolved, &facts)?;
        contents["machine"] = json!(machine);
        contents["file_daemon"] = json!(file_daemon);
        contents["directory"] = json!(share);
        contents["scratch"] = json!(template.join("scratch"));
        contents["memory"] = json!(template.join("memory"));
        let plan = directory.join("floor-plan.json");
        fs::write(&plan, serde_json::to_vec_pretty(&contents)?)?;
        Ok(Self { client, plan })
    }

    /// The command that restores it, runs `program` and ends.
    pub fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.arg(&self.plan).args(program);
        command
    }

    /// Runs it once.
    pub fn run(&self, program: &[&str]) -> Result<Timing> {
        measure::until_first_byte_and_end(&mut self.command(program), None)
    }
}

/// The share's name at the root of the device.
const ENTRY: &str = "0";

fn build() -> Result<(PathBuf, PathBuf)> {
    command::run(workspace::cargo().args(["build", "--release", "--package", "xtask", "--bin", "restore-floor"]))?;
    command::run(workspace::cargo().args([
        "build",
        "--release",
        "--package",
        "viv-shares",
        "--example",
        "floor_file_daemon",
    ]))?;
    let release = workspace::target_directory()?.join("release");
    Ok((release.join("restore-floor"), release.join("examples/floor_file_daemon")))
}

/// Fails unless viv has restored this machine from a template.
pub fn require_restored(machine: &[String]) -> Result<()> {
    ensure!(
        machine.iter().any(|word| word == "-incoming"),
        "viv did not restore this machine from a template; `viv run -v` says why"
    );
    Ok(())
}

/// A restored machine's command line, with `{link}`, `{shares}`, `{monitor}`, `{scratch}` and
/// `{memory}` for the numbers of descriptors.
fn derive(machine: &[String]) -> Result<Vec<String>> {
    let value_of =
        |option: &str| machine.iter().position(|word| word == option).and_then(|position| machine.get(position + 1));
    require_restored(machine)?;
    let memory_set = value_of("-incoming").and_then(|incoming| incoming.strip_prefix("file:/dev/fdset/"));
    let memory_set = memory_set.context("the machine's memory is no descriptor")?;
    let mut argv = Vec::with_capacity(machine.len());
    let mut option = "";
    for word in machine {
        let fields: Vec<&str> = word.split(',').collect();
        let field = |name: &str| fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let number = field("fd").filter(|_| ["-chardev", "-add-fd"].contains(&option));
        argv.push(match number {
            None => word.clone(),
            Some(number) => {
                let role = match (option, field("id"), field("set")) {
                    ("-chardev", Some(role @ ("link" | "shares" | "monitor")), _) => role,
                    ("-add-fd", _, Some(set)) if set == memory_set => "memory",
                    ("-add-fd", _, Some(_)) => "scratch",
                    _ => bail!("unknown descriptor: {option} {word}"),
                };
                word.replacen(&format!("fd={number}"), &format!("fd={{{role}}}"), 1)
            }
        });
        option = word;
    }
    // A machine that was kept ready stands still until it is told to go on.
    argv.retain(|word| word != "-S");
    Ok(argv)
}

/// What describes a template, in its directory.
const DESCRIPTION: &str = "template.json";

/// The template's directory: the VMM still has its memory file open.
fn template_of(vmm: u32) -> Result<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{vmm}/fd")).context("cannot look at the VMM's open files")?;
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .filter_map(|file| file.parent().map(Path::to_owned))
        .find(|directory| directory.join(DESCRIPTION).is_file())
        .context("the template that viv restored has been removed since")
}

/// What the guest is told, as viv would: from the resolved start and the template's description.
fn told(resolved: &Value, template: &Value) -> Result<Value> {
    let (sandbox, exec) = (&resolved["sandbox"], &resolved["exec"]);
    let workspace = sandbox["workspace"].as_str().context("the resolved start has no workspace")?;
    let token = template["link_token"].as_str().context("the template has no link token")?;
    let share = json!({ "entry": ENTRY, "destination": workspace, "kind": "directory", "read_only": false });
    Ok(json!({
        "link_token": token,
        "configure": {
            "hostname": sandbox["hostname"],
            "user": sandbox["user"],
            "shares": [share],
            "workspace": workspace,
        },
        "exec": { "env": exec["env"], "cwd": exec["cwd"], "user": exec["user"] },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "/usr/bin/qemu-system-x86_64 -name viv-1,process=viv-vm -append fd=9,set=7 \
        -chardev stdio,id=console,signal=off -chardev socket,id=monitor,fd=3 -mon chardev=monitor,mode=control \
        -chardev socket,id=link,fd=4,server=on,wait=off -add-fd fd=5,set=1 \
        -blockdev driver=file,node-name=scratch,filename=/dev/fdset/1 -chardev socket,id=shares,fd=6 -S \
        -add-fd fd=7,set=2 -global migration.mapped-ram=on -incoming file:/dev/fdset/2";

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn descriptors_are_named_by_their_use_and_nothing_else_changes() {
        let machine = derive(&words(MACHINE)).unwrap();
        insta::assert_snapshot!(machine.join(" "), @"/usr/bin/qemu-system-x86_64 -name viv-1,process=viv-vm -append fd=9,set=7 -chardev stdio,id=console,signal=off -chardev socket,id=monitor,fd={monitor} -mon chardev=monitor,mode=control -chardev socket,id=link,fd={link},server=on,wait=off -add-fd fd={scratch},set=1 -blockdev driver=file,node-name=scratch,filename=/dev/fdset/1 -chardev socket,id=shares,fd={shares} -add-fd fd={memory},set=2 -global migration.mapped-ram=on -incoming file:/dev/fdset/2");
    }

    #[test]
    fn what_cannot_be_restored_alike_is_refused() {
        let refusal = |line: &str| derive(&words(line)).unwrap_err().to_string();
        assert!(refusal("qemu -nodefaults").contains("did not restore"));
        assert!(refusal("qemu -incoming tcp:0:4444").contains("no descriptor"));
        let unknown = refusal("qemu -chardev socket,id=other,fd=3 -add-fd fd=7,set=2 -incoming file:/dev/fdset/2");
        assert_eq!(unknown, "unknown descriptor: -chardev socket,id=other,fd=3");
    }

    #[test]
    fn the_guest_is_told_what_viv_would_tell() {
        let user = json!({ "name": "agent", "uid": 1000, "gid": 1000, "home": "/home/agent" });
        let resolved = json!({
            "sandbox": { "hostname": "viv-1", "workspace": "/w", "user": user, "cpus": 2 },
            "exec": { "argv": ["true"], "env": { "A": "b" }, "cwd": "/w", "user": "agent", "terminal": null },
        });
        let told = told(&resolved, &json!({ "link_token": "00ff" })).unwrap();
        insta::assert_json_snapshot!(told, @r#"
        {
          "configure": {
            "hostname": "viv-1",
            "shares": [
              {
                "destination": "/w",
                "entry": "0",
                "kind": "directory",
                "read_only": false
              }
            ],
            "user": {
              "gid": 1000,
              "home": "/home/agent",
              "name": "agent",
              "uid": 1000
            },
            "workspace": "/w"
          },
          "exec": {
            "cwd": "/w",
            "env": {
              "A": "b"
            },
            "user": "agent"
          },
          "link_token": "00ff"
        }
        "#);
        assert!(super::told(&resolved, &json!({})).is_err());
    }
}
