//! Network namespaces for tests, made with `ip netns` and gone with their owner.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Ten times what any wait of these tests takes.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Whether the host lets these tests run; says so loudly if not, and is an error where all tests have to.
pub fn possible(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| viv_net::device::find_program(program).is_err());
    let reason = match missing {
        Some(program) => format!("{program} is not installed"),
        None if !rustix::process::geteuid().is_root() => "this is not root".to_owned(),
        None => return true,
    };
    assert!(std::env::var_os("CI").is_none(), "SKIPPED, which CI may not: {reason}");
    eprintln!("SKIPPED: {reason}");
    false
}

/// A network namespace.
pub struct Netns(String);

impl Netns {
    pub fn new(label: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("viv-test-{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        let netns = Self(name);
        netns.ip("link set dev lo up");
        netns
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) -> String {
        let arguments: Vec<&str> = ["-n", &self.0].into_iter().chain(arguments.split(' ')).collect();
        run("ip", &arguments)
    }

    /// Does something inside, in a thread of its own.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves this thread inside.
    pub fn enter(&self) {
        let file = File::open(format!("/run/netns/{}", self.0)).expect("the namespace is there");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs a program to its end and returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let program = viv_net::device::find_program(program).expect("looked for before");
    let output = Command::new(&program).args(arguments).output().expect("it can be run");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {}: {words}", program.display(), arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two namespaces with a cable between them: a host, whose default routes lead to a server, which
/// knows no way to anything behind the host.
pub fn host_and_server() -> (Netns, Netns) {
    let (host, server) = (Netns::new("host"), Netns::new("server"));
    host.ip(&format!("link add up0 type veth peer name eth0 netns {}", server.name()));
    host.ip("address add 203.0.113.2/24 dev up0");
    host.ip("address add 2001:db8:113::2/64 dev up0 nodad");
    host.ip("link set dev up0 up");
    server.ip("address add 203.0.113.1/24 dev eth0");
    server.ip("address add 2001:db8:113::1/64 dev eth0 nodad");
    server.ip("link set dev eth0 up");
    host.ip("route add default via 203.0.113.1");
    host.ip("-6 route add default via 2001:db8:113::1");
    // Neighbours find each other over IPv6 only once their link-local addresses are no longer tentative,
    // and passt of 2023 loses a connection that takes its time.
    for address in ["203.0.113.1", "2001:db8:113::1"] {
        let listener = server.within(|| TcpListener::bind((address, 0)).expect("the server has the address"));
        let to = listener.local_addr().expect("it listens");
        host.within(|| TcpStream::connect_timeout(&to, DEADLINE)).expect("the cable works");
    }
    (host, server)
}
