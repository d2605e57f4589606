//! From a specification to QEMU's command line. Pure.

use crate::spec::{Backing, Descriptor, Placed};
use crate::{
    Accel, CommandPlan, Disk, Error, ErrorKind, HostFacts, LinkCarrier, MachineSpec, MachineStart, NetworkBacking,
    Result,
};

/// Where the state of a machine's devices is saved to: the descriptors of set 2.
pub(crate) const DEVICES_URI: &str = "file:/dev/fdset/2";

/// The name of the virtio-serial port that carries the link.
const LINK_PORT: &str = "viv.link";

/// The first descriptor number handed to QEMU.
const FIRST_DESCRIPTOR: i32 = 3;

/// The addresses below belong to the hypervisor, the machine itself and its host.
const FIRST_GUEST_CID: u32 = 3;

/// The first slot of the bus that disks share; the devices before them take one each, from 1 on.
const FIRST_SHARED_SLOT: usize = 0x10;

/// Functions of a PCI slot.
const FUNCTIONS: usize = 8;

/// How many read-only disks fit beside the first one. A bus has 32 slots, and half of them are for disks
/// that share one; overlayfs, which stacks them, takes 500 layers.
const MOST_LAYERS: usize = (32 - FIRST_SHARED_SLOT) * FUNCTIONS;

/// Below this a Debian kernel with its initramfs does not reach PID 1.
const SMALLEST_MEMORY_MIB: u64 = 256;

