//! The network as a user has it: what is allowed works for any program, what is not fails at once and says why.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{DEADLINE, Host, finish, until};
use crate::upstream::Upstream;

/// A host on which `upstream.test` is its own loopback interface, and `other.test`, too.
pub fn host_with_names() -> Option<Host> {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "the tests of names need root");
        eprintln!("SKIPPED: the tests of names need root");
        return None;
    }
    let names = [("upstream.test", "127.0.0.1"), ("other.test", "127.0.0.1"), ("a.sub.test", "127.0.0.1")];
    Some(Host::new()?.with_names(&names))
}

/// How long a refusal may take. The guest's clock has what the host's load does to it.
const AT_ONCE: Duration = Duration::from_secs(20);

#[test]
fn what_is_allowed_works_for_any_program() {
    let Some(host) = host_with_names() else { return };
    let (web, echo, greeter) = (Upstream::web(), Upstream::echo(), Upstream::greeter());
    let loopback = "127.0.0.0/8";
    let sandbox = host.sandbox(&["--allow", "upstream.test", "--allow", "*.sub.test", "--allow", loopback]);
    let (web_port, echo_port, greeter_port) = (web.port(), echo.port(), greeter.port());

    // By name without a proxy, through the proxy by its variable, through a CONNECT of it.
    assert_eq!(sandbox.ok(&format!("curl -sS --noproxy '*' http://upstream.test:{web_port}/")), "hello");
    assert_eq!(sandbox.ok(&format!("curl -sS http://upstream.test:{web_port}/")), "hello");
    assert_eq!(sandbox.ok(&format!("curl -sS --proxytunnel http://a.sub.test:{web_port}/")), "hello");
    assert_eq!(sandbox.root_sh(&format!("curl -sS http://upstream.test:{web_port}/")).stdout, "hello");
    // IPv4 and IPv6 alike, both ways at once, with half of it closed first.
    let script = |family: &str| {
        format!(
            "python3 -c \"
import socket
[info] = socket.getaddrinfo('upstream.test', {echo_port}, socket.{family}, socket.SOCK_STREAM)
s = socket.socket(info[0]); s.connect(info[4])
s.sendall(b'one\\n' + b'x' * 100000); s.shutdown(socket.SHUT_WR)
got = b''
while piece := s.recv(65536): got += piece
print(len(got), got[:4])\""
        )
    };
    for family in ["AF_INET", "AF_INET6"] {
        assert_eq!(sandbox.ok(&script(family)), "100004 b'one\\n'\n", "{family}");
    }
    // A server that speaks first is not kept waiting for its client.
    let greeting = format!(
        "python3 -c \"
import socket
s = socket.create_connection(('upstream.test', {greeter_port})); print(s.recv(100))\""
    );
    assert_eq!(sandbox.ok(&greeting), "b'220 greetings\\r\\n'\n");
    // Megabytes, whole.
    let bytes = format!("curl -sS --noproxy '*' http://upstream.test:{web_port}/bytes/5000000 | sha256sum");
    let zeros = sandbox.ok("head -c 5000000 /dev/zero | sha256sum");
    assert_eq!(sandbox.ok(&bytes), zeros);

    let log = host.run(&["net", "log", "fixture", "--json"]);
    let events: Vec<Value> = log.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let connected = |via: &str| {
        events.iter().any(|event| {
            event["event"] == "connected"
                && event["via"] == via
                && event["port"] == web_port
                && event["rule"] == "upstream.test"
        })
    };
    assert!(connected("tcp") && connected("proxy"), "{events:?}");
    assert!(host.run(&["net", "log", "fixture"]).stdout.contains("connected  upstream.test:"), "for people, too");
}

#[test]
fn what_is_not_allowed_fails_at_once_and_says_why() {
    let Some(host) = host_with_names() else { return };
    let web = Upstream::web();
    let port = web.port();
    let rule = format!("upstream.test:{port}");
    let sandbox = host.sandbox(&["--allow", &rule, "--allow", "127.0.0.0/8", "--deny", "denied.test"]);

    let began = Instant::now();
    // The proxy says it in words that a program can read.
    let answer = sandbox.ok(&format!("curl -sS -w '\\n%{{http_code}}' http://other.test:{port}/"));
    let (body, code) = answer.rsplit_once('\n').unwrap();
    assert_eq!(code, "403");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["host"], "other.test");
    assert_eq!(body["rule"], "default");
    assert!(body["allow"].as_str().unwrap().contains(&format!("other.test:{port}")), "{body}");
    // Names that are not allowed, and names that are none, do not exist.
    for name in ["other.test", "denied.test", "nowhere.invalid"] {
        let ran = sandbox.sh(&format!("getent ahosts {name}; echo $?"));
        assert_eq!(ran.stdout, "2\n", "{name}: {ran:?}");
    }
    // Another port of an allowed name is reset.
    let ran = sandbox.sh("curl -sS --noproxy '*' http://upstream.test:9/");
    assert!(ran.code != 0 && ran.stderr.contains("reset"), "{ran:?}");
    // UDP and other protocols have no way out.
    let udp = sandbox.ok("python3 -c \"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.77', 123)); s.send(b'x'); s.settimeout(30)
try: s.recv(10)
except OSError as error: print(type(error).__name__)\"");
    assert_eq!(udp, "ConnectionRefusedError\n");
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(web.accepted(), 0, "{:?}", web.lines());

    let denied = host.run(&["net", "denied", "fixture"]);
    assert_eq!(denied.code, 0, "{denied:?}");
    assert!(denied.stdout.contains("[run]\nallow = [\n") && denied.stdout.contains("\"other.test"), "{denied:?}");
    let denied = host.run(&["net", "denied", "fixture", "--json"]);
    let denied: Value = serde_json::from_str(&denied.stdout).unwrap();
    assert!(denied.as_array().unwrap().iter().any(|refusal| refusal["allow"] == "upstream.test:9"), "{denied}");
}

