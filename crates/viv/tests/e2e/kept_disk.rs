//! Disks that are kept: what kills a machine does not lose what was synced, and what is freed goes back.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::{Host, Ran, kill, until};

/// In the superblock, which begins at 1024: features that it takes to be mounted. One says that the journal
/// has to be replayed, as it does from a mount to its end (<https://docs.kernel.org/filesystems/ext4/super.html>).
const INCOMPATIBLE: u64 = 1024 + 0x60;
const RECOVER: u8 = 4;

fn ok(host: &Host, arguments: &[&str]) -> Ran {
    let ran = host.run(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    ran
}

fn sh(host: &Host, script: &str) -> String {
    ok(host, &["exec", "db", "--", "sh", "-c", script]).stdout
}

fn disk(host: &Host) -> PathBuf {
    host.path("state/viv/sandboxes/db/disk")
}

fn is_mounted(host: &Host) -> bool {
    let mut features = [0];
    std::fs::File::open(disk(host)).unwrap().read_exact_at(&mut features, INCOMPATIBLE).unwrap();
    features[0] & RECOVER != 0
}

/// Blocks of the host, in bytes.
fn allocated(host: &Host) -> u64 {
    std::fs::metadata(disk(host)).unwrap().blocks() * 512
}

#[test]
fn what_was_synced_outlives_whatever_kills_its_machine() {
    let Some(host) = Host::ordinary() else { return };
    let described = "[sandboxes.db]\nmemory = \"512M\"\ncpus = 1\ndisk = \"1G\"\npersist = true\n";
    host.write("viv.toml", described);
    let up = ok(&host, &["up", "-v"]);
    assert!(up.stderr.contains("a sandbox that keeps its disk boots from it"), "{up:?}");
    sh(&host, "echo 0 > ~/rounds; sync");
    for (round, victim) in ["vmm_pid", "monitor_pid", "file_daemon_pid"].into_iter().enumerate() {
        assert!(is_mounted(&host), "{victim}");
        let pid = host.ps()[0][victim].as_u64().unwrap();
        kill(u32::try_from(pid).unwrap(), Signal::KILL);
        until("its processes are gone", || host.processes().is_empty());
        assert!(is_mounted(&host), "{victim}: nobody unmounted it");
        ok(&host, &["up"]);
        assert_eq!(sh(&host, "cat ~/rounds"), format!("{round}\n"), "{victim}");
        sh(&host, &format!("echo {} > ~/rounds; sync", round + 1));
    }
    ok(&host, &["kill", "db"]);
    ok(&host, &["up"]);
    // Not synced, but ended in good order.
    sh(&host, "echo last > ~/rounds; mkdir ~/directory; sudo mv /etc/skel /etc/moved");
    ok(&host, &["stop", "db"]);
    assert!(!is_mounted(&host), "it is unmounted in good order");
    ok(&host, &["up"]);
    assert_eq!(sh(&host, "cat ~/rounds; ls -d ~/directory /etc/moved"), "last\n/etc/moved\n/home/agent/directory\n");

    let before = allocated(&host);
    sh(&host, "dd if=/dev/urandom of=$HOME/big bs=1M count=64 2>/dev/null; sync");
    assert!(allocated(&host) >= before + (60 << 20), "{} after {before}", allocated(&host));
    sh(&host, "rm ~/big; sync");
    ok(&host, &["stop", "db"]);
    assert!(allocated(&host) < before + (16 << 20), "{} after {before}: freed blocks go back", allocated(&host));

    // What cannot be mended is left as it is, and said to be.
    let spoilt = std::fs::File::options().write(true).open(disk(&host)).unwrap();
    spoilt.write_all_at(&[0; 64 << 10], 0).unwrap();
    let refused = host.run(&["up"]);
    assert!(refused.code == 125 && refused.stderr.contains("viv disk discard db"), "{refused:?}");
    ok(&host, &["disk", "discard", "db"]);
    ok(&host, &["up"]);
    assert_eq!(host.run(&["exec", "db", "--", "cat", "/home/agent/rounds"]).code, 1);
    ok(&host, &["rm", "--force", "db"]);
    host.assert_nothing_is_left();
}
