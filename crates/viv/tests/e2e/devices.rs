//! `--net nat` and `--net bridge`: what a sandbox with a device reaches, what it does not, and what root inside
//! can do about it. Everything is in network namespaces: a host, and a server beyond it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use viv_net::device::bridge;

use crate::netns::{Netns, host_and_server, possible, run};
use crate::support::{DEADLINE, Host, kill};

const SERVER: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
const HOST: [&str; 2] = ["203.0.113.2", "2001:db8:113::2"];

/// Why there is no template for a sandbox with a device.
const COLD: &str = "a sandbox with a network device boots";

/// A machine on which viv runs, and one beyond it.
struct World {
    machine: Netns,
    beyond: Netns,
}

impl World {
    fn new() -> Option<Self> {
        if !possible(&["ip", "nft", "passt", "unshare", "setpriv"]) {
            return None;
        }
        let (machine, beyond) = host_and_server();
        Some(Self { machine, beyond })
    }

    /// A host whose name server is beyond it, and knows every name.
    fn equip(&self, host: Host) -> Host {
        let socket = self.beyond.within(|| UdpSocket::bind((SERVER[0], 53)).unwrap());
        std::thread::spawn(move || answer_names(&socket));
        host.write("frames.py", include_str!("frames.py"));
        host.with_file("/etc/resolv.conf", &format!("nameserver {}\n", SERVER[0]))
    }
}

/// Says of every name that its IPv4 address is 198.51.100.7.
fn answer_names(socket: &UdpSocket) {
    const HEADER: usize = 12;
    const A: [u8; 2] = [0, 1];
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let name = buffer[HEADER..length].iter().position(|byte| *byte == 0).unwrap();
        let question = &buffer[HEADER..HEADER + name + 5];
        let known = question[name + 1..name + 3] == A;
        let mut answer = [&buffer[..2], &[0x81, 0x80, 0, 1, 0, u8::from(known), 0, 0, 0, 0], question].concat();
        if known {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7]);
        }
        let _ = socket.send_to(&answer, from);
    }
}

/// A TCP server that tells each client its address, and a socket for datagrams, at all addresses of a namespace.
struct Service {
    tcp: u16,
    accepted: Arc<AtomicUsize>,
    datagrams: UdpSocket,
}

impl Service {
    fn start(netns: &Netns) -> Self {
        let (listener, datagrams) =
            netns.within(|| (TcpListener::bind("[::]:0").unwrap(), UdpSocket::bind("[::]:0").unwrap()));
        datagrams.set_read_timeout(Some(DEADLINE)).unwrap();
        let (tcp, accepted) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&accepted);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                // One that was reset already has no peer.
                if let Ok(peer) = stream.peer_addr() {
                    let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
                }
            }
        });
        Self { tcp, accepted, datagrams }
    }

    fn udp(&self) -> u16 {
        self.datagrams.local_addr().unwrap().port()
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The next datagram's text.
    fn next(&self) -> String {
        let mut buffer = [0; 100];
        let length = self.datagrams.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Whether nobody has come.
    fn is_untouched(&self) -> bool {
        self.datagrams.set_nonblocking(true).unwrap();
        let silent = self.datagrams.recv(&mut [0; 100]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        silent && self.accepted() == 0
    }
}

/// The ports of TCP listeners in a namespace that are not on its loopback interface alone.
fn listeners(netns: &Netns) -> Vec<u16> {
    const LISTEN: &str = "0A";
    const LOOPBACK: [&str; 2] = ["0100007F:", "00000000000000000000000001000000:"];
    let tables = netns.within(|| {
        ["tcp", "tcp6"].map(|name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap())
    });
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let fields = rows.map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let listening =
        fields.filter(|fields| fields[3] == LISTEN && !LOOPBACK.iter().any(|local| fields[1].starts_with(local)));
    listening.map(|fields| u16::from_str_radix(fields[1].rsplit_once(':').unwrap().1, 16).unwrap()).collect()
}

/// The passt that a monitor started. It has no environment, and is known by nothing but its name and parent.
fn passt_of(monitor: u32) -> u32 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_it = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `PID (NAME) STATE PARENT …` (proc_pid_stat(5)); the name may be that of a build for certain processors.
        let rest = stat.split_once(" (passt").and_then(|(_, rest)| rest.split_once(") ")).unwrap_or_default().1;
        let parent = rest.split(' ').nth(1).and_then(|parent| parent.parse().ok());
        parent == Some(monitor)
    };
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(is_it).expect("the monitor has a passt")
}