/// QEMU's command line for a machine.
///
/// # Errors
/// [`ErrorKind::InvalidSpec`] for a machine QEMU or the guest's kernel cannot be.
pub fn plan(spec: &MachineSpec, facts: &HostFacts) -> Result<CommandPlan> {
    check(spec)?;
    let mut descriptors = Descriptors::default();
    let mut arguments = Arguments::default();

    arguments.option("-name", format!("{},process=viv-vm", spec.name));
    arguments.flag("-nodefaults").flag("-no-user-config").flag("-no-reboot");
    arguments.option("-display", "none");
    // No program may be started, no privilege gained, no scheduling changed by a subverted QEMU.
    arguments.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    // Devices on PCI, found by ACPI: Debian's kernel has virtio-pci built in and virtio-mmio not.
    // Under emulation turning pit, pic or rtc off makes the boot slower.
    arguments.option("-machine", "microvm,acpi=on,pcie=on,pit=on,pic=on,rtc=on,usb=off,memory-backend=memory");
    arguments.option("-bios", "qboot.rom");
    match spec.accel {
        Accel::Kvm => arguments.option("-accel", "kvm").option("-cpu", "host"),
        // Without "fast string" bits, which emulation belies: the kernel then copies in words instead
        // of bytes, which halves the time of moving data through the link. Without AMD's virtualisation:
        // machines within an emulated machine are of no use, and a kernel that has KVM built in spends a
        // seventh of its boot on getting ready for them.
        Accel::Tcg => arguments.option("-accel", "tcg,thread=multi").option("-cpu", "max,-erms,-fsrm,-svm"),
    };
    arguments.option("-smp", spec.cpus);
    arguments.option("-m", format!("{}M", spec.memory_mib));
    // Shared, because the file daemon reads and writes the guest's buffers in place. A file, because
    // only such memory is left out when the machine is saved (`x-ignore-shared`).
    let memory = descriptors.place(Descriptor::Memory);
    arguments.option(
        "-object",
        format!("memory-backend-file,id=memory,size={}M,mem-path=/proc/self/fd/{memory},share=on", spec.memory_mib),
    );

    // A restored machine has them in its memory; QEMU would only hold them once more.
    if spec.start != MachineStart::Restore {
        arguments.option("-kernel", path(&spec.kernel)?);
        arguments.option("-initrd", path(&spec.initramfs)?);
        arguments.option("-append", kernel_command_line(spec, facts));
    }

    // What the guest frees is given back to the host.
    arguments.option("-device", "virtio-balloon-pci,free-page-reporting=on");

    arguments.option("-chardev", "stdio,id=console,signal=off");
    arguments.option("-serial", "chardev:console");
    let monitor = descriptors.place(Descriptor::Monitor);
    arguments.option("-chardev", format!("socket,id=monitor,fd={monitor}"));
    arguments.option("-mon", "chardev=monitor,mode=control");
    match spec.link {
        LinkCarrier::VirtioSerial => {
            let link = descriptors.place(Descriptor::LinkListener);
            arguments.option("-chardev", format!("socket,id=link,fd={link},server=on,wait=off"));
            arguments.option("-device", "virtio-serial-pci,max_ports=2");
            arguments.option("-device", format!("virtserialport,chardev=link,name={LINK_PORT}"));
        }
        LinkCarrier::Vsock { cid } => {
            arguments.option("-device", format!("vhost-vsock-pci,guest-cid={cid}"));
        }
    }

    let mut layers = 0..MOST_LAYERS;
    let mut is_first = true;
    for disk in &spec.disks {
        let serial = &disk.serial;
        match &disk.backing {
            Backing::ReadOnlyFile(file) => {
                let file = path(file)?;
                arguments.option("-blockdev", format!("driver=file,node-name={serial},read-only=on,filename={file}"));
                let place = if std::mem::take(&mut is_first) {
                    String::new()
                } else {
                    shared_place(layers.next().unwrap_or_default())
                };
                arguments.option("-device", format!("virtio-blk-pci,drive={serial},serial={serial}{place}"));
            }
            Backing::Ephemeral | Backing::Kept => {
                let number = descriptors.place(Descriptor::Scratch);
                arguments.option("-add-fd", format!("fd={number},set=1"));
                // If it is lost with the machine, nothing is ever flushed; freed blocks go back to the host.
                let no_flush = if disk.backing == Backing::Kept { "off" } else { "on" };
                arguments.option(
                    "-blockdev",
                    format!(
                        "driver=file,node-name={serial},filename=/dev/fdset/1,locking=off,discard=unmap,\
                         cache.direct=off,cache.no-flush={no_flush}"
                    ),
                );
                // A full host stops the machine, which the monitor sees and names.
                arguments.option("-device", format!("virtio-blk-pci,drive={serial},serial={serial},werror=enospc"));
            }
        }
    }

    if let Some(tag) = &spec.share_tag {
        let number = descriptors.place(Descriptor::FileDaemon);
        arguments.option("-chardev", format!("socket,id=shares,fd={number}"));
        arguments.option("-device", format!("vhost-user-fs-pci,chardev=shares,tag={tag},queue-size=1024"));
    }

    if let Some(card) = &spec.network {
        let number = descriptors.place(Descriptor::Network);
        arguments.option(
            "-netdev",
            match card.backing {
                NetworkBacking::Stream => format!("stream,id=network,server=off,addr.type=fd,addr.str={number}"),
                NetworkBacking::Tap => format!("tap,id=network,fd={number},vhost=off"),
            },
        );
        let mtu = card.mtu.map(|mtu| format!(",host_mtu={mtu}")).unwrap_or_default();
        // Nothing boots from it, and not every QEMU comes with the ROM for that.
        arguments.option("-device", format!("virtio-net-pci,netdev=network,mac={},romfile={mtu}", card.mac));
    }

    match spec.start {
        MachineStart::Boot => {}
        MachineStart::BootToSave => {
            let number = descriptors.place(Descriptor::Devices);
            arguments.option("-add-fd", format!("fd={number},set=2"));
        }
        MachineStart::Restore => {
            // Where from is said by command, after a capability that cannot be asked for here.
            descriptors.place(Descriptor::Devices);
            arguments.option("-incoming", "defer");
        }
    }

    Ok(CommandPlan { program: facts.qemu.path.clone(), arguments: arguments.0, descriptors: descriptors.0 })
}

fn check(spec: &MachineSpec) -> Result<()> {
    let invalid = |message: String| Error::new(ErrorKind::InvalidSpec, message);
    if !(1..=255).contains(&spec.cpus) {
        return Err(invalid(format!("{} processors; 1 to 255 are possible", spec.cpus)).hint("--cpus 2"));
    }
    if spec.memory_mib < SMALLEST_MEMORY_MIB {
        return Err(invalid(format!(
            "{} MiB of memory; below {SMALLEST_MEMORY_MIB} MiB the guest does not boot",
            spec.memory_mib
        ))
        .hint(format!("--memory {SMALLEST_MEMORY_MIB}M")));
    }
    if let LinkCarrier::Vsock { cid } = spec.link
        && cid < FIRST_GUEST_CID
    {
        return Err(invalid(format!("vsock address {cid}; a guest's is at least {FIRST_GUEST_CID}")));
    }
    if let Some(card) = &spec.network
        && !is_hardware_address(&card.mac)
    {
        return Err(invalid(format!("{:?} is no hardware address", card.mac)));
    }
    let is_writable = |disk: &&Disk| matches!(disk.backing, Backing::Ephemeral | Backing::Kept);
    let layers = spec.disks.iter().filter(|disk| !is_writable(disk)).count().saturating_sub(1);
    if layers > MOST_LAYERS {
        return Err(invalid(format!("{layers} layers over the root image; a machine takes {MOST_LAYERS}"))
            .hint("ask for the packages in fewer steps, or put them into an image"));
    }
    if spec.disks.iter().filter(is_writable).count() > 1 {
        return Err(invalid("more than one writable disk".to_owned()));
    }
    Ok(())
}

