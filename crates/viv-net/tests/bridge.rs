//! A bridge for sandboxes, in network namespaces: a host, a server beyond it, and guests.

mod netns;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use netns::{DEADLINE, Netns, host_and_server, possible, run};
use viv_net::device::bridge::{self, BridgeSpec, Membership, Sandbox};
use viv_net::device::{self, Step};
use viv_proto::message::NetworkDevice;

const SERVER: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
const HOST: [&str; 2] = ["203.0.113.2", "2001:db8:113::2"];
const PARAMETERS: [&str; 3] =
    ["net/ipv6/conf/up0/accept_ra", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/up0/forwarding"];

fn spec(name: &str, number: u8) -> BridgeSpec {
    let subnet = format!("192.168.{number}.0/24").parse().unwrap();
    BridgeSpec::new(name, subnet, Some(format!("fd00:{number}::/64").parse().unwrap()), "up0").unwrap()
}

/// A host with a bridge, and what it is to be put on.
struct World {
    host: Netns,
    server: Netns,
    state: tempfile::TempDir,
    spec: BridgeSpec,
}

impl World {
    fn new() -> Option<Self> {
        if !possible(&["ip", "nft"]) {
            return None;
        }
        let (host, server) = host_and_server();
        let world = Self { host, server, state: tempfile::tempdir().unwrap(), spec: spec("vivbr", 83) };
        world.setup(&world.spec).unwrap();
        Some(world)
    }

    fn setup(&self, spec: &BridgeSpec) -> device::Result<Vec<Step>> {
        let mut steps = Vec::new();
        self.host.within(|| bridge::setup(spec, self.state.path(), false, &mut |step| steps.push(step.clone())))?;
        Ok(steps)
    }

    fn teardown(&self, name: &str) -> device::Result<()> {
        self.host.within(|| bridge::teardown(name, self.state.path(), false, &mut |_| {}))
    }

    /// A guest whose cable ends in the port that a sandbox's tap would be.
    fn guest(&self, id: &str, name: Option<&str>) -> (Netns, Membership) {
        let guest = Netns::new(id);
        let sandbox = Sandbox { id, name };
        let (membership, ()) = self
            .host
            .within(|| {
                bridge::join("vivbr", self.state.path(), sandbox, |interface| {
                    run(
                        "ip",
                        &["link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", guest.name()],
                    );
                    Ok(())
                })
            })
            .unwrap();
        let NetworkDevice { mac, addresses, gateways, .. } = membership.device();
        assert_eq!(*mac, sandbox.mac());
        guest.ip(&format!("link set dev eth0 address {mac} up"));
        for address in addresses {
            guest.ip(&format!("address add {address} dev eth0{}", if address.contains(':') { " nodad" } else { "" }));
        }
        for gateway in gateways {
            guest.ip(&format!("route add default via {gateway}"));
        }
        (guest, membership)
    }
}

/// A listener that answers every connection with its peer's address.
fn listen(netns: &Netns) -> u16 {
    let listener = netns.within(|| TcpListener::bind("[::]:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = stream.write_all(peer.to_string().as_bytes());
        }
    });
    port
}

