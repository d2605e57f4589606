//! passt behind its guard, in network namespaces: a host, a server beyond it, and a guest whose tap
//! device is plugged into the socket that QEMU would have.

mod netns;

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use netns::{DEADLINE, Netns, host_and_server, possible};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use viv_net::device::guard::Guard;
use viv_net::device::nat::Nat;
use viv_net::device::{Resolvers, find_program};

const SERVER: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
const HOST: [&str; 2] = ["203.0.113.2", "2001:db8:113::2"];
const MAC: &str = "02:00:00:00:00:01";

struct World {
    host: Netns,
    server: Netns,
    guest: Netns,
    name_servers: Vec<String>,
    passt: Child,
    guard: Option<Guard>,
    /// The host's resolv.conf.
    _resolvers: tempfile::NamedTempFile,
}

impl World {
    fn new() -> Option<Self> {
        if !possible(&["ip", "passt", "unshare", "mount"]) {
            return None;
        }
        let (host, server) = host_and_server();
        let guest = Netns::new("guest");
        let resolvers = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(resolvers.path(), "nameserver 127.0.0.1\n").unwrap();
        // As root, passt becomes someone else first.
        std::fs::set_permissions(resolvers.path(), Permissions::from_mode(0o644)).unwrap();
        let known = Resolvers { configured: vec!["127.0.0.1".parse().unwrap()], reachable: Vec::new() };
        let nat = Nat::new(true, true, &known).unwrap();

        let (passt_end, to_passt) = UnixStream::pair().unwrap();
        let (vmm_end, to_vmm) = UnixStream::pair().unwrap();
        let mut command = Command::new(find_program("unshare").unwrap());
        command.args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"", "sh"]);
        command.arg(resolvers.path()).arg(find_program("passt").unwrap()).args(nat.arguments(3));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.fd_mappings(vec![FdMapping { parent_fd: passt_end.into(), child_fd: 3 }]).unwrap();
        let (passt, guard) = host.within(|| (command.spawn().unwrap(), Guard::start(to_vmm, to_passt).unwrap()));
        drop(command);

        plug(guest.within(open_tap), vmm_end);
        let device = nat.guest(MAC);
        guest.ip(&format!("link set dev eth0 address {MAC} up"));
        for address in &device.addresses {
            guest.ip(&format!("address add {address} dev eth0{}", if address.contains(':') { " nodad" } else { "" }));
        }
        for gateway in &device.gateways {
            guest.ip(&format!("route add default via {gateway}"));
        }
        let name_servers = device.name_servers;
        Some(Self { host, server, guest, name_servers, passt, guard: Some(guard), _resolvers: resolvers })
    }

    /// A connection to the server, which comes after all that the guest sent before.
    fn reach_the_server(&self, address: &str) -> String {
        let listener = self.server.within(|| TcpListener::bind((address, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, peer) = listener.accept().unwrap();
                stream.write_all(format!("{}\n", peer.ip()).as_bytes()).unwrap();
                // The other side closes first.
                let _ = stream.read(&mut [0]);
            });
            self.guest.within(|| {
                let mut line = String::new();
                let stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
                BufReader::new(stream).read_line(&mut line).unwrap();
                line.trim().to_owned()
            })
        })
    }

    /// Whether a guest's datagram and its attempt to connect get to a service of the host.
    fn reaches_the_host(&self, listening_on: &str, at: &str) -> (bool, bool) {
        let (listener, socket) = self.host.within(|| {
            let listener = TcpListener::bind((listening_on, 0)).unwrap();
            let socket = UdpSocket::bind((listening_on, 0)).unwrap();
            (listener, socket)
        });
        listener.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let at: IpAddr = at.parse().unwrap();
        let attempt = self.guest.within(|| {
            let any = if at.is_ipv4() { "0.0.0.0" } else { "::" };
            let to = SocketAddr::new(at, socket.local_addr().unwrap().port());
            UdpSocket::bind((any, 0)).unwrap().send_to(b"knock", to).unwrap();
            let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let stream = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
            let to = SocketAddr::new(at, listener.local_addr().unwrap().port());
            // It is under way.
            let _ = rustix::net::connect(&stream, &to);
            stream
        });
        self.reach_the_server(SERVER[0]);
        drop(attempt);
        let blocked = |result: std::io::Result<()>| result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        (!blocked(socket.recv(&mut [0; 8]).map(drop)), !blocked(listener.accept().map(drop)))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.guard = None;
        let _ = self.passt.kill();
        let _ = self.passt.wait();
    }
}

/// A tap device named eth0, without any header in front of its frames.
fn open_tap() -> File {
    let device = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: a struct ifreq is plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"eth0") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one struct ifreq, which outlives the call.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    device
}

/// Carries frames between a tap device and the socket that QEMU would have.
fn plug(tap: File, socket: UnixStream) {
    let (mut from_tap, mut to_socket) = (tap.try_clone().unwrap(), socket.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut frame = vec![0; 65536];
        while let Ok(length) = from_tap.read(&mut frame) {
            let framed = [&(length as u32).to_be_bytes()[..], &frame[..length]].concat();
            if to_socket.write_all(&framed).is_err() {
                return;
            }
        }
    });
    let (mut from_socket, mut to_tap) = (socket, tap);
    std::thread::spawn(move || {
        let mut length = [0; 4];
        while from_socket.read_exact(&mut length).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            if from_socket.read_exact(&mut frame).is_err() {
                return;
            }
            // A device that is not up yet takes none.
            let _ = to_tap.write_all(&frame);
        }
    });
}

#[test]
fn a_sandbox_reaches_the_network_as_the_hosts_user() {
    let Some(world) = World::new() else { return };
    for (server, host) in SERVER.into_iter().zip(HOST) {
        assert_eq!(world.reach_the_server(server), host);
    }
}

#[test]
fn names_are_asked_of_the_hosts_resolver_even_on_its_loopback_interface() {
    let Some(world) = World::new() else { return };
    let resolver = world.host.within(|| UdpSocket::bind("127.0.0.1:53").unwrap());
    resolver.set_read_timeout(Some(DEADLINE)).unwrap();
    let server: SocketAddr = SocketAddr::new(world.name_servers[0].parse().unwrap(), 53);
    let asker = world.guest.within(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    asker.set_read_timeout(Some(DEADLINE)).unwrap();
    asker.send_to(b"question", server).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = resolver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"question");
    resolver.send_to(b"answer", from).unwrap();
    let (length, from) = asker.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"answer"[..], server));
}

#[test]
fn the_host_itself_is_not_reached() {
    let Some(world) = World::new() else { return };
    for address in HOST {
        let any = if address.contains(':') { "::" } else { "0.0.0.0" };
        assert_eq!(world.reaches_the_host(any, address), (false, false), "{address}");
    }
    // As root in the guest: what is for loopback addresses goes out by the device.
    for rule in ["add from all lookup local pref 200", "add to 127.0.0.1 lookup 99 pref 100", "del pref 0"] {
        world.guest.ip(&format!("rule {rule}"));
    }
    world.guest.ip("route add default via 10.118.105.2 src 10.118.105.15 table 99");
    world.guest.within(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    assert_eq!(world.reaches_the_host("127.0.0.1", "127.0.0.1"), (false, false));
}

#[test]
fn passt_ends_with_the_guard() {
    let Some(mut world) = World::new() else { return };
    world.reach_the_server(SERVER[0]);
    world.guard = None;
    assert!(world.passt.wait().unwrap().success());
}
