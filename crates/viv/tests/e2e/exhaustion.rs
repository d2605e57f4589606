//! Disks and memory that run out: each gives an error that names it.

use std::process::Stdio;

use crate::support::{Host, finish, until};

#[test]
fn a_full_scratch_disk_is_named_with_the_way_to_enlarge_it() {
    let Some(host) = Host::new() else { return };
    let ran = host.run(&["run", "--disk", "256M", "--", "sh", "-c", "head -c 1G /dev/zero > ~/big"]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("No space left on device"), "the program's own words: {ran:?}");
    assert!(ran.stderr.contains("disk is full") && ran.stderr.contains("--disk"), "{ran:?}");
}

#[test]
fn memory_that_runs_out_is_named_with_the_way_to_enlarge_it() {
    let Some(host) = Host::new() else { return };
    let hungry = "x = []\nwhile True: x.append(b'x' * (1 << 20))";
    let ran = host.run(&["run", "--memory", "512M", "--", "python3", "-c", hungry]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("out of memory") && ran.stderr.contains("--memory"), "{ran:?}");
    let small = host.run(&["run", "--memory", "64M", "--", "true"]);
    assert_eq!(small.code, 125);
    assert!(small.stderr.contains("--memory 256M"), "{small:?}");
}

#[test]
fn a_full_host_disk_is_named() {
    let Some(host) = Host::new() else { return };
    // A small file system for the state, in a mount namespace of this test's own.
    let script = format!(
        "mount -t tmpfs -o size=64m,mode=700 none {state} && exec {viv} run --quiet -- sh -c \
         'head -c 512M /dev/urandom > ~/big; sync ~/big'",
        state = host.path("state").display(),
        viv = host.executable().display(),
    );
    let options = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let client = host
        .command("unshare")
        .args([options, "sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ran = finish(client);
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("the host's disk is full"), "{ran:?}");
    host.assert_nothing_is_left();
}

#[test]
fn what_cannot_boot_says_so_with_the_consoles_last_words() {
    let Some(host) = Host::new() else { return };
    let not_a_kernel = host.write("kernel", "not a kernel");
    let ran = host.run(&["run", "--kernel", not_a_kernel.to_str().unwrap(), "--", "true"]);
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("kernel"), "{ran:?}");

    let missing = host.run(&["run", "--image", "/no/such/image", "--", "true"]);
    assert_eq!(missing.code, 125, "{missing:?}");
    assert!(missing.stderr.contains("/no/such/image"), "{missing:?}");

    // An erofs by its first bytes, and nothing behind them: the guest reports it and ends.
    let mut broken = vec![0; 1 << 20];
    broken[1024..1028].copy_from_slice(&0xE0F5_E1E2u32.to_le_bytes());
    let broken = host.write("broken.erofs", broken);
    let ran = host.run(&["run", "--image", broken.to_str().unwrap(), "--", "true"]);
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("the guest could not start") || ran.stderr.contains("image"), "{ran:?}");

    let late = host
        .viv(&["run", "--cold", "--", "true"])
        .env("VIV_BOOT_DEADLINE", "1s")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let late = finish(late);
    assert_eq!(late.code, 125, "{late:?}");
    assert!(late.stderr.contains("did not come up within 1 second"), "{late:?}");

    let sandbox = host.sandbox(&[]);
    sandbox.root_sh("echo c > /proc/sysrq-trigger");
    let crashed = sandbox.wait();
    assert_eq!(crashed.code, 125, "{crashed:?}");
    assert!(crashed.stderr.contains("the guest crashed") && crashed.stderr.contains("sysrq"), "{crashed:?}");
    host.assert_nothing_is_left();
}

#[test]
fn memory_that_is_freed_inside_goes_back_to_the_host() {
    let Some(host) = Host::ordinary() else { return };
    let sandbox = host.sandbox(&[]);
    let held = || sandbox.record()["memory"]["pss_bytes"]["vmm"].as_u64().expect("one's own process can be read") >> 20;
    sandbox.ok("head -c 300M /dev/zero > /dev/shm/file");
    let full = held();
    assert!(full >= 300, "{full} MiB");
    sandbox.ok("rm /dev/shm/file");
    // The guest reports blocks of 2 MiB, a while after they were freed.
    until("most of it is given back", || held() < full - 200);
}