#[test]
fn nat_reaches_others_and_never_the_host() {
    let Some(world) = World::new() else { return };
    let Some(host) = Host::ordinary() else { return };
    let host = world.equip(host);
    let (server, own) = (Service::start(&world.beyond), Service::start(&world.machine));
    let before = listeners(&world.machine);
    let sandbox = world.machine.within(|| host.sandbox(&["--net", "nat"]));
    assert_eq!(sandbox.record()["network"], "nat");

    // Addresses, routes and name servers.
    assert_eq!(sandbox.ok("ls /sys/class/net"), "eth0\nlo\n");
    let addresses = sandbox.ok("ip -brief address show dev eth0");
    assert!(addresses.contains(" 10.118.105.15/24 ") && addresses.contains(" fd76:6976:6e61::f/64 "), "{addresses}");
    let routes = sandbox.ok("ip route show default; ip -6 route show default");
    assert!(routes.contains("via 10.118.105.2 ") && routes.contains("via fd76:6976:6e61::2 "), "{routes}");
    assert_eq!(sandbox.ok("getent ahostsv4 any.test | head -n 1 | cut -d ' ' -f 1"), "198.51.100.7\n");

    // Others see the host, and nothing new listens there.
    for (address, seen) in SERVER.into_iter().zip(HOST) {
        let asked =
            sandbox.ok(&format!("python3 -c \"from frames import *; print(ask('{address}', {}))\"", server.tcp));
        assert_eq!(asked, format!("{seen}\n"));
    }
    assert_eq!(listeners(&world.machine), before);

    // The host's own addresses, and all that means "here": as programs do it, and frame by frame.
    host.write("attack.py", ATTACK_ON_THE_HOST);
    let attack = format!("python3 attack.py {} {} {} {}", own.tcp, own.udp(), server.tcp, server.udp());
    let accepted = server.accepted();
    let ran = sandbox.root_sh(&attack);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "{ran:?}");
    assert_eq!([server.next(), server.next()], ["control", "control"], "frames made by hand do pass");
    assert!(server.accepted() >= accepted + 2, "and are the beginnings of connections");
    assert!(own.is_untouched());

    // Without passt there is no device any more, and a sandbox that lost it does not go on.
    let passt = passt_of(sandbox.pid("monitor_pid"));
    kill(passt, rustix::process::Signal::KILL);
    let ended = sandbox.wait();
    assert_eq!(ended.code, 125, "{ended:?}");
    assert!(ended.stderr.contains("the sandbox's network device was lost"), "{ended:?}");
    assert!(ended.stderr.contains("passt ended with signal: 9"), "{ended:?}");
    host.assert_nothing_is_left();
}

/// Tries to reach the host; ends with what must pass, which comes after all else.
const ATTACK_ON_THE_HOST: &str = "\
import sys
from frames import *
tcp, udp, servers_tcp, servers_udp = map(int, sys.argv[1:])
for address in ('203.0.113.2', '2001:db8:113::2', '10.118.105.2', 'fd76:6976:6e61::2'):
    how = ask(address, tcp)
    assert how == 'Connection refused', (address, how)
passt = '02:76:69:76:00:02'
own4, own6 = '10.118.105.15', 'fd76:6976:6e61::f'
targets = ['127.0.0.1', '127.9.9.9', '0.0.0.0', '203.0.113.2', '255.255.255.255', '224.0.0.1', '10.118.105.2', '10.118.105.3',
    '::1', '::', '::ffff:127.0.0.1', '::127.0.0.1', '::ffff:203.0.113.2', 'ff02::1', '2001:db8:113::2',
    'fd76:6976:6e61::2', 'fd76:6976:6e61::3']
def try_all(targets, tcp, udp, text):
    for target in targets:
        v6 = ':' in target
        sources = [own6 if v6 else own4, target, '::1' if v6 else '127.0.0.1']
        for source in sources if text != b'control' else sources[:1]:
            send(passt, own(), packet(source, target, UDP, udp, text))
            send(passt, own(), packet(source, target, TCP, tcp))
try_all(targets, tcp, udp, b'attack')
try_all(['203.0.113.1', '2001:db8:113::1'], servers_tcp, servers_udp, b'control')
for address in ('203.0.113.1', '2001:db8:113::1'):
    ask(address, servers_tcp)
print('done')
";

#[test]
fn nat_works_for_root_and_boots() {
    let Some(world) = World::new() else { return };
    let Some(host) = Host::new() else { return };
    let host = world.equip(host);
    let server = Service::start(&world.beyond);
    let script = format!("from frames import *; print(ask('{}', {}))", SERVER[0], server.tcp);
    let arguments = ["run", "--verbose", "--net", "nat", "--", "python3", "-c", &script];
    let ran = world.machine.within(|| host.run(&arguments));
    assert_eq!((ran.code, ran.stdout.trim()), (0, HOST[0]), "{ran:?}");
    assert_eq!(ran.cold_because(), Some(COLD), "{ran:?}");
    host.assert_nothing_is_left();
}

