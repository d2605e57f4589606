//! From a machine's specification to a running virtual machine.
//!
//! ```text
//!  MachineSpec ──qemu::plan (pure)──► CommandPlan ──launch──► Machine
//!  HostFacts ───────┘                 argv, descriptors        pid, exit, console tail, events, link
//! ```
//!
//! A driver turns a [`MachineSpec`] into a [`CommandPlan`] without touching the host, so that the
//! plan can be printed and snapshot-tested; [`launch`] carries it out. QEMU is the one driver for
//! now; what the host can do is gathered beforehand in [`HostFacts`].

mod console;
mod error;
mod facts;
mod machine;
pub mod memory;
mod qmp;
mod spec;
mod sys;
mod tsc;

pub mod qemu;

pub use console::{Tail, clean};
pub use error::{Error, ErrorKind, Result};
pub use facts::{HostFacts, Kvm, OLDEST_QEMU, OLDEST_QEMU_FOR_TEMPLATES, QemuBinary};
pub use machine::{Change, Event, Machine, launch};
pub use spec::{
    Accel, AccelChoice, Backing, CommandPlan, Descriptor, Disk, LinkCarrier, MachineSpec, MachineStart, NetworkBacking,
    NetworkCard, Placed, kernel_arguments,
};
pub use sys::die_with_parent;
