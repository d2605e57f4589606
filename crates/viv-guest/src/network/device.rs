//! A network device with a fixed configuration.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use viv_proto::message::{FailureKind, NetworkDevice};

use super::netlink::{self, Prefixed, Request};
use crate::error::{Context, Result, error};
use crate::modules;

/// How long the device may take to appear.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often it is looked for meanwhile.
const RETRY: Duration = Duration::from_millis(2);

/// A device's configuration, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    mac: String,
    addresses: Vec<Prefixed>,
    gateways: Vec<IpAddr>,
    /// Whom to ask for names.
    pub name_servers: Vec<IpAddr>,
}

impl Plan {
    /// Reads it.
    ///
    /// # Errors
    /// [`FailureKind::BadRequest`], naming what is not what it should be.
    pub fn read(device: &NetworkDevice) -> Result<Self> {
        let refuse = |what: &str, text: &str| {
            error(FailureKind::BadRequest, format!("configure: `{text}` is not {what} of a network device"))
        };
        let each = |texts: &[String], what: &str| {
            texts.iter().map(|text| text.parse().map_err(|_| refuse(what, text))).collect::<Result<Vec<IpAddr>>>()
        };
        let mac = device.mac.to_ascii_lowercase();
        let is_byte = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if mac.split(':').count() != 6 || !mac.split(':').all(is_byte) {
            return Err(refuse("the hardware address", &device.mac));
        }
        let addresses = device.addresses.iter();
        let addresses = addresses.map(|text| text.parse().map_err(|()| refuse("an address", text)));
        Ok(Self {
            mac,
            addresses: addresses.collect::<Result<_>>()?,
            gateways: each(&device.gateways, "a gateway")?,
            name_servers: each(&device.name_servers, "a name server")?,
        })
    }

    fn requests(&self, interface: u32) -> Vec<Request> {
        let addresses = self.addresses.iter().map(|&address| Request::Address { interface, address });
        let gateways = self.gateways.iter().map(|&gateway| Request::Gateway { interface, gateway });
        [Request::Up { interface }].into_iter().chain(addresses).chain(gateways).collect()
    }

    /// Finds the device and configures it.
    ///
    /// # Errors
    /// If it does not appear, or the kernel refuses.
    pub fn carry_out(&self) -> Result<()> {
        modules::load_network()?;
        let deadline = Instant::now() + DEADLINE;
        let interface = loop {
            if let Some(interface) = find(Path::new("/sys/class/net"), &self.mac) {
                break interface;
            }
            if Instant::now() >= deadline {
                let message = format!("there is no network device with the hardware address {}", self.mac);
                return Err(error(FailureKind::Internal, message));
            }
            std::thread::sleep(RETRY);
        };
        netlink::carry_out(&self.requests(interface)).context(|| "cannot configure the network device".to_owned())
    }
}

fn find(interfaces: &Path, mac: &str) -> Option<u32> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    fs::read_dir(interfaces).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        (read(&path.join("address"))?.trim_end() == mac).then_some(())?;
        read(&path.join("ifindex"))?.trim_end().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> NetworkDevice {
        NetworkDevice {
            mac: "52:54:00:AB:cd:01".into(),
            addresses: vec!["192.168.83.2/24".into(), "fd00:83::2/64".into()],
            gateways: vec!["192.168.83.1".into(), "fd00:83::1".into()],
            name_servers: vec!["192.168.83.1".into()],
        }
    }

    #[test]
    fn up_comes_before_addresses_and_these_before_gateways() {
        let plan = Plan::read(&device()).unwrap();
        let kinds: Vec<_> = plan.requests(3).iter().map(|request| std::mem::discriminant(request).to_owned()).collect();
        assert_eq!(kinds.len(), 5);
        assert_eq!(plan.requests(3)[0], Request::Up { interface: 3 });
        assert!(matches!(plan.requests(3)[4], Request::Gateway { interface: 3, gateway: IpAddr::V6(_) }));
        assert_eq!(kinds[1], kinds[2]);
    }

    #[test]
    fn a_device_is_found_by_its_hardware_address() {
        let directory = tempfile::tempdir().unwrap();
        for (name, mac, index) in [("lo", "00:00:00:00:00:00", 1), ("eth0", "52:54:00:ab:cd:01", 4)] {
            fs::create_dir(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("address"), format!("{mac}\n")).unwrap();
            fs::write(directory.path().join(name).join("ifindex"), format!("{index}\n")).unwrap();
        }
        assert_eq!(find(directory.path(), "52:54:00:ab:cd:01"), Some(4));
        assert_eq!(find(directory.path(), "52:54:00:ab:cd:02"), None);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for bad in [
            NetworkDevice { mac: "52:54:00:ab:cd".into(), ..device() },
            NetworkDevice { mac: "52:54:00:ab:cd:0x".into(), ..device() },
            NetworkDevice { addresses: vec!["192.168.83.2".into()], ..device() },
            NetworkDevice { gateways: vec!["gateway".into()], ..device() },
            NetworkDevice { name_servers: vec!["1.2.3.4\nsearch x".into()], ..device() },
        ] {
            assert!(Plan::read(&bad).is_err(), "{bad:?}");
        }
    }
}