#[test]
fn a_bridge_is_roots_and_has_to_be_there() {
    let Some(world) = World::new() else { return };
    let Some(ordinary) = Host::ordinary() else { return };
    let refused = |host: &Host, arguments: &[&str]| {
        let ran = world.machine.within(|| host.run(arguments));
        assert_eq!(ran.code, 125, "{ran:?}");
        ran.stderr
    };
    let said = refused(&ordinary, &["run", "--net", "bridge", "--", "true"]);
    assert!(said.contains("--net bridge takes root") && said.contains("run it with sudo"), "{said}");
    let said = refused(&ordinary, &["net", "setup", "--uplink", "up0"]);
    assert!(said.contains("viv net setup takes root"), "{said}");
    let Some(root) = Host::new() else { return };
    let said = refused(&root, &["run", "--net", "bridge:other", "--", "true"]);
    assert!(said.contains("there is no bridge other") && said.contains("viv net setup --bridge other"), "{said}");
    let said = refused(&root, &["net", "setup", "--uplink", "none0"]);
    assert!(said.contains("none0"), "{said}");
    // What would be done may be seen by everyone.
    let shown = world.machine.within(|| ordinary.run(&["net", "setup", "--uplink", "up0", "--dry-run"]));
    assert!(shown.code == 0 && shown.stdout.contains("ip link add"), "{shown:?}");
}

/// What `viv net setup` may change.
fn state(machine: &Netns) -> Vec<String> {
    let names = ["net/ipv6/conf/up0/accept_ra", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/up0/forwarding"];
    let mut state: Vec<String> = machine.within(|| {
        let read = |name| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
        names.map(read).into_iter().chain([run("nft", &["list", "ruleset"])]).collect()
    });
    state.push(machine.ip("-brief link show"));
    state
}

#[test]
fn a_bridge_leads_out_and_nowhere_else() {
    let Some(world) = World::new() else { return };
    let Some(host) = Host::new() else { return };
    let host = world.equip(host);
    let viv = |arguments: &[&str]| world.machine.within(|| host.run(arguments));
    let before = state(&world.machine);
    let setup = viv(&["net", "setup", "--subnet6", "fd00:83::/64", "--uplink", "up0"]);
    assert_eq!(setup.code, 0, "{setup:?}");
    let (server, own) = (Service::start(&world.beyond), Service::start(&world.machine));

    let one = world.machine.within(|| host.named_sandbox("one", &["--net", "bridge"]));
    let two = world.machine.within(|| host.named_sandbox("two", &["--net", "bridge"]));
    for (sandbox, name, number) in [(&one, "one", 2), (&two, "two", 3)] {
        assert_eq!(sandbox.record()["network"], "bridge");
        let shown = sandbox.ok("ip -brief address show dev eth0; cat /sys/class/net/eth0/address /etc/resolv.conf");
        let v4 = format!(" 192.168.83.{number}/24 ");
        let v6 = format!(" fd00:83::{number}/64 ");
        let mac = bridge::Sandbox { id: "", name: Some(name) }.mac();
        let names = format!("nameserver {}\n", SERVER[0]);
        for part in [&v4, &v6, &mac, &names] {
            assert!(shown.contains(part.as_str()), "{part} is not in {shown}");
        }
        assert_eq!(sandbox.ok("getent ahostsv4 any.test | head -n 1 | cut -d ' ' -f 1"), "198.51.100.7\n");
        for (address, seen) in SERVER.into_iter().zip(HOST) {
            let script = format!("python3 -c \"from frames import *; print(ask('{address}', {}))\"", server.tcp);
            assert_eq!(sandbox.ok(&script), format!("{seen}\n"));
        }
    }

    // The other one listens to everybody, and tells what it heard once the host says that it is over.
    host.write("listen.py", LISTENER);
    let mut listener =
        host.viv(&["exec", "two", "--", "python3", "-u", "listen.py"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut heard = BufReader::new(listener.stdout.take().unwrap());
    let mut ready = String::new();
    heard.read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    host.write("attack.py", ATTACK_FROM_THE_BRIDGE);
    let other = bridge::Sandbox { id: "", name: Some("two") }.mac();
    let ran =
        one.root_sh(&format!("python3 attack.py {} {} {} {} {other}", own.tcp, own.udp(), server.tcp, server.udp()));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "done\n"), "{ran:?}");
    let datagrams: Vec<String> = (0..2).map(|_| server.next()).collect();
    assert_eq!(datagrams, ["own", "own"], "nothing but what is from its own addresses");
    assert!(own.is_untouched());
    // Nor does anything come in from beyond, by routes that lead here; what is sent last comes last.
    world.beyond.ip(&format!("route add 192.168.83.0/24 via {}", HOST[0]));
    world.beyond.ip(&format!("route add fd00:83::/64 via {}", HOST[1]));
    world.beyond.within(|| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        for to in ["[::ffff:192.168.83.3]:4000", "[fd00:83::3]:4000"] {
            socket.send_to(b"from beyond", to.parse::<SocketAddr>().unwrap()).unwrap();
        }
        TcpStream::connect((HOST[0], own.tcp)).unwrap();
    });
    world.machine.within(|| {
        let to: SocketAddr = "192.168.83.3:4000".parse().unwrap();
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"over", to).unwrap();
    });
    let mut rest = String::new();
    heard.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "over\n");
    let _ = listener.wait();
    let used = viv(&["net", "teardown"]);
    assert!(used.code == 125 && used.stderr.contains("vivbr"), "{used:?}");
    drop((one, two));
    host.assert_nothing_is_left();
    let torn = viv(&["net", "teardown"]);
    assert_eq!(torn.code, 0, "{torn:?}");
    assert_eq!(state(&world.machine), before);
}