fn ask(netns: &Netns, address: &str, port: u16) -> std::io::Result<String> {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    netns.within(|| {
        let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn address_of(membership: &Membership, index: usize) -> String {
    membership.device().addresses[index].split('/').next().unwrap().to_owned()
}

#[test]
fn a_sandbox_reaches_the_network_and_not_the_host() {
    let Some(world) = World::new() else { return };
    let (guest, _membership) = world.guest("00000001", None);
    let port = listen(&world.server);
    for (server, host) in SERVER.into_iter().zip(HOST) {
        assert_eq!(ask(&guest, server, port).unwrap(), host, "the server sees the host");
    }
    let port = listen(&world.host);
    assert_eq!(ask(&world.server, HOST[0], port).unwrap(), SERVER[0], "the host's service is there");
    for host in ["192.168.83.1", "fd00:83::1", HOST[0], HOST[1]] {
        let error = ask(&guest, host, port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{host}: {error}");
    }
}

#[test]
fn sandboxes_do_not_reach_each_other() {
    let Some(world) = World::new() else { return };
    let (one, first) = world.guest("00000001", None);
    let (_other, second) = world.guest("00000002", None);
    assert_ne!(first.device().mac, second.device().mac);
    let port = listen(&_other);
    for index in 0..2 {
        // Next to each other, and yet no one answers.
        let error = ask(&one, &address_of(&second, index), port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
        // Nor does the host carry it.
        let gateway = &first.device().gateways[index];
        let prefix = if index == 0 { 32 } else { 128 };
        one.ip(&format!("route add {}/{prefix} via {gateway}", address_of(&second, index)));
        let error = ask(&one, &address_of(&second, index), port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
}

/// Sends a datagram from an address, as the port of a sandbox or not.
fn send(netns: &Netns, from: &str, to: SocketAddr, text: &str) {
    let from: IpAddr = from.parse().unwrap();
    netns.within(|| UdpSocket::bind((from, 0)).unwrap().send_to(text.as_bytes(), to).unwrap());
}

/// What comes first to a socket.
fn first(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

#[test]
fn what_is_sent_from_anothers_address_is_dropped() {
    let Some(world) = World::new() else { return };
    let (guest, membership) = world.guest("00000001", None);
    let (_other, second) = world.guest("00000002", None);
    let mac = &membership.device().mac;
    let bridge_mac = world.host.within(|| run("ip", &["-json", "link", "show", "vivbr"]));
    let bridge_mac = bridge_mac.split("\"address\":\"").nth(1).unwrap()[..17].to_owned();
    let spoofed = [("192.168.83.99", "32"), ("fd00:83::99", "128")];
    for (index, (address, prefix)) in spoofed.into_iter().enumerate() {
        let socket = world.server.within(|| UdpSocket::bind((SERVER[index], 0)).unwrap());
        let server = socket.local_addr().unwrap();
        let gateway = &membership.device().gateways[index];
        let own = address_of(&membership, index);
        let unchecked = if index == 1 { " nodad" } else { "" };
        guest.ip(&format!("address add {address}/{prefix} dev eth0{unchecked}"));
        // Known beforehand, so that everything is sent at once and in this order.
        guest.ip(&format!("neighbour replace {gateway} lladdr {bridge_mac} dev eth0 nud permanent"));
        send(&guest, address, server, "another's address");
        guest.ip("link set dev eth0 address 02:00:00:00:00:99");
        guest.ip(&format!("neighbour replace {gateway} lladdr {bridge_mac} dev eth0 nud permanent"));
        send(&guest, &own, server, "another's hardware address");
        guest.ip(&format!("link set dev eth0 address {mac}"));
        send(&guest, &own, server, "own");
        assert_eq!(first(&socket).0, "own");
    }

    // Who asks by ARP says who it is, and is not believed to be the other one.
    let victim = address_of(&second, 0);
    guest.ip(&format!("address add {victim}/32 dev eth0"));
    guest.ip("neighbour flush dev eth0 nud permanent");
    send(&guest, &victim, SocketAddr::new("192.168.83.1".parse().unwrap(), 9), "who am I");
    guest.ip(&format!("address del {victim}/32 dev eth0"));
    let port = listen(&world.server);
    assert_eq!(ask(&guest, SERVER[0], port).unwrap(), HOST[0]);
    let neighbours = world.host.ip("neighbour show dev vivbr");
    let known: Vec<&str> = neighbours.lines().filter(|line| line.contains(mac.as_str())).collect();
    assert!(known.iter().all(|line| !line.starts_with(&format!("{victim} "))), "{neighbours}");
    assert!(known.iter().any(|line| line.starts_with(&format!("{} ", address_of(&membership, 0)))), "{neighbours}");
}

#[test]
fn nothing_comes_in_unasked() {
    let Some(world) = World::new() else { return };
    let (guest, membership) = world.guest("00000001", None);
    world.server.ip(&format!("route add 192.168.83.0/24 via {}", HOST[0]));
    world.server.ip(&format!("route add fd00:83::/64 via {}", HOST[1]));
    for (index, server) in SERVER.into_iter().enumerate() {
        let own: IpAddr = address_of(&membership, index).parse().unwrap();
        let inside = guest.within(|| UdpSocket::bind((own, 0)).unwrap());
        let outside = world.server.within(|| UdpSocket::bind((server, 0)).unwrap());
        outside.send_to(b"unasked", inside.local_addr().unwrap()).unwrap();
        inside.send_to(b"question", outside.local_addr().unwrap()).unwrap();
        let (text, from) = first(&outside);
        assert_eq!((text.as_str(), from.ip().to_string().as_str()), ("question", HOST[index]));
        outside.send_to(b"answer", from).unwrap();
        assert_eq!(first(&inside).0, "answer");
    }
}

#[test]
fn a_bridge_is_set_up_once_and_removed_without_a_trace() {
    let Some(world) = World::new() else { return };
    let parameters = || {
        world.host.within(|| {
            PARAMETERS.map(|name| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap().trim().to_owned())
        })
    };
    let rules = || world.host.within(|| run("nft", &["list", "ruleset"]));
    assert_eq!(parameters(), ["2", "1", "1"]);
    let before = rules();
    world.setup(&world.spec).unwrap();
    assert_eq!(rules(), before, "a second time changes nothing");

    // A second bridge needs the same of the host, and keeps it when the first one goes.
    world.setup(&spec("other", 84)).unwrap();
    let (guest, membership) = world.guest("00000001", Some("review"));
    let frames = || world.host.within(|| run("nft", &["list", "table", "bridge", "viv_vivbr"]));
    let live = frames();
    assert!(live.contains("viv00000001"), "{live}");
    world.setup(&world.spec).unwrap();
    assert_eq!(frames(), live, "nor does it forget a sandbox");
    let error = world.teardown("vivbr").unwrap_err();
    assert_eq!(*error.kind(), device::ErrorKind::BridgeInUse);
    drop(guest);
    let interface = Sandbox { id: "00000001", name: Some("review") }.interface();
    world.host.within(|| {
        // The kernel removes it with its peer, in its own time.
        let _ = std::process::Command::new("ip").args(["link", "delete", &interface]).output();
        membership.leave().unwrap();
    });
    world.teardown("vivbr").unwrap();
    assert_eq!(parameters(), ["2", "1", "1"]);
    assert!(!rules().contains("viv_vivbr"));
    world.teardown("other").unwrap();
    assert_eq!(parameters(), ["1", "0", "0"]);
    assert_eq!(rules().trim(), "");
    let links: BTreeSet<String> = world
        .host
        .ip("-brief link show")
        .lines()
        .map(|line| line.split('@').next().unwrap().split(' ').next().unwrap().to_owned())
        .collect();
    assert!(!links.contains("vivbr") && !links.contains("other"), "{links:?}");
    world.teardown("vivbr").unwrap();

    world.host.ip("link add foreign type bridge");
    assert_eq!(*world.setup(&spec("foreign", 85)).unwrap_err().kind(), device::ErrorKind::BridgeRefused);
    assert_eq!(*world.teardown("foreign").unwrap_err().kind(), device::ErrorKind::BridgeRefused);
}