/// The place of a disk that shares its slot with others: a function of it. One queue, because each takes an
/// interrupt of every processor, of which there are less than 200.
fn shared_place(number: usize) -> String {
    let (slot, function) = (FIRST_SHARED_SLOT + number / FUNCTIONS, number % FUNCTIONS);
    format!(",num-queues=1,multifunction=on,addr={slot:#x}.{function}")
}

fn is_hardware_address(text: &str) -> bool {
    let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
    text.split(':').count() == 6 && text.split(':').all(is_byte)
}

fn kernel_command_line(spec: &MachineSpec, facts: &HostFacts) -> String {
    let mut line = spec.kernel_arguments.clone();
    if spec.accel == Accel::Tcg {
        // KVM has a paravirtual clock; under emulation the kernel must be told (see tsc.rs). It must
        // also be told that all processors count alike, which they do, since each of them reads the
        // host's counter: else it goes by timer ticks, of which a busy host has it miss many.
        line.push(format!("tsc_early_khz={} tsc=reliable", facts.tsc_khz));
        // The kernel's warnings from the first one on: one of them ends the boot (see console.rs).
        line.push("earlycon=uart8250,io,0x3f8 loglevel=5".to_owned());
    }
    let link = match spec.link {
        LinkCarrier::VirtioSerial => "viv.link=virtio-serial",
        LinkCarrier::Vsock { .. } => "viv.link=vsock",
    };
    line.push(link.to_owned());
    line.join(" ")
}

/// A path as an option's value: QEMU ends a value at a comma and takes a doubled one for itself.
fn path(path: &std::path::Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        Error::new(ErrorKind::InvalidSpec, format!("{} is not UTF-8, which QEMU's options need", path.display()))
    })?;
    Ok(text.replace(',', ",,"))
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.to_owned());
        self
    }

    fn option(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.to_string());
        self
    }
}

#[derive(Default)]
struct Descriptors(Vec<Placed>);

impl Descriptors {
    fn place(&mut self, descriptor: Descriptor) -> i32 {
        let number = FIRST_DESCRIPTOR + self.0.len() as i32;
        self.0.push(Placed { descriptor, number });
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, Kvm, NetworkCard, QemuBinary};

    fn facts() -> HostFacts {
        HostFacts {
            qemu: QemuBinary {
                path: "/usr/bin/qemu-system-x86_64".into(),
                version: "10.0.2".into(),
                stamp: String::new(),
            },
            kvm: Kvm::Unusable("there is no /dev/kvm".into()),
            tsc_khz: 2_893_000,
            cpus: 2,
            processor: String::new(),
            vhost_vsock: false,
        }
    }

    fn spec(accel: Accel) -> MachineSpec {
        MachineSpec {
            name: "viv-0123abcd".into(),
            cpus: 2,
            memory_mib: 2048,
            accel,
            kernel: "/cache/vmlinux".into(),
            initramfs: "/cache/initramfs".into(),
            kernel_arguments: vec!["quiet".into()],
            disks: vec![
                Disk { serial: "root".into(), backing: Backing::ReadOnlyFile("/cache/a,b.erofs".into()) },
                Disk { serial: "scratch".into(), backing: Backing::Ephemeral },
            ],
            share_tag: Some("viv".into()),
            link: LinkCarrier::VirtioSerial,
            network: None,
            start: MachineStart::Boot,
        }
    }

    /// One option a line, as it is printed by `--dry-run`.
    fn shown(plan: &CommandPlan) -> String {
        plan.arguments.join("\n").replace("\n-", "\n\u{0}-").replace('\n', " ").replace(" \u{0}", "\n")
    }

    #[test]
    fn an_emulated_machine() {
        let plan = plan(&spec(Accel::Tcg), &facts()).unwrap();
        insta::assert_snapshot!(shown(&plan));
        insta::assert_json_snapshot!(plan.descriptors);
    }

    #[test]
    fn kvm_changes_the_accelerator_the_processor_and_the_clock_alone() {
        let emulated = shown(&plan(&spec(Accel::Tcg), &facts()).unwrap());
        let accelerated = shown(&plan(&spec(Accel::Kvm), &facts()).unwrap());
        let changed: Vec<_> = emulated.lines().zip(accelerated.lines()).filter(|(a, b)| a != b).collect();
        insta::assert_json_snapshot!(changed);
    }