#[test]
fn without_a_network_nothing_is_reached_and_nothing_hangs() {
    let Some(host) = Host::ordinary() else { return };
    let sandbox = host.sandbox(&["--net", "none"]);
    assert_eq!(sandbox.record()["network"], "none");
    assert_eq!(sandbox.ok("ls /sys/class/net"), "lo\n");
    let ran = sandbox.sh("getent ahosts example.com; echo $?; env | grep -i proxy");
    assert_eq!(ran.stdout, "2\n", "{ran:?}");
    let connect = "python3 -c \"
import socket
for address in ('192.0.2.1', '10.0.0.1'):
    try: socket.create_connection((address, 80), 30)
    except OSError as error: print(error.strerror)\"";
    assert_eq!(sandbox.ok(connect), "Network is unreachable\nNetwork is unreachable\n");
}

#[test]
fn the_default_allows_nothing_and_has_no_device() {
    let Some(host) = Host::ordinary() else { return };
    let ran = host.run(&[
        "run",
        "--json",
        "--",
        "sh",
        "-c",
        "ls /sys/class/net; getent ahosts example.com; curl -sS -o /dev/null -w '%{http_code}\\n' http://example.com/",
    ]);
    assert!(ran.stdout.starts_with("lo\n") && ran.stdout.ends_with("403\n"), "{ran:?}");
    let denied = ran.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let denied: Vec<Value> = denied.filter(|event| event["event"] == "denied").collect();
    assert!(denied.iter().any(|event| event["host"] == "example.com" && event["allow"].is_string()), "{ran:?}");
}

#[test]
fn a_policy_is_learnt_and_then_suffices() {
    let Some(host) = host_with_names() else { return };
    // Public, as far as an address can say: the discard-only block of RFC 6666 is IPv6's, so a name of the
    // host's own is allowed by its address.
    let web = Upstream::web();
    let port = web.port();
    let url = format!("http://upstream.test:{port}/");
    let learnt = host.run(&["net", "learn", "--allow", "127.0.0.0/8", "--", "curl", "-sS", &url]);
    assert_eq!(learnt.code, 0, "{learnt:?}");
    let policy = learnt.stdout.strip_prefix("hello").unwrap_or_else(|| panic!("{learnt:?}"));
    assert!(policy.contains(&format!("\"upstream.test:{port}\"")), "{policy}");

    host.write("viv.toml", policy);
    let untrusted = host.run(&[
        "run",
        "--allow",
        "127.0.0.0/8",
        "--",
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ]);
    assert_eq!(untrusted.stdout, "403", "{untrusted:?}");
    assert!(untrusted.stderr.contains("viv net trust"), "{untrusted:?}");
    assert_eq!(host.run(&["net", "trust"]).code, 0);
    let trusted = host.run(&["run", "--allow", "127.0.0.0/8", "--", "curl", "-sS", &url]);
    assert_eq!((trusted.code, trusted.stdout.as_str()), (0, "hello"), "{trusted:?}");
}

