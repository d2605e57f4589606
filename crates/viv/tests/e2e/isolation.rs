//! The guest as an attacker: root inside looks for a way to the host.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::Host;

/// What no guest may ever see; made at run time, so that it stands in no file of ours.
pub fn canary() -> String {
    format!("canary-{:016x}", std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0))
}

#[test]
fn no_host_file_outside_the_shares_is_readable() {
    let Some(host) = Host::ordinary() else { return };
    let canary = canary();
    for place in ["home/secret", "secret"] {
        std::fs::write(host.path(place), &canary).unwrap();
        host.own(&host.path(place));
    }
    let secret = host.path("home/secret");
    symlink(&secret, host.project().join("link")).unwrap();
    symlink(host.path(""), host.project().join("above")).unwrap();
    symlink("../secret", host.project().join("relative")).unwrap();
    symlink("/proc/self/root", host.project().join("root")).unwrap();
    let sandbox = host.sandbox(&["--disk", "256M"]);
    let project = host.project();
    let project = project.display();
    let secret = secret.display();

    let attacks = [
        format!("cat {secret}"),
        format!("cat {project}/../secret {project}/link {project}/relative {project}/above/secret"),
        format!("cd {project}; cat root{secret}; cat root/../../../..{secret}"),
        // The device itself, at its root and above.
        "mkdir -p /m && mount -t virtiofs viv /m; ls -la /m /m/..; cat /m/../secret /m/0/../../secret /m/0/../secret".to_owned(),
        "mount -t virtiofs / /m; mount -t virtiofs root /m; mount -t virtiofs '' /m".to_owned(),
        format!("cat /m/0/link /m/0/above/home/secret /m/0/root{secret}"),
        // Moving the workspace's parents about, as far as the device lets it.
        "mv /m/0 /m/1; rmdir /m/0; mkdir /m/2; touch /m/3; ln -s / /m/4".to_owned(),
        // Links to what a share does not hold.
        format!("ln {secret} {project}/hard; ln -P {project}/link {project}/hard2; cat {project}/hard {project}/hard2"),
        // Names that end beyond the share, asked of the file daemon without the guest's kernel
        // resolving them first.
        format!(
            "python3 - <<'P'
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
base = os.open('{project}', os.O_RDONLY)
for name in [b'..', b'../secret', b'../../secret', b'/', b'.', b'../../../../../../../../../../etc/shadow']:
    for flags in (os.O_RDONLY, os.O_PATH, os.O_RDONLY | os.O_NOFOLLOW):
        try:
            fd = os.open(name, flags, dir_fd=base)
            os.system(f'ls -la /proc/{{os.getpid()}}/fd/{{fd}}/; cat /proc/{{os.getpid()}}/fd/{{fd}}/secret')
        except OSError as error:
            print(name, error)
# Handles guessed: inode numbers near the share's own.
handle = (ctypes.c_ubyte * 136)(*struct.pack('II', 128, 0))
mount_id = ctypes.c_int()
libc.name_to_handle_at(base, b'', handle, ctypes.byref(mount_id), 0x1000)
size, kind = struct.unpack_from('II', bytes(handle))
inode = os.fstat(base).st_ino
for guess in list(range(1, 64)) + list(range(max(1, inode - 32), inode + 32)):
    for body in (struct.pack('QI', guess, 0), struct.pack('QQ', guess, 0), struct.pack('II', guess, 0)):
        crafted = (ctypes.c_ubyte * 136)(*(struct.pack('II', len(body), kind) + body))
        fd = libc.open_by_handle_at(base, crafted, os.O_RDONLY)
        if fd >= 0:
            os.system(f'ls -la /proc/{{os.getpid()}}/fd/{{fd}}/ 2>/dev/null; cat /proc/{{os.getpid()}}/fd/{{fd}} 2>/dev/null')
            os.close(fd)
P"
        ),
        // Every block device, every port, and what the kernel shows of the machine.
        "for d in /dev/vd*; do tail -c +1 $d | grep -a -m1 canary-; done".to_owned(),
        "grep -a -r -m1 canary- /sys/firmware /sys/class/dmi /proc/cmdline 2>/dev/null".to_owned(),
        "for p in /dev/vport*; do timeout 2 head -c 64 $p; done".to_owned(),
    ];
    for attack in &attacks {
        let ran = sandbox.root_sh(attack);
        assert!(!ran.stdout.contains(&canary) && !ran.stderr.contains(&canary), "{attack}: {ran:?}");
        assert!(!ran.stdout.contains("root:$") && !ran.stdout.contains("root:*:"), "a shadow file: {attack}: {ran:?}");
    }
    // Mounted anew, the device shows its root or, as Linux finds file systems it has mounted before,
    // the share; never anything else.
    let shown = sandbox.root_sh("mkdir -p /n && mount -t virtiofs viv /n && ls -A /n").stdout;
    let known =
        |name: &str| matches!(name, "0" | "certificates") || host.project().join(name).symlink_metadata().is_ok();
    assert!(!shown.is_empty() && shown.lines().all(known), "{shown}");
    assert!(!host.project().join("hard").exists());
}

#[test]
fn there_is_no_network_device() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&["--net", "none"]);
    assert_eq!(sandbox.ok("ls /sys/class/net"), "lo\n");
    assert_eq!(sandbox.root_sh("ip -o link | wc -l; ip route | wc -l").stdout, "1\n0\n");
    assert_ne!(
        sandbox.root_sh("timeout 5 python3 -c \"import socket; socket.create_connection(('192.0.2.1', 80), 3)\"").code,
        0
    );
    // Loopback is the guest's own: nothing of the host listens on it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ran = sandbox
        .root_sh(&format!("python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}), 3)\" 2>&1"));
    assert!(ran.code != 0 && ran.stdout.contains("refused"), "{ran:?}");
}

#[test]
fn the_hosts_processes_are_confined() {
    let Some(host) = Host::ordinary() else { return };
    let sandbox = host.sandbox(&[]);
    // seccomp mode 2 is a filter (proc(5)).
    for process in ["vmm_pid", "file_daemon_pid"] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.pid(process))).unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{process}: {status}");
    }
    // The file daemon sees the shares and nothing else, whoever it would be persuaded to serve.
    let root = PathBuf::from(format!("/proc/{}/root", sandbox.pid("file_daemon_pid")));
    for (directory, contents) in [("", &["shares"][..]), ("shares", &["0.guarded", "certificates"])] {
        let entries = std::fs::read_dir(root.join(directory));
        if let Ok(entries) = entries {
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, contents);
        }
    }
    // Nothing of the user's environment reaches QEMU.
    let environment = std::fs::read(format!("/proc/{}/environ", sandbox.pid("vmm_pid"))).unwrap_or_default();
    assert!(environment.is_empty());
}

#[test]
fn words_of_the_guest_cannot_command_the_terminal() {
    let Some(host) = Host::new() else { return };
    let _sandbox = host.sandbox(&[]);
    let ran = host.run(&["exec", "fixture", "--", "\u{1b}]0;owned\u{7}nope"]);
    assert_eq!(ran.code, 127, "{ran:?}");
    assert!(!ran.stderr.contains(['\u{1b}', '\u{7}']), "{ran:?}");
}