    #[test]
    fn a_link_over_vsock_needs_no_descriptor() {
        let spec = MachineSpec { link: LinkCarrier::Vsock { cid: 0x0123_abcd }, ..spec(Accel::Kvm) };
        let plan = plan(&spec, &facts()).unwrap();
        insta::assert_snapshot!(shown(&plan));
        insta::assert_json_snapshot!(plan.descriptors);
    }

    #[test]
    fn a_network_device_adds_itself_and_nothing_else() {
        let without = shown(&plan(&spec(Accel::Kvm), &facts()).unwrap());
        let added = |backing, mtu| {
            let network = Some(NetworkCard { mac: "02:00:00:00:00:01".into(), mtu, backing });
            let plan = plan(&MachineSpec { network, ..spec(Accel::Kvm) }, &facts()).unwrap();
            assert!(plan.descriptors.iter().any(|placed| placed.descriptor == Descriptor::Network));
            shown(&plan).strip_prefix(&without).unwrap().trim().to_owned()
        };
        insta::assert_json_snapshot!([added(NetworkBacking::Stream, Some(65520)), added(NetworkBacking::Tap, None)]);
        let network = Some(NetworkCard { mac: "02:00,x".into(), mtu: None, backing: NetworkBacking::Tap });
        let error = plan(&MachineSpec { network, ..spec(Accel::Kvm) }, &facts()).unwrap_err();
        assert_eq!(error.to_string(), "\"02:00,x\" is no hardware address");
    }

    #[test]
    fn layers_share_slots() {
        let without = shown(&plan(&spec(Accel::Kvm), &facts()).unwrap());
        let with = |count: usize| {
            let mut disks = spec(Accel::Kvm).disks;
            disks.extend((1..=count).map(|number| Disk {
                serial: format!("layer-{number}"),
                backing: Backing::ReadOnlyFile(format!("/cache/{number}.erofs").into()),
            }));
            plan(&MachineSpec { disks, ..spec(Accel::Kvm) }, &facts())
        };
        let lines = shown(&with(9).unwrap());
        let added: Vec<&str> = lines.lines().filter(|line| !without.contains(line)).collect();
        insta::assert_json_snapshot!(added);
        let all = shown(&with(MOST_LAYERS).unwrap());
        let places: std::collections::BTreeSet<&str> =
            all.lines().filter_map(|line| line.split_once(",addr=")).map(|(_, place)| place).collect();
        assert_eq!(places.len(), MOST_LAYERS);
        assert!(places.contains("0x1f.7"));
        let error = with(MOST_LAYERS + 1).unwrap_err();
        assert_eq!(error.to_string(), "129 layers over the root image; a machine takes 128");
    }

    #[test]
    fn saving_and_restoring_change_nothing_of_the_machine() {
        let boot = shown(&plan(&spec(Accel::Tcg), &facts()).unwrap());
        let of_a_boot =
            |line: &&str| !["-kernel ", "-initrd ", "-append "].iter().any(|option| line.starts_with(option));
        let added = |start| {
            let plan = shown(&plan(&MachineSpec { start, ..spec(Accel::Tcg) }, &facts()).unwrap());
            let machine: Vec<&str> = boot.lines().filter(of_a_boot).collect();
            let lines: Vec<&str> = plan.lines().filter(of_a_boot).collect();
            assert!(lines.starts_with(&machine), "the machine is the same");
            assert_eq!(plan.contains("-kernel"), start != MachineStart::Restore);
            lines[machine.len()..].join("\n")
        };
        insta::assert_json_snapshot!([MachineStart::BootToSave, MachineStart::Restore].map(added));
    }

    #[test]
    fn impossible_machines_are_refused_with_a_way_out() {
        let small = plan(&MachineSpec { memory_mib: 64, ..spec(Accel::Tcg) }, &facts()).unwrap_err();
        assert_eq!(small.to_string(), "64 MiB of memory; below 256 MiB the guest does not boot");
        assert_eq!(small.hints(), ["--memory 256M"]);
        let wide = plan(&MachineSpec { cpus: 0, ..spec(Accel::Tcg) }, &facts()).unwrap_err();
        assert_eq!(*wide.kind(), ErrorKind::InvalidSpec);
        let host =
            plan(&MachineSpec { link: LinkCarrier::Vsock { cid: 2 }, ..spec(Accel::Tcg) }, &facts()).unwrap_err();
        assert_eq!(host.to_string(), "vsock address 2; a guest's is at least 3");
    }
}
