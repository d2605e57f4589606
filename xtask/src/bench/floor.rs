//! The bare floor: the machine that viv would start, with nothing in it but an init that prints one
//! byte on the console and ends the machine.
//!
//! The command line is derived from that of a running sandbox's QEMU, so that machine type, kernel,
//! its arguments, memory, processors and acceleration are the same by construction. Left out is what
//! viv adds to be useful: disks, shares, the link.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::measure::{self, Timing};
use crate::command;
use crate::workspace;

/// What the floor's init prints.
const BYTE: u8 = 0x16;

/// A floor that is ready to be started again and again.
pub struct Floor {
    argv: Vec<String>,
}

impl Floor {
    /// Builds the init and packs it into `directory`; `machine` is viv's own QEMU command line.
    pub fn prepare(machine: &[String], directory: &Path) -> Result<Self> {
        let initramfs = directory.join("floor.cpio");
        fs::write(&initramfs, pack(&fs::read(build_init()?)?))?;
        Ok(Self { argv: floor_argv(machine, &initramfs)? })
    }

    /// Starts it once.
    pub fn run(&self) -> Result<Timing> {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).stderr(Stdio::inherit());
        measure::until_first_byte_and_end(&mut command, Some(BYTE))
    }
}

/// Options without a value.
const FLAGS: &[&str] = &[
    "-nodefaults",
    "-no-user-config",
    "-no-reboot",
    "-no-shutdown",
    "-enable-kvm",
    "-S",
    "-nographic",
    "-daemonize",
    "-no-hpet",
    "-s",
    "-only-migratable",
];

/// Flags that would keep the floor from starting, ending or being waited for.
const DROPPED_FLAGS: &[&str] = &["-S", "-daemonize", "-no-shutdown", "-nographic", "-s"];

/// Options that belong to disks, shares, the link, the monitor and the console's old place.
const DROPPED_OPTIONS: &[&str] = &[
    "-drive",
    "-blockdev",
    "-chardev",
    "-serial",
    "-parallel",
    "-mon",
    "-monitor",
    "-qmp",
    "-pidfile",
    "-add-fd",
    "-netdev",
    "-nic",
    "-net",
    "-incoming",
    "-initrd",
    "-D",
    "-d",
    "-fsdev",
    "-virtfs",
];

/// Devices that belong to disks, shares and the link.
const DROPPED_DEVICES: &[&str] = &[
    "virtio-blk",
    "virtio-serial",
    "virtserialport",
    "virtconsole",
    "vhost-",
    "virtio-net",
    "virtio-9p",
    "isa-serial",
];

/// The machine's command line without what viv adds, and with the floor's initramfs and console.
fn floor_argv(machine: &[String], initramfs: &Path) -> Result<Vec<String>> {
    let mut words = machine.iter();
    let mut argv = vec![words.next().context("an empty command line")?.clone()];
    let (mut has_kernel, mut ends_on_reboot) = (false, false);
    while let Some(option) = words.next() {
        // QEMU takes two dashes as well.
        let name = if option.starts_with("--") { &option[1..] } else { option };
        if FLAGS.contains(&name) {
            ends_on_reboot |= name == "-no-reboot";
            if !DROPPED_FLAGS.contains(&name) {
                argv.push(option.clone());
            }
            continue;
        }
        let value = words.next().with_context(|| format!("{option} has no value"))?;
        let drop = DROPPED_OPTIONS.contains(&name)
            || name == "-device" && DROPPED_DEVICES.iter().any(|device| value.starts_with(device));
        if drop {
            continue;
        }
        has_kernel |= name == "-kernel";
        argv.push(option.clone());
        argv.push(match name {
            "-append" => with_console(value),
            "-object" => with_memory_of_its_own(value),
            _ => value.clone(),
        });
    }
    if !has_kernel {
        bail!("viv's machine boots no kernel directly: {}", machine.join(" "));
    }
    if !ends_on_reboot {
        argv.push("-no-reboot".to_owned());
    }
    let initramfs = initramfs.to_str().context("the scratch directory's name is not UTF-8")?;
    argv.extend(
        ["-initrd", initramfs, "-chardev", "stdio,id=floor,signal=off", "-serial", "chardev:floor"].map(str::to_owned),
    );
    Ok(argv)
}

/// The same kind of memory, made by the VMM instead of handed to it.
fn with_memory_of_its_own(object: &str) -> String {
    let mut fields: Vec<&str> = object.split(',').collect();
    let given = fields.iter().position(|field| field.starts_with("mem-path=/proc/self/fd/"));
    if let Some(given) = given.filter(|_| fields[0] == "memory-backend-file") {
        fields.remove(given);
        fields[0] = "memory-backend-memfd";
    }
    fields.join(",")
}

