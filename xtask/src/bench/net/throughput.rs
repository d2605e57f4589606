//! How fast bytes go through the egress, against the link without it, in one running sandbox.
//!
//! The raw link is a published port: the same carrier, the same kind of stream, copied by the same
//! processes, viv-guest and monitor, to a TCP connection of the same program inside. What it lacks is
//! what the egress adds: policy, the bounded copy that counts, one more process and socket on the way, and
//! the capture of a connection to everywhere. So it is neither flattered by work that is left out (a
//! benchmark program inside has to be fed by a socket either way) nor slowed down by what exec adds of
//! its own: frames, pipes, and a client.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::wire::{Direction, Wire, carry};
use crate::bench::figures::{Figure, median};
use crate::bench::sandbox::Running;
use crate::{command, processes, workspace};

/// Of the raw link's throughput, the egress has at least this.
const GOAL: f64 = 0.7;

/// Bytes of one measurement, all connections together.
const BYTES: u64 = 64 * 1024 * 1024;

/// Connections at once.
const MANY: usize = 50;

/// The peer's port inside.
const INSIDE: u16 = 7000;

/// Connections of which the monitor's memory is looked at.
const HELD: usize = 1000;

/// What is compared: direction, connections at once, the figures' names without and with the proxy.
const NAMES: [(Direction, usize, [&str; 2]); 4] = [
    (Direction::IntoGuest, 1, ["egress: download, 1 connection", "egress: download, 1, by the proxy"]),
    (Direction::OutOfGuest, 1, ["egress: upload, 1 connection", "egress: upload, 1, by the proxy"]),
    (Direction::IntoGuest, MANY, ["egress: download, 50 connections", "egress: download, 50, by the proxy"]),
    (Direction::OutOfGuest, MANY, ["egress: upload, 50 connections", "egress: upload, 50, by the proxy"]),
];

const EXEC_NAMES: [(Direction, &str); 2] = [
    (Direction::IntoGuest, "for information: viv exec, input"),
    (Direction::OutOfGuest, "for information: viv exec, output"),
];

/// The ways, in the order of a sandbox's wires: the raw link first.
const WAYS: usize = 3;

/// A peer inside, ended when this is dropped.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures, in a sandbox of its own.
pub fn measure(viv: &Path, directory: &Path, runs: u32) -> Result<Vec<Figure>> {
    build_peer(directory)?;
    let address = own_address()?;
    let listener = TcpListener::bind((address, 0))?;
    let target = listener.local_addr()?;
    let published = free_port()?;
    let length = if address.is_ipv4() { 32 } else { 128 };
    let allow = format!("{address}/{length}:{}", target.port());
    let publish = format!("{published}:{INSIDE}");
    let sandbox = Running::start(viv, directory, &["--allow", &allow, "--publish", &publish])?;

    let peer = |arguments: &[&str]| {
        let mut program = vec!["/workspace/net-peer"];
        program.extend(arguments);
        sandbox.exec(&program)
    };
    let start = |arguments: &[&str]| -> Result<Peer> {
        let mut command = peer(arguments);
        command.stdin(Stdio::piped());
        Ok(Peer(command.spawn().with_context(|| format!("cannot run {}", command::display(&command)))?))
    };
    let accept = |count| (0..count).map(|_| Wire::accept(&listener)).collect::<Result<Vec<Wire>>>();

    let (target, count) = (target.to_string(), MANY.to_string());
    let _connected = start(&["connect", &target, &count])?;
    let transparent = accept(MANY)?;
    let _through_proxy = start(&["proxy", &target, &count])?;
    let by_proxy = accept(MANY)?;
    let _listening = start(&["listen", &INSIDE.to_string()])?;
    let raw = raw_wires(published)?;
    let (by_exec, exec) = Wire::spawn(&mut peer(&["stdio"]))?;
    let exec = Peer(exec);

    let mut figures = in_turns(&mut [raw, transparent, by_proxy], runs)?;
    figures.extend(by_itself(&mut [by_exec], runs)?);
    drop(exec);

    eprintln!("{HELD} connections from inside");
    let held = start(&["connect", &target, &(HELD - 2 * MANY).to_string()])?;
    let _wires = accept(HELD - 2 * MANY)?;
    let [_, monitor, ..] = sandbox.processes()?;
    let kibibytes = processes::memory_kib(monitor)?;
    figures.push(Figure::plain("for information: monitor, 1,000 connections", kibibytes as f64 / 1024.0, "MiB"));
    drop(held);
    sandbox.stop()?;
    Ok(figures)
}

