//! The network as an attacker has it, who is root inside: each promise of the threat model, attacked.

use std::time::Duration;

use serde_json::Value;

use crate::network::host_with_names;
use crate::support::Host;
use crate::upstream::Upstream;

/// Memory of a process, in KiB.
fn resident(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// The sandbox's monitor and its egress.
fn monitor_and_egress(host: &Host, monitor: u32) -> Vec<u64> {
    let egress = host.processes().into_iter().filter(|(_, line)| line.contains("internal-egress"));
    std::iter::once(u64::from(monitor)).chain(egress.map(|(pid, _)| u64::from(pid))).collect()
}

#[test]
fn nothing_that_is_not_allowed_is_reached() {
    let Some(host) = host_with_names() else { return };
    let (allowed, hidden) = (Upstream::web(), Upstream::web());
    let port = hidden.port();
    // Both are on the host's loopback interface; one of them is allowed, by name and address.
    let rule = format!("127.0.0.1/32:{}", allowed.port());
    let name = format!("upstream.test:{}", allowed.port());
    let sandbox = host.sandbox(&["--allow", &name, "--allow", &rule, "--allow", "rebound.test,*.sub.test"]);
    assert_eq!(sandbox.ok(&format!("curl -sS http://upstream.test:{}/", allowed.port())), "hello");

    let own = own_address();
    let attacks = [
        // Raw sockets, and packets of one's own making.
        "python3 -c \"
import socket, struct
for family, kind, protocol in ((socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP), (socket.AF_PACKET, socket.SOCK_RAW, 3)):
    try:
        s = socket.socket(family, kind, protocol)
        s.sendto(b'x' * 64, ('127.0.0.1', 0) if family == socket.AF_INET else ('lo', 0x0800))
    except OSError as error: print(error)\""
            .to_owned(),
        // The host by its addresses.
        format!("curl -sS --max-time 20 --noproxy '*' http://{own}:{port}/"),
        format!("curl -sS --max-time 20 http://{own}:{port}/"),
        format!("curl -sS --max-time 20 --proxytunnel http://127.0.0.1:{port}/"),
        format!("curl -sS --max-time 20 --proxytunnel 'http://[::ffff:127.0.0.1]:{port}/'"),
        format!("curl -sS --max-time 20 --proxytunnel http://2130706433:{port}/ http://0x7f.1:{port}/ http://0:{port}/"),
        "curl -sS --max-time 20 http://169.254.169.254/latest/meta-data/".to_owned(),
        // Names that lead to it.
        format!("curl -sS --max-time 20 http://a.sub.test:{port}/; curl -sS --max-time 20 --noproxy '*' http://a.sub.test:{port}/"),
        format!("curl -sS --max-time 20 http://upstream.test.:{port}/ http://UPSTREAM.test:{port}/ http://localhost:{port}/"),
        // Another host in the request than in the line, and the proxy through itself.
        format!("curl -sS --max-time 20 -H 'Host: x' http://upstream.test:{port}/"),
        "curl -sS --max-time 20 -x http://127.0.0.1:3128 --proxytunnel http://127.0.0.1:3128/; curl -sS --max-time 20 http://127.0.0.1:3128/".to_owned(),
        format!("curl -sS --max-time 20 --preproxy http://127.0.0.1:3128 -x http://127.0.0.1:3128 http://127.0.0.1:{port}/"),
        "python3 -c \"
import socket
s = socket.create_connection(('127.0.0.1', 3128), 20); s.sendall(b'CONNECT upstream.test:25 HTTP/1.1\\r\\n\\r\\n'); print(s.recv(100))\"".to_owned(),
        // The routes, the listeners and the guest's agent, taken over.
        format!("ip route flush table all; ip addr flush dev lo; ip addr add 127.0.0.1/8 dev lo; ip route add default dev lo; curl -sS --max-time 20 http://{own}:{port}/"),
    ];
    for attack in &attacks {
        let ran = sandbox.root_sh(attack);
        assert!(!ran.stdout.contains("hello"), "{attack}: {ran:?}");
        assert_eq!(hidden.accepted(), 0, "{attack}: {ran:?} {:?}", hidden.lines());
    }
}

/// An address of the host that is not the loopback interface's.
fn own_address() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Chooses a route and sends nothing.
    match socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()) {
        Ok(address) => address.ip().to_string(),
        Err(_) => "127.0.0.2".to_owned(),
    }
}

#[test]
fn a_name_that_leads_to_the_host_is_refused_with_the_reason() {
    let Some(host) = host_with_names() else { return };
    let hidden = Upstream::web();
    let sandbox = host.sandbox(&["--allow", "upstream.test"]);
    let ran = sandbox.sh(&format!("curl -sS http://upstream.test:{}/", hidden.port()));
    let body: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    assert!(body["reason"].as_str().unwrap().contains("127.0.0.1"), "{body}");
    assert_eq!(hidden.accepted(), 0);
}

