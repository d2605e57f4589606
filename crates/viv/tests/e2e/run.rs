//! Programs in a sandbox: streams, exit codes, options, and that nothing is left.

use std::io::{Read, Write};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Host, finish, kill};

#[test]
fn a_hundred_mebibytes_pass_through_unchanged() {
    let Some(host) = Host::new() else { return };
    let mut client =
        host.viv(&["run", "--quiet", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // A byte's value depends on its place, so that a lost or doubled block shows.
    let block = |number: u64| -> Vec<u8> {
        (0..1u64 << 17)
            .flat_map(|word| (number << 17 | word).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes())
            .collect()
    };
    let mut stdin = client.stdin.take().unwrap();
    let writer = std::thread::spawn(move || (0..100).for_each(|number| stdin.write_all(&block(number)).unwrap()));
    let mut stdout = client.stdout.take().unwrap();
    let mut received = vec![0; 1 << 20];
    for number in 0..100 {
        stdout.read_exact(&mut received).unwrap();
        assert!(received == block(number), "block {number} differs");
    }
    assert_eq!(stdout.read(&mut received).unwrap(), 0);
    writer.join().unwrap();
    assert_eq!(finish(client).code, 0);
    host.assert_nothing_is_left();
}

#[test]
fn exit_codes_say_what_happened() {
    let Some(host) = Host::new() else { return };
    host.write("not-executable", "text");
    assert_eq!(host.run(&["run", "--", "sh", "-c", "exit 3"]).code, 3);
    let sandbox = host.sandbox(&[]);
    assert_eq!(sandbox.sh("true").code, 0);
    assert_eq!(sandbox.sh("kill -9 $$").code, 137);
    let missing = host.run(&["exec", "fixture", "--", "no-such-program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.stderr.contains("no-such-program"), "{missing:?}");
    let refused = host.run(&["exec", "fixture", "--", "./not-executable"]);
    assert_eq!(refused.code, 126, "{refused:?}");
    let timed_out = host.run(&["exec", "--timeout", "1s", "fixture", "--", "sleep", "1000"]);
    assert_eq!(timed_out.code, 124, "{timed_out:?}");
}

#[test]
fn output_and_errors_are_separate_and_whole() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    let ran = sandbox.sh("i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done");
    let expected = |name: &str| (0..2000).map(|number| format!("{name} {number}\n")).collect::<String>();
    assert_eq!(ran.code, 0);
    assert!(ran.stdout == expected("out") && ran.stderr == expected("err"));
}

#[test]
fn an_open_stdin_does_not_keep_a_finished_command() {
    let Some(host) = Host::new() else { return };
    let _sandbox = host.sandbox(&[]);
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    let begun = std::time::Instant::now();
    let ran = finish(host.viv(&["exec", "fixture", "--", "sleep", "1"]).stdin(zeros).spawn().unwrap());
    assert_eq!(ran.code, 0);
    // Ten times what it should take; a stdin that is waited for would take for ever.
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn a_stalled_output_stalls_neither_errors_nor_signals() {
    let Some(host) = Host::new() else { return };
    let _sandbox = host.sandbox(&[]);
    let script = "trap 'echo caught >&2; exit 7' TERM; cat /dev/zero & echo ready >&2; wait";
    let mut client = host
        .viv(&["exec", "fixture", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Nobody reads its output, which soon stands still.
    let unread = client.stdout.take().unwrap();
    let mut ready = [0; 6];
    client.stderr.as_mut().unwrap().read_exact(&mut ready).unwrap();
    kill(client.id(), Signal::TERM);
    let mut caught = [0; 7];
    client.stderr.as_mut().unwrap().read_exact(&mut caught).unwrap();
    assert_eq!((&ready, &caught), (b"ready\n", b"caught\n"));
    drop(unread);
    finish(client);
}

#[test]
fn a_reader_that_leaves_ends_the_program() {
    let Some(host) = Host::new() else { return };
    let _sandbox = host.sandbox(&[]);
    let mut client =
        host.viv(&["exec", "fixture", "--", "yes"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 4];
    client.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let ran = finish(client);
    assert!(ran.code != 0 && ran.stderr.is_empty(), "{ran:?}");
}

#[test]
fn options_reach_the_program_and_its_record() {
    let Some(host) = Host::new() else { return };
    host.write("viv.toml", "[run]\ncpus = 1\nmemory = \"600M\"\nlabels = { team = \"blue\" }\n");
    std::fs::create_dir(host.project().join("below")).unwrap();
    host.own(&host.project().join("below"));
    let sandbox = host.sandbox(&["--env", "COLOUR=green", "--label", "job=7", "--workdir", "below"]);
    let record = sandbox.record();
    assert_eq!(record["cpus"], 1);
    assert_eq!(record["memory_mib"], 600);
    assert_eq!(record["labels"]["team"], "blue");
    assert_eq!(record["labels"]["job"], "7");
    assert_eq!(record["state"], "running");
    assert_eq!(sandbox.ok("nproc").trim(), "1");
    let environment =
        sandbox.ok("tr '\\0' '\\n' < /proc/$(pgrep -x sleep)/environ; readlink /proc/$(pgrep -x sleep)/cwd");
    assert!(environment.contains("COLOUR=green") && environment.contains("project/below"), "{environment}");
    assert_eq!(sandbox.ok("whoami; hostname"), "agent\nfixture\n");
    assert_eq!(sandbox.ok("sudo -n whoami"), "root\n");
    assert_eq!(sandbox.ok("readlink -f /workspace").trim(), host.project().to_str().unwrap());
    let host_clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let guest_clock: u64 = sandbox.ok("date +%s").trim().parse().unwrap();
    assert!(guest_clock.abs_diff(host_clock) <= 60, "{guest_clock} inside, {host_clock} outside");
}

#[test]
fn the_image_holds_what_an_agent_needs_on_its_first_day() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    for program in [
        "git --version",
        "curl --version",
        "python3 -c 'import venv, pip, ssl'",
        "node --version",
        "npm --version",
        "npx --version",
        "rg --version",
        "fd --version",
        "jq --version",
        "make --version",
        "gcc --version",
        "tmux -V",
        "strace -V",
        "bwrap --version",
        "less --version",
        "vi --version",
        "ps --version",
        "ip -V",
        "test -x /usr/sbin/sshd",
        "test -s /etc/ssl/certs/ca-certificates.crt",
        "test ! -e /etc/ssh/ssh_host_ed25519_key",
        "! pgrep -x 'systemd|sshd|agetty'",
        "printf 'int main(void){return 0;}' > /tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a",
    ] {
        sandbox.ok(program);
    }
}

#[test]
fn stop_and_kill_leave_nothing() {
    let Some(host) = Host::new() else { return };
    for verb in ["stop", "kill"] {
        let sandbox = host.sandbox(&[]);
        let ran = host.run(&[verb, "fixture"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let client = sandbox.wait();
        assert_ne!(client.code, 0, "{client:?}");
        host.assert_nothing_is_left();
    }
}

#[test]
fn powering_off_inside_ends_the_sandbox() {
    let Some(host) = Host::new() else { return };
    let ran = host.run(&["run", "--quiet", "--", "sh", "-c", "echo before > kept; sudo poweroff; sleep 1000"]);
    assert!(ran.stderr.contains("powered off"), "{ran:?}");
    assert_eq!(std::fs::read_to_string(host.project().join("kept")).unwrap(), "before\n");
    host.assert_nothing_is_left();
}

#[test]
fn json_reports_the_result_beside_the_programs_own_output() {
    let Some(host) = Host::new() else { return };
    let ran = host.run(&["run", "--json", "--", "sh", "-c", "echo mine; exit 4"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, "mine\n"), "{ran:?}");
    let last: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(last["exit_code"], 4, "{last}");
}
