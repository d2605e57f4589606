//! kill -9 of each process of a sandbox, early and late, one and many.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{DEADLINE, Host, finish, finish_within, kill, until};

/// What the issue promises after a crash, once the next `viv` call has looked.
const PROMISED: Duration = Duration::from_secs(5);

const PROCESSES: [&str; 4] = ["client", "monitor_pid", "vmm_pid", "file_daemon_pid"];

fn assert_gone_in_time(host: &Host, what: &str) {
    let begun = Instant::now();
    host.assert_nothing_is_left();
    assert!(begun.elapsed() < PROMISED, "{what}: cleaned up after {:?}", begun.elapsed());
}

#[test]
fn any_process_killed_while_running_takes_the_sandbox_along() {
    let Some(host) = Host::ordinary() else { return };
    for victim in PROCESSES {
        let sandbox = host.sandbox(&[]);
        sandbox.ok("echo kept > kept; sync kept");
        let pid = sandbox.pid(victim);
        kill(pid, Signal::KILL);
        if victim == "client" {
            assert_eq!(sandbox.wait().code, 137);
        } else {
            let client = sandbox.wait();
            assert_eq!(client.code, 125, "{victim}: {client:?}");
            let named = match victim {
                "vmm_pid" => "QEMU was killed by signal 9",
                "file_daemon_pid" => "the file daemon was killed by signal 9",
                _ => "monitor",
            };
            assert!(client.stderr.contains(named), "{victim}: {client:?}");
        }
        assert_gone_in_time(&host, victim);
        assert_eq!(std::fs::read_to_string(host.project().join("kept")).unwrap(), "kept\n");
    }
}

#[test]
fn any_process_killed_at_its_start_takes_the_sandbox_along() {
    let Some(host) = Host::ordinary() else { return };
    for (start, victim) in ["--cold", "--template=use"].into_iter().flat_map(|start| PROCESSES.map(|one| (start, one)))
    {
        let mut client = host.viv(&["run", "--quiet", start, "--", "sleep", "infinity"]);
        let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pid = None;
        until("the process is listed", || {
            pid = host.ps().first().and_then(|record| {
                if victim == "client" { Some(u64::from(client.id())) } else { record[victim].as_u64() }
            });
            pid.is_some()
        });
        kill(u32::try_from(pid.unwrap()).unwrap(), Signal::KILL);
        let ran = finish(client);
        assert_eq!(ran.code, if victim == "client" { 137 } else { 125 }, "{start}, {victim}: {ran:?}");
        assert!(victim == "client" || ran.stderr.starts_with("error: "), "{start}, {victim}: {ran:?}");
        assert_gone_in_time(&host, victim);
    }
}

/// Before it has said that it is ready, and before anything else can tell why it is not.
#[test]
fn a_file_daemon_killed_at_once_is_no_fault_of_the_template() {
    let Some(host) = Host::ordinary() else { return };
    let mut client = host.viv(&["run", "--quiet", "--template=use", "--", "sleep", "infinity"]);
    let client = client.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut daemon = None;
    until("there is a file daemon", || {
        daemon = host.processes().into_iter().find(|(_, line)| line.contains("internal-file-daemon"));
        daemon.is_some()
    });
    kill(daemon.unwrap().0, Signal::KILL);
    let ran = finish(client);
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains("killed by signal 9"), "{ran:?}");
    let again = host.run(&["run", "--verbose", "--template=use", "--", "true"]);
    assert!(again.code == 0 && again.is_from_template(), "{again:?}");
    host.assert_nothing_is_left();
}

#[test]
fn a_stopped_monitor_can_still_be_killed() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    kill(sandbox.pid("monitor_pid"), Signal::STOP);
    let ran = host.run(&["kill", "fixture"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(sandbox.wait().code, 125);
    assert_gone_in_time(&host, "a stopped monitor");
}

#[test]
fn twenty_at_once_some_of_them_killed() {
    let Some(host) = Host::new() else { return };
    let clients: Vec<_> = (0..20)
        .map(|number| {
            let script = format!("echo {number} > made-by-{number}");
            let mut command =
                host.viv(&["run", "--quiet", "--cpus", "1", "--memory", "512M", "--", "sh", "-c", &script]);
            // Twenty emulated machines share two processors.
            command.env("VIV_BOOT_DEADLINE", "20m").stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    until("all twenty have a VMM", || host.ps().iter().filter(|record| record["vmm_pid"].is_u64()).count() == 20);
    let records = host.ps();
    for (record, victim) in records.iter().zip(["monitor_pid", "vmm_pid", "file_daemon_pid", "monitor_pid"]) {
        kill(u32::try_from(record[victim].as_u64().unwrap()).unwrap(), Signal::KILL);
    }
    kill(clients[0].id(), Signal::KILL);
    let codes: Vec<i32> = clients.into_iter().map(|client| finish_within(client, 4 * DEADLINE).code).collect();
    let made = (0..20).filter(|number| host.project().join(format!("made-by-{number}")).exists()).count();
    let succeeded = codes.iter().filter(|code| **code == 0).count();
    // Four sandboxes and one client were killed, and the client's sandbox may be one of the four.
    assert!((15..=16).contains(&succeeded) && made >= succeeded, "{codes:?}, {made} files");
    assert!(codes.iter().all(|code| [0, 125, 137].contains(code)), "{codes:?}");
    assert_gone_in_time(&host, "twenty sandboxes");
}
