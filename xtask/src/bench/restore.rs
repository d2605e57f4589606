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
    /// restored from the template `key`, and from what viv says of such a start.
    ///
    /// # Errors
    /// If the sandbox does not come from a template.
    pub fn prepare(viv: &Path, key: &str, sandbox: &Running, directory: &Path) -> Result<Self> {
        let (client, file_daemon) = build()?;
        let running = sandbox.machine()?;
        let machine = derive(&running)?;
        let template = template_of(&running, key)?;
        let shown =
            Command::new(viv).args(["run", "--dry-run", "--json", "--", "true"]).current_dir(directory).output();
        let resolved = serde_json::from_slice(&shown.context("cannot run viv")?.stdout)
            .context("`viv run --dry-run --json` printed no JSON")?;
        let facts = serde_json::from_slice(&fs::read(template.join("template.json"))?)
            .context("the template's description is not JSON")?;
        let share = directory.join("floor-share");
        fs::create_dir_all(share.join(ENTRY))?;
        let mut contents = told(&resolved, &facts)?;
        contents["machine"] = json!(machine);
        contents["file_daemon"] = json!(file_daemon);
        contents["directory"] = json!(share);
        contents["scratch"] = json!(template.join("scratch"));
        contents["memory"] = json!(template.join("memory"));
        contents["devices"] = json!(template.join("devices"));
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

/// Where a process finds its own descriptors.
const OWN_DESCRIPTORS: &str = "/proc/self/fd/";

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
    require_restored(machine)?;
    let mut argv = Vec::with_capacity(machine.len());
    let mut option = "";
    for word in machine {
        let fields: Vec<&str> = word.split(',').collect();
        let field = |name: &str| fields.iter().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        let number = field("fd").filter(|_| ["-chardev", "-add-fd"].contains(&option));
        let memory = field("mem-path").filter(|_| option == "-object");
        argv.push(match (number, memory) {
            (Some(number), _) => {
                let role = match (option, field("id")) {
                    ("-chardev", Some(role @ ("link" | "shares" | "monitor"))) => role,
                    ("-add-fd", _) => "scratch",
                    _ => bail!("unknown descriptor: {option} {word}"),
                };
                word.replacen(&format!("fd={number}"), &format!("fd={{{role}}}"), 1)
            }
            (None, Some(path)) => {
                ensure!(path.starts_with(OWN_DESCRIPTORS), "the machine's memory is no descriptor: {word}");
                word.replacen(path, &format!("{OWN_DESCRIPTORS}{{memory}}"), 1)
            }
            (None, None) => word.clone(),
        });
        option = word;
    }
    let named = |role: &str| argv.iter().any(|word| word.contains(&format!("{{{role}}}")));
    let missing = ["link", "shares", "monitor", "scratch", "memory"].into_iter().find(|role| !named(role));
    if let Some(role) = missing {
        bail!("the restored machine has no descriptor for its {role}: {}", machine.join(" "));
    }
    Ok(argv)
}

/// The directory of the template that a machine was restored from: the cache's, which the machine's
/// root image is in, and in it that of the key.
fn template_of(machine: &[String], key: &str) -> Result<PathBuf> {
    let root = machine.iter().find(|word| word.starts_with("driver=file,node-name=root,"));
    let root = root.and_then(|word| word.split_once("filename=")).context("a machine without root image")?.1;
    // QEMU takes a doubled comma for one.
    let root = root.replace(",,", ",");
    let cache = Path::new(&root).parent().and_then(Path::parent).context("the root image is not in the cache")?;
    Ok(cache.join("templates").join(key))
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

    const MACHINE: &str = "/usr/bin/qemu-system-x86_64 -name viv-1,process=viv-vm \
        -object memory-backend-file,id=memory,size=2048M,mem-path=/proc/self/fd/3,share=on -append fd=9,set=7 \
        -blockdev driver=file,node-name=root,read-only=on,filename=/cache/blobs/sha256-1 -chardev stdio,id=console,signal=off -chardev socket,id=monitor,fd=4 \
        -mon chardev=monitor,mode=control -chardev socket,id=link,fd=5,server=on,wait=off -add-fd fd=6,set=1 \
        -blockdev driver=file,node-name=scratch,filename=/dev/fdset/1 -chardev socket,id=shares,fd=7 -incoming defer";

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn descriptors_are_named_by_their_use_and_nothing_else_changes() {
        let machine = derive(&words(MACHINE)).unwrap();
        insta::assert_snapshot!(machine.join(" "), @"/usr/bin/qemu-system-x86_64 -name viv-1,process=viv-vm -object memory-backend-file,id=memory,size=2048M,mem-path=/proc/self/fd/{memory},share=on -append fd=9,set=7 -blockdev driver=file,node-name=root,read-only=on,filename=/cache/blobs/sha256-1 -chardev stdio,id=console,signal=off -chardev socket,id=monitor,fd={monitor} -mon chardev=monitor,mode=control -chardev socket,id=link,fd={link},server=on,wait=off -add-fd fd={scratch},set=1 -blockdev driver=file,node-name=scratch,filename=/dev/fdset/1 -chardev socket,id=shares,fd={shares} -incoming defer");
    }

    #[test]
    fn what_cannot_be_restored_alike_is_refused() {
        let refusal = |line: &str| derive(&words(line)).unwrap_err().to_string();
        assert!(refusal("qemu -nodefaults").contains("did not restore"));
        assert!(refusal("qemu -incoming defer -object memory-backend-file,mem-path=/dev/shm/x").contains("memory"));
        assert!(refusal(&MACHINE.replace("-add-fd fd=6,set=1", "")).contains("no descriptor for its scratch"));
        let unknown = refusal("qemu -chardev socket,id=other,fd=3 -incoming defer");
        assert_eq!(unknown, "unknown descriptor: -chardev socket,id=other,fd=3");
    }

    #[test]
    fn the_template_is_found_by_its_key_beside_the_root_image() {
        assert_eq!(template_of(&words(MACHINE), "0a").unwrap(), Path::new("/cache/templates/0a"));
        assert!(template_of(&words("qemu"), "0a").is_err());
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