fn with_console(arguments: &str) -> String {
    if arguments.split(' ').any(|word| word.starts_with("console=ttyS0")) {
        arguments.to_owned()
    } else {
        format!("{arguments} console=ttyS0")
    }
}

/// Compiles the init: one file, static, without a dependency, so rustc alone will do.
fn build_init() -> Result<PathBuf> {
    let directory = workspace::target_directory()?.join("floor");
    fs::create_dir_all(&directory)?;
    let init = directory.join("floor-init");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    rustc.args(["-C", "target-feature=+crt-static", "-o"]).arg(&init);
    rustc.arg(workspace::root().join("xtask/src/bin/floor-init.rs"));
    command::capture(&mut rustc)?;
    Ok(init)
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An initramfs of `/init` and `/dev/console`, as long as a multiple of a page: microvm places ACPI
/// tables right behind it and overwrites them otherwise.
fn pack(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::with_capacity(init.len() + 4096);
    let nothing: &[u8] = &[];
    let entries = [
        ("dev", DIRECTORY, (0, 0), nothing),
        ("dev/console", CHARACTER_DEVICE, (5, 1), nothing),
        ("init", PROGRAM, (0, 0), init),
        ("TRAILER!!!", 0, (0, 0), nothing),
    ];
    for (inode, (name, mode, device, contents)) in (1u32..).zip(entries) {
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // In the order of the format: inode, mode, uid, gid, links, time, size, device of the
        // archive's file system (major, minor), device itself, length of the name, checksum.
        let size = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let name_bytes = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let numbers = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_bytes, 0];
        archive.extend_from_slice(b"070701");
        for number in numbers {
            archive.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        pad(&mut archive, 4);
        archive.extend_from_slice(contents);
        pad(&mut archive, 4);
    }
    pad(&mut archive, 4096);
    archive
}

fn pad(archive: &mut Vec<u8>, to: usize) {
    archive.resize(archive.len().next_multiple_of(to), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<String> {
        [
            "/usr/bin/qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-M",
            "microvm,acpi=on,pcie=on,memory-backend=mem",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "2048",
            "-object",
            "memory-backend-file,id=mem,size=2048M,mem-path=/proc/self/fd/3,share=on",
            "-kernel",
            "/cache/vmlinux",
            "-initrd",
            "/cache/initramfs",
            "-append",
            "quiet panic=-1 viv.link=virtio-serial",
            "-chardev",
            "socket,id=link,path=/run/x",
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtserialport,chardev=link,name=viv.link",
            "-drive",
            "file=/cache/root,if=none,id=root",
            "-device",
            "virtio-blk-pci,drive=root,serial=root",
            "-device",
            "vhost-user-fs-pci,chardev=vfs,tag=viv",
            "-device",
            "virtio-rng-pci",
            "-qmp",
            "unix:/run/q",
            "-sandbox",
            "on,spawn=deny",
            "-S",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn the_floor_is_the_same_machine_without_what_viv_adds() {
        let argv = floor_argv(&machine(), Path::new("/scratch/floor.cpio")).unwrap();
        insta::assert_snapshot!(argv.join(" "), @"/usr/bin/qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -M microvm,acpi=on,pcie=on,memory-backend=mem -accel tcg,thread=multi -cpu max -smp 2 -m 2048 -object memory-backend-memfd,id=mem,size=2048M,share=on -kernel /cache/vmlinux -append quiet panic=-1 viv.link=virtio-serial console=ttyS0 -device virtio-rng-pci -sandbox on,spawn=deny -initrd /scratch/floor.cpio -chardev stdio,id=floor,signal=off -serial chardev:floor");
    }

    #[test]
    fn a_machine_without_a_kernel_is_refused() {
        assert!(floor_argv(&["qemu-system-x86_64".into(), "-cdrom".into(), "x".into()], Path::new("/i")).is_err());
    }

    #[test]
    fn the_initramfs_is_whole_pages_of_newc() {
        let archive = pack(b"#!/bin/sh\n");
        assert_eq!(archive.len() % 4096, 0);
        assert_eq!(&archive[..6], b"070701");
        let text = String::from_utf8_lossy(&archive);
        let position = |name: &str| text.find(name).unwrap();
        assert!(position("dev/console") < position("init\0") && position("init\0") < position("TRAILER!!!"));
    }
}
