//! Taking every connection to everywhere.
//!
//! A default route of the kind `local` makes every address one of this machine's, so that what is sent to
//! it arrives here, without a device, address translation or the tracking of connections; [`Steering`]
//! chooses who takes it. An accepted socket's own address is the one that the program wanted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;

use super::netlink::{self, Change, LOOPBACK, Prefixed, Request};
use super::steer::Steering;
use crate::{console, sys};

/// Where the name server answers programs that read /etc/resolv.conf.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

const NAMES: u16 = 53;

/// Connections that wait to be accepted; the kernel's own limit (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// The machine's addresses on its loopback interface, what its connections come from: of the same blocks
/// as [`super::pool`]'s, beside them. Resolvers look for one that is not loopback before they ask for
/// addresses of its family (getaddrinfo(3), `AI_ADDRCONFIG`).
const OWN: [Prefixed; 2] = [
    Prefixed { address: IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), length: 32 },
    Prefixed { address: IpAddr::V6(Ipv6Addr::new(0xfd76, 0x6976, 0x6f77, 0x6e00, 0, 0, 0, 1)), length: 128 },
];

/// Everything that is the same in every sandbox: sockets and program, without a route to them.
pub struct Capture {
    /// Takes TCP connections.
    pub listener: std::net::TcpListener,
    /// Takes questions about names.
    pub name_server: OwnedFd,
    steering: Steering,
}

impl Capture {
    /// Makes it.
    ///
    /// # Errors
    /// If the kernel lacks IPv6 or BPF, or refuses.
    pub fn new() -> io::Result<Self> {
        let listener = socket(SocketType::STREAM)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let name_server = socket(SocketType::DGRAM)?;
        sys::tell_destinations(name_server.as_fd())?;
        let steering = Steering::start(listener.as_fd(), name_server.as_fd())?;
        Ok(Self { listener: listener.into(), name_server, steering })
    }

    /// Makes every address reachable, and keeps away from those that are someone else's from now on.
    ///
    /// # Errors
    /// As rtnetlink.
    pub fn start(self) -> io::Result<(std::net::TcpListener, OwnedFd)> {
        let mut requests: Vec<Request> = OWN.map(|address| Request::Address { interface: LOOPBACK, address }).into();
        requests.extend(OWN.map(|own| Request::Everything { source: own.address }));
        netlink::carry_out(&requests)?;
        let addresses = sys::watch(netlink::watch_addresses()?, Interest::READABLE)?;
        let steering = self.steering;
        // What is there already, before anyone connects to it.
        while let Ok(changes) = netlink::read_changes(addresses.get_ref()) {
            apply(&steering, &changes);
        }
        tokio::spawn(async move {
            loop {
                match addresses.async_io(Interest::READABLE, netlink::read_changes).await {
                    Ok(changes) => apply(&steering, &changes),
                    Err(reason) => {
                        console::say(&format!("new addresses are not noticed any more: {reason}"));
                        // The program goes on as long as this is held.
                        std::future::pending::<()>().await;
                    }
                }
            }
        });
        Ok((self.listener, self.name_server))
    }
}

fn apply(steering: &Steering, changes: &[Change]) {
    for change in changes {
        match *change {
            Change::Added(address) => {
                if let Err(reason) = steering.add(address) {
                    console::say(&format!("connections to {address} leave the sandbox: {reason}"));
                }
            }
            Change::Removed(address) => steering.remove(address),
        }
    }
}

/// A socket of IPv6 that takes IPv4, too, on the name server's address: as such it is one that programs
/// may keep to themselves on all other addresses of the same port.
fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET6, kind, flags, None)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    sys::answer_from_any_address(socket.as_fd())?;
    let address = SocketAddrV6::new(NAME_SERVER.to_ipv6_mapped(), NAMES, 0, 0);
    rustix::net::bind(&socket, &SocketAddr::V6(address))?;
    Ok(socket)
}