/// All ways one after the other, again and again, another one first each time.
fn in_turns(ways: &mut [Vec<Wire>; WAYS], runs: u32) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (direction, count, names) in NAMES {
        let mut times: [Vec<Duration>; WAYS] = [const { Vec::new() }; WAYS];
        // The first round has code translated, windows and caches grown, and does not count.
        for run in 0..=runs as usize {
            eprintln!("{}: run {run} of {runs}", names[0]);
            for turn in 0..WAYS {
                let way = (run + turn) % WAYS;
                let time = carry(&mut ways[way][..count], direction, BYTES)?;
                if run > 0 {
                    times[way].push(time);
                }
            }
        }
        let [raw, transparent, proxy] = times.map(|mut times| rate(median(&mut times)));
        for (name, rate) in names.into_iter().zip([transparent, proxy]) {
            figures.push(Figure::at_least(name, rate, raw, "MiB/s", GOAL));
        }
    }
    Ok(figures)
}

fn by_itself(wires: &mut [Wire], runs: u32) -> Result<Vec<Figure>> {
    EXEC_NAMES
        .into_iter()
        .map(|(direction, name)| {
            carry(wires, direction, BYTES)?;
            let times = (0..runs).map(|_| carry(wires, direction, BYTES));
            Ok(Figure::plain(name, rate(median(&mut times.collect::<Result<Vec<_>>>()?)), "MiB/s"))
        })
        .collect()
}

fn rate(time: Duration) -> f64 {
    BYTES as f64 / (1024.0 * 1024.0) / time.as_secs_f64()
}

/// Connections to the peer that listens; the first one waits until it does.
fn raw_wires(port: u16) -> Result<Vec<Wire>> {
    const ATTEMPTS: u32 = 300;
    let answers = || -> Result<Wire> {
        let mut wire = [Wire::connect(port)?];
        carry(&mut wire, Direction::IntoGuest, 1)?;
        let [wire] = wire;
        Ok(wire)
    };
    let mut wires = Vec::with_capacity(MANY);
    for attempt in 1.. {
        match answers() {
            Ok(wire) => wires.push(wire),
            Err(error) if attempt == ATTEMPTS => return Err(error.context("nothing answers at the published port")),
            Err(_) if wires.is_empty() => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(error),
        }
        if wires.len() == MANY {
            break;
        }
    }
    Ok(wires)
}

/// An address of this host that a guest can connect to: one that is not its own loopback interface's.
fn own_address() -> Result<IpAddr> {
    // Nothing is sent: the kernel is asked which of its addresses it would use (RFC 5737 and RFC 3849 keep
    // these for documentation).
    let towards = |bound: &str, target: &str| -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind(bound)?;
        socket.connect(target)?;
        Ok(socket.local_addr()?.ip())
    };
    towards("0.0.0.0:0", "192.0.2.1:9")
        .or_else(|_| towards("[::]:0", "[2001:db8::1]:9"))
        .context("this host has no address but its loopback interface's")
}

/// A port that is free now. Nobody else is given it soon: the kernel hands out others first.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Compiles the peer into the project: one file, static, without a dependency, so rustc alone will do.
fn build_peer(directory: &Path) -> Result<()> {
    let peer = directory.join("net-peer");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "-C", "opt-level=3", "-C", "strip=symbols"]);
    rustc.args(["-C", "target-feature=+crt-static", "-o"]).arg(&peer);
    rustc.arg(workspace::root().join("xtask/src/bin/net-peer.rs"));
    command::capture(&mut rustc)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_mebibytes_in_a_second() {
        assert!((rate(Duration::from_millis(500)) - 128.0).abs() < f64::EPSILON);
    }
}
