//! A guest's clocks, read as NTP does: over the control port, by the shortest round trip there is.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::protocol::{connect, port};
use crate::support::{DEADLINE, Host, Sandbox, kill, until};

/// What a guest's clock may be off by, in nanoseconds.
const TOLERANCE_NS: i128 = 10_000_000;

/// In what time a clock is set right after the VMM stood still.
const PROMISED: Duration = Duration::from_secs(1);

fn now_ns() -> i128 {
    i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// What one look at the guest's clock tells: that it is ahead by this much, give or take.
#[derive(Debug)]
struct Reading {
    ahead_ns: i128,
    unsure_ns: i128,
}

impl Reading {
    fn take(stream: &mut BufReader<UnixStream>) -> Self {
        let question = json!({"id": "1", "type": "clock", "payload": {"step_ns": 0}});
        let mut answer = String::new();
        let asked = now_ns();
        writeln!(stream.get_mut(), "{question}").unwrap();
        stream.read_line(&mut answer).unwrap();
        let answered = now_ns();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let guest = answer["payload"]["wall_clock_ns"].as_u64().unwrap_or_else(|| panic!("{answer}"));
        Self { ahead_ns: i128::from(guest) - (asked + answered) / 2, unsure_ns: (answered - asked) / 2 }
    }

    fn is_surely_right(&self) -> bool {
        self.ahead_ns.abs() + self.unsure_ns <= TOLERANCE_NS
    }

    fn is_surely_wrong(&self) -> bool {
        self.ahead_ns.abs() - self.unsure_ns > TOLERANCE_NS
    }
}

/// Looks until a look tells.
fn assert_right(host: &Host, sandbox: &Sandbox<'_>, what: &str) {
    let mut stream = port(host, sandbox, 5000);
    until(what, || {
        let reading = Reading::take(&mut stream);
        assert!(!reading.is_surely_wrong(), "{what}: {reading:?}");
        reading.is_surely_right()
    });
}

#[test]
fn the_wall_clock_is_right_to_ten_milliseconds_from_the_first_moment() {
    let Some(host) = Host::ordinary() else { return };
    for round in 0..4 {
        let sandbox = host.clone_of_template(&[]);
        assert_right(&host, &sandbox, &format!("clone {round}"));
    }
    let cold = host.sandbox(&["--cold"]);
    assert_right(&host, &cold, "a cold start");
}

#[test]
fn monotonic_time_goes_on_at_its_pace_and_claims_no_age_it_cannot_have() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.clone_of_template(&[]);
    // To 10 ms (proc_uptime(5)), and by the clock that never stops.
    let read = || {
        let before = Instant::now();
        let text = sandbox.ok("cat /proc/uptime; python3 -c 'import time; print(time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))'");
        let seconds: Vec<f64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        (before, [seconds[0], seconds[2], seconds[3]], Instant::now())
    };
    let first = read();
    // Timers that were set before the machine was saved, or are set now, fire when they should.
    let slept: f64 = sandbox
        .ok("python3 -c 'import time; a = time.monotonic(); time.sleep(0.5); print(time.monotonic() - a)'")
        .trim()
        .parse()
        .unwrap();
    assert!((0.5..30.0).contains(&slept), "{slept}");
    let second = read();
    let (least, most) =
        (second.0.duration_since(first.2).as_secs_f64(), second.2.duration_since(first.0).as_secs_f64());
    for (clock, (before, after)) in first.1.iter().zip(second.1).enumerate() {
        let passed = after - before;
        assert!((least - 0.02..most + 0.02).contains(&passed), "clock {clock}: {passed} s, not {least} to {most} s");
        // It counts on from where it was saved, a boot and a start of some programs after its beginning.
        assert!(*before > 0.0 && *before < DEADLINE.as_secs_f64(), "clock {clock}: {before}");
    }
}

/// Puts the guest's clock wrong, stops the VMM and has it go on; the clock has to be right in time.
fn stand_still(host: &Host, sandbox: &Sandbox<'_>, duration: Duration) {
    let vmm = sandbox.pid("vmm_pid");
    let mut stream = port(host, sandbox, 5000);
    // A machine that is emulated does not fall behind when its VMM stands still, so that nothing
    // would have to be set right: only a clock that is wrong tells a correction from none.
    let set = sandbox.root_sh("date -s '2001-01-01 00:00:00' >/dev/null");
    assert_eq!(set.code, 0, "{set:?}");
    let wrong = Reading::take(&mut stream);
    assert!(wrong.is_surely_wrong(), "set right before it could be found wrong: {wrong:?}");
    kill(vmm, Signal::STOP);
    std::thread::sleep(duration);
    kill(vmm, Signal::CONT);
    let continued = Instant::now();
    let late = loop {
        let begun = continued.elapsed();
        let reading = Reading::take(&mut stream);
        if reading.is_surely_right() {
            break begun;
        }
        // One that came back after the time was over, and is still wrong, was asked in time.
        assert!(begun < PROMISED || !reading.is_surely_wrong(), "wrong {begun:?} after it went on: {reading:?}");
        assert!(begun < DEADLINE, "no reading tells: {reading:?}");
    };
    eprintln!("found right {late:?} after it went on");
}

#[test]
fn a_clock_that_is_wrong_after_a_standstill_is_set_right_within_a_second() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.clone_of_template(&[]);
    stand_still(&host, &sandbox, Duration::from_secs(60));
    // Once a minute the monitor asks anyway, so the first time may have been that. This is too soon.
    stand_still(&host, &sandbox, Duration::from_secs(3));
    sandbox.ok("true");
}

/// What the monitor answers to a command, up to the end of the connection.
fn command(host: &Host, sandbox: &Sandbox<'_>, line: &str) -> String {
    let mut stream = connect(host, sandbox);
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_machine_that_was_paused_goes_on_with_its_clock_set_right() {
    let Some(host) = Host::ordinary() else { return };
    let sandbox = host.sandbox(&[]);
    let set = sandbox.root_sh("date -s '2001-01-01 00:00:00'");
    assert_eq!(set.code, 0, "{set:?}");
    for _ in 0..2 {
        assert_eq!(command(&host, &sandbox, "PAUSE\n"), "OK\n", "also of one that stands still");
    }
    assert_eq!(sandbox.record()["state"], "paused");
    let refused = command(&host, &sandbox, "CONNECT 5000\n");
    assert!(refused.starts_with("ERR ") && refused.contains("paused"), "{refused}");
    for _ in 0..2 {
        assert_eq!(command(&host, &sandbox, "RESUME\n"), "OK\n", "also of one that goes on");
    }
    assert_right(&host, &sandbox, "after it was paused");
    assert_eq!(sandbox.record()["state"], "running");
    sandbox.ok("true");
    // Nothing is lost of one that stands still: it goes on to flush what it has.
    sandbox.ok("echo kept > kept");
    assert_eq!(command(&host, &sandbox, "PAUSE\n"), "OK\n");
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| command(&host, &sandbox, "WAIT\n"));
        assert_eq!(host.run(&["stop", "fixture"]).code, 0);
        waiting.join().unwrap()
    });
    assert_eq!(waiting, "OK\n");
    sandbox.wait();
    assert_eq!(std::fs::read_to_string(host.project().join("kept")).unwrap(), "kept\n");
    host.assert_nothing_is_left();
}