#[test]
fn ports_are_shown_where_they_were_asked_for() {
    let Some(host) = Host::ordinary() else { return };
    let sandbox = host.sandbox(&["--net", "none", "--publish", "0:8080", "--localhost-port", "0"]);
    let published = sandbox.record()["published"].clone();
    let address: SocketAddr = published[0]["address"].as_str().unwrap().parse().unwrap();
    assert!(address.ip().is_loopback() && published[0]["guest_port"] == 8080, "{published}");
    // Nothing listens inside: the connection ends, and does not hang.
    assert_eq!(get(address, "x"), "");
    let mut server = host
        .viv(&["exec", "fixture", "--", "python3", "-u", "-m", "http.server", "8080", "--bind", "127.0.0.1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the server inside answers", || get(address, "x").starts_with("HTTP/1.0 200"));
    // Another way to it while it runs.
    let shown = host.run(&["port", "fixture", "0:8080"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(get(shown.stdout.trim().parse().unwrap(), "x").starts_with("HTTP/1.0 200"));
    let listed = host.run(&["port", "fixture"]);
    assert_eq!(listed.stdout.lines().count(), 2, "{listed:?}");
    // A port that is taken is refused by name.
    let taken = host.run(&["port", "fixture", &format!("{}:8080", address.port())]);
    assert!(taken.code == 125 && taken.stderr.contains("cannot be shown"), "{taken:?}");
    drop(sandbox);
    let _ = server.wait();
    assert!(TcpStream::connect(address).is_err(), "it goes with the sandbox");
}

#[test]
fn named_sandboxes_share_one_address() {
    let Some(host) = Host::ordinary() else { return };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = free.port().to_string();
    let sandbox = host.sandbox(&["--net", "none", "--localhost-port", &port, "--publish", "0:8080"]);
    let mut servers: Vec<_> = ["8080", "8081"]
        .map(|port| {
            let script = format!("mkdir -p /tmp/{port}; cd /tmp/{port}; echo port {port} > index.html; exec python3 -m http.server {port}");
            host.viv(&["exec", "fixture", "--", "sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .into();
    until("the first server answers", || get(free, "fixture.localhost").ends_with("port 8080\n"));
    until("the second server answers", || get(free, "8081.fixture.localhost").ends_with("port 8081\n"));
    assert!(get(free, "nobody.localhost").contains("no running sandbox is called nobody"));
    assert!(get(free, "127.0.0.1").starts_with("HTTP/1.1 502"), "another site's page cannot point here");
    // A connection that goes on both ways, as a WebSocket does.
    let script = "python3 -c \"
import socket
l = socket.socket(); l.bind(('127.0.0.1', 8082)); l.listen(); s, _ = l.accept()
s.recv(4096); s.sendall(b'HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n')
while piece := s.recv(100): s.sendall(piece.upper())\"";
    let mut socket = host.viv(&["exec", "fixture", "--", "sh", "-c", script]).spawn().unwrap();
    let mut stream = None;
    until("it switches", || {
        let mut opened = TcpStream::connect(free).unwrap();
        opened.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = opened.write_all(b"GET / HTTP/1.1\r\nHost: 8082.fixture.localhost\r\nUpgrade: websocket\r\n\r\n");
        let mut answer = [0; 12];
        let switched = opened.read_exact(&mut answer).is_ok() && &answer == b"HTTP/1.1 101";
        stream = switched.then_some(opened);
        switched
    });
    let mut stream = stream.unwrap();
    let mut rest = [0; 24];
    stream.read_exact(&mut rest).unwrap();
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).unwrap();
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, word.to_uppercase().as_bytes());
    }
    drop(stream);
    drop(sandbox);
    let _ = socket.wait();
    servers.iter_mut().for_each(|server| drop(server.wait()));
}

/// What a server answers to a request for /.
fn get(address: SocketAddr, host: &str) -> String {
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut answer);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn secrets_are_the_users_alone_and_in_memory() {
    let Some(host) = Host::ordinary() else { return };
    let secret = crate::isolation::canary();
    let path = host.path("home/token");
    std::fs::write(&path, &secret).unwrap();
    host.own(&path);
    let source = format!("FILE=file:{}", path.display());
    let mut run = host.viv(&[
        "run", "--net", "none", "--secret", &source, "--secret", "PLAIN", "--secret-env", "BOTH=command:printenv PLAIN", "--",
        "sh", "-c",
        "cat /run/secrets/FILE /run/secrets/PLAIN; echo $BOTH; stat -c '%a %U' /run/secrets/FILE; findmnt -no FSTYPE -T /run/secrets; env | grep -c PLAIN; sudo -u nobody cat /run/secrets/FILE",
    ]);
    run.env("PLAIN", &secret).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = finish(run.spawn().unwrap());
    assert_eq!(ran.stdout, format!("{secret}{secret}{secret}\n400 agent\ntmpfs\n0\n"), "{ran:?}");
    let missing = host.run(&["run", "--secret", "NO_SUCH_VARIABLE", "--", "true"]);
    assert!(missing.code == 125 && missing.stderr.contains("NO_SUCH_VARIABLE is not set"), "{missing:?}");
}

#[test]
fn a_deploy_key_never_leaves() {
    let Some(host) = Host::ordinary() else { return };
    let ran = host.run(&[
        "run",
        "--deploy-key",
        "--",
        "sh",
        "-c",
        "ssh -G example.com | grep -i identityfile; ls /run/secrets",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let line = ran.stderr.lines().find(|line| line.contains("deploy key: ")).unwrap_or_else(|| panic!("{ran:?}"));
    assert!(line.contains("deploy key: ssh-ed25519 AAAA"), "{line}");
    assert!(ran.stdout.contains("identityfile /run/"), "ssh finds it: {ran:?}");
}