#[test]
fn a_lying_server_name_never_leaves() {
    let Some(host) = host_with_names() else { return };
    let upstream = Upstream::recorder();
    let port = upstream.port();
    let sandbox = host.sandbox(&["--allow", "upstream.test", "--allow", "127.0.0.0/8"]);
    let hello = |name: &str, how: &str| {
        format!(
            "python3 -c \"
import ssl, socket
s = {how}
c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
try: c.wrap_socket(s, server_hostname='{name}')
except OSError as error: print(type(error).__name__, error)\""
        )
    };
    let direct = format!("socket.create_connection(('upstream.test', {port}))");
    let tunnel = format!(
        "socket.create_connection(('127.0.0.1', 3128)); s.sendall(b'CONNECT upstream.test:{port} HTTP/1.1\\r\\nHost: upstream.test:{port}\\r\\n\\r\\n'); s.recv(1000)"
    );
    for way in [&direct, &tunnel] {
        let before = upstream.lines().len();
        let ran = sandbox.root_sh(&hello("evil.test", way));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(upstream.lines()[before..].iter().all(|line| !line.contains("evil")), "{:?}", upstream.lines());
        // The same with the right name reaches the server, which then hangs up.
        let ran = sandbox.root_sh(&hello("upstream.test", way));
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    crate::support::until("the honest hello arrives", || upstream.lines().iter().any(|line| line.contains("upstream")));
    assert!(upstream.lines().iter().all(|line| !line.contains("evil")), "{:?}", upstream.lines());
    let denied = host.run(&["net", "denied", "fixture", "--json"]).stdout;
    assert!(denied.contains("evil.test"), "{denied}");
}

#[test]
fn floods_and_giants_are_bounded() {
    let Some(host) = host_with_names() else { return };
    let web = Upstream::web();
    let port = web.port();
    let sandbox = host.sandbox(&["--allow", "upstream.test", "--allow", "127.0.0.0/8"]);
    assert_eq!(sandbox.ok(&format!("curl -sS http://upstream.test:{port}/")), "hello");
    let processes = monitor_and_egress(&host, sandbox.pid("monitor_pid"));
    assert_eq!(processes.len(), 2, "{processes:?}");
    let flood = format!(
        "python3 -c \"
import socket, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
held, failed = [], 0
for number in range(10000):
    s = socket.socket(); s.setblocking(False)
    try: s.connect(('198.18.0.2' if number % 2 else '203.0.113.7', {port}))
    except BlockingIOError: pass
    except OSError: failed += 1
    held.append(s)
print(len(held))\""
    );
    assert_eq!(sandbox.root_sh(&flood).stdout, "10000\n");
    // What is left of the flood takes the places of others until the last of it is reset.
    crate::support::until("the proxy answers again", || {
        sandbox.sh(&format!("curl -sS http://upstream.test:{port}/")).stdout == "hello"
    });
    // A request whose head does not end, and one that comes byte by byte.
    let giant = "python3 -c \"
import select, socket
sent = 0
s = socket.create_connection(('127.0.0.1', 3128)); s.sendall(b'GET http://upstream.test/ HTTP/1.1\\r\\nX: ')
try:
    while sent < 1 << 30 and not select.select([s], [], [], 0)[0]: sent += s.send(b'x' * 65536)
    print(s.recv(12))
except OSError as error: print('refused')\"";
    let slow = "python3 -c \"
import socket, time
held = []
for _ in range(200):
    s = socket.create_connection(('127.0.0.1', 3128)); s.sendall(b'GET http://upstream.test/ HTTP/1.1\\r\\nX:'); held.append(s)
print(held[0].recv(1000)[:12])\"";
    let ran = sandbox.root_sh(giant);
    assert!(["b'HTTP/1.1 431'\n", "refused\n"].contains(&ran.stdout.as_str()), "{ran:?}");
    let ran = sandbox.root_sh(slow);
    assert!(ran.code == 0 && (ran.stdout.contains("HTTP/1.1 408") || ran.stdout.contains("b''")), "{ran:?}");
    for pid in processes {
        assert!(resident(pid) < 200 * 1024, "{pid} takes {} KiB", resident(pid));
    }
    assert_eq!(sandbox.ok(&format!("curl -sS --retry 5 --retry-all-errors http://upstream.test:{port}/")), "hello");
}

#[test]
fn an_egress_that_is_killed_comes_back() {
    let Some(host) = host_with_names() else { return };
    let web = Upstream::web();
    let url = format!("http://upstream.test:{}/", web.port());
    let sandbox = host.sandbox(&["--allow", "upstream.test", "--allow", "127.0.0.0/8"]);
    let egress = || host.processes().into_iter().find(|(_, line)| line.contains("internal-egress")).map(|(pid, _)| pid);
    assert_eq!(egress(), None, "there is none before it is needed");
    for _ in 0..3 {
        assert_eq!(sandbox.ok(&format!("curl -sS --retry 5 --retry-all-errors --retry-delay 1 {url}")), "hello");
        let pid = egress().expect("it runs");
        crate::support::kill(pid, rustix::process::Signal::KILL);
        crate::support::until("it is gone", || egress() != Some(pid));
    }
    assert_eq!(sandbox.ok(&format!("curl -sS --retry 5 --retry-all-errors --retry-delay 1 {url}")), "hello");
    let started = std::time::Instant::now();
    drop(sandbox);
    host.assert_nothing_is_left();
    assert!(started.elapsed() < Duration::from_secs(120));
}