/// Records what comes, until the host says that it is over.
const LISTENER: &str = "\
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 4000))
t = socket.create_server(('::', 4001), family=socket.AF_INET6, dualstack_ipv6=True); t.setblocking(False)
print('ready')
while True:
    text, sender = s.recvfrom(100)
    print(text.decode())
    if sender[0] == '::ffff:192.168.83.1': break
try: print('connected from', t.accept()[1])
except BlockingIOError: pass
";

/// Tries everything that a member of the bridge must not do; ends with what it may.
const ATTACK_FROM_THE_BRIDGE: &str = "\
import subprocess, sys
from frames import *
tcp, udp, servers_tcp, servers_udp = map(int, sys.argv[1:5])
two = sys.argv[5]
def expect(address, port, way):
    how = ask(address, port)
    assert how == way, (address, how)
# The host, by each of its addresses.
for address in ('192.168.83.1', 'fd00:83::1', '203.0.113.2', '2001:db8:113::2'):
    expect(address, tcp, 'Connection refused')
# The other one: next to it, by way of the host, and frame by frame.
for address in ('192.168.83.3', 'fd00:83::3'):
    expect(address, 4001, 'No route to host')
subprocess.run('ip route add 192.168.83.3/32 via 192.168.83.1; ip route add fd00:83::3/128 via fd00:83::1', shell=True, check=True)
for address in ('192.168.83.3', 'fd00:83::3'):
    expect(address, 4001, 'Connection refused')
gateway = [line.split()[3] for line in open('/proc/net/arp') if line.startswith('192.168.83.1 ')][0]
mine = own()
for mac in (two, gateway, 'ff:ff:ff:ff:ff:ff'):
    for sender in (mine, two):
        for source in ('192.168.83.2', '192.168.83.1', '203.0.113.1'):
            send(mac, sender, packet(source, '192.168.83.3', UDP, 4000, b'attack'))
            send(mac, sender, packet(source, '192.168.83.3', TCP, 4001))
        for source in ('fd00:83::2', 'fd00:83::1', '2001:db8:113::1'):
            send(mac, sender, packet(source, 'fd00:83::3', UDP, 4000, b'attack'))
            send(mac, sender, packet(source, 'fd00:83::3', TCP, 4001))
# Another's addresses, and another's hardware address.
for target, source, others in (('203.0.113.1', '192.168.83.2', ('192.168.83.3', '192.168.83.1', '10.0.0.1')),
                               ('2001:db8:113::1', 'fd00:83::2', ('fd00:83::3', 'fd00:83::1', 'fd01::1'))):
    for other in others:
        send(gateway, mine, packet(other, target, UDP, servers_udp, b'spoofed'))
    send(gateway, '02:00:00:00:00:99', packet(source, target, UDP, servers_udp, b'spoofed'))
    send(gateway, two, packet(source, target, UDP, servers_udp, b'spoofed'))
# Datagrams for the host, which it must not hear.
send(gateway, mine, packet('192.168.83.2', '192.168.83.1', UDP, udp, b'attack'))
send(gateway, mine, packet('192.168.83.2', '203.0.113.2', UDP, udp, b'attack'))
send(gateway, mine, packet('192.168.83.2', '127.0.0.1', UDP, udp, b'attack'))
send(gateway, mine, packet('fd00:83::2', '::1', UDP, udp, b'attack'))
# The other one's address claimed by ARP.
claim = struct.pack('!HHBBH', 1, 0x0800, 6, 4, 2) + hardware(mine) + ipaddress.ip_address('192.168.83.3').packed
send(gateway, mine, claim + hardware(gateway) + ipaddress.ip_address('192.168.83.1').packed)
for target, source in (('203.0.113.1', '192.168.83.2'), ('2001:db8:113::1', 'fd00:83::2')):
    send(gateway, mine, packet(source, target, UDP, servers_udp, b'own'))
    ask(target, servers_tcp)
print('done')
";
