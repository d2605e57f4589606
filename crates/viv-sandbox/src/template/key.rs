//! Which template a sandbox can be restored from. Pure.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use viv_vmm::{Accel, HostFacts, MachineSpec, MachineStart, qemu};

use crate::error::adopt;
use crate::plan::Artifacts;
use crate::template::{FORMAT, TemplatePlan};
use crate::{Result, SandboxSpec};

/// How many hexadecimal digits of the digest make a key.
const KEY_DIGITS: usize = 32;

/// Everything a template is made of, by name. Two sandboxes with the same can be restored from the
/// same template; whatever differs between them is given to the guest after that.
pub(crate) type Ingredients = BTreeMap<String, String>;

// The names of those ingredients that others ask for.
pub(super) const VIV: &str = "viv";
pub(super) const VMM: &str = "vmm";
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRAMFS: &str = "initramfs";
/// Only where the guest sees the host's own.
pub(super) const PROCESSOR: &str = "processor";

/// Plans the making and the use of the template of a machine.
pub(crate) fn plan(
    spec: &SandboxSpec,
    machine: &MachineSpec,
    artifacts: &Artifacts,
    host: &HostFacts,
) -> Result<TemplatePlan> {
    let with = |start, host: &HostFacts| {
        let anonymous = MachineSpec { name: "viv-template".to_owned(), start, ..machine.clone() };
        qemu::plan(&anonymous, host).map_err(adopt)
    };
    // The rate of the clock is measured anew at each boot of the host, and compared by itself.
    let arguments = with(MachineStart::Boot, &HostFacts { tsc_khz: 0, ..host.clone() })?.arguments;
    let restore = MachineSpec { start: MachineStart::Restore, ..machine.clone() };
    let ingredients = ingredients(spec, artifacts, host, machine.accel, &arguments);
    Ok(TemplatePlan {
        key: key(&ingredients),
        tsc_khz: (machine.accel == Accel::Tcg).then_some(host.tsc_khz),
        save: with(MachineStart::BootToSave, host)?,
        restore: qemu::plan(&restore, host).map_err(adopt)?,
        files: [&artifacts.kernel, &artifacts.initramfs, &artifacts.root, &artifacts.scratch]
            .into_iter()
            .chain(&artifacts.layers)
            .cloned()
            .collect(),
        ingredients,
    })
}

/// The viv it is made by.
pub(super) fn viv() -> String {
    format!("{}, templates {FORMAT}", env!("CARGO_PKG_VERSION"))
}

/// The VMM it is made with.
pub(super) fn vmm(host: &HostFacts) -> String {
    format!("{} {}, {}", host.qemu.path.display(), host.qemu.version, host.qemu.stamp)
}

fn ingredients(
    spec: &SandboxSpec,
    artifacts: &Artifacts,
    host: &HostFacts,
    accel: Accel,
    arguments: &[String],
) -> Ingredients {
    let user = &spec.user;
    let file = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let mut ingredients = Ingredients::from(
        [
            (VIV, viv()),
            (VMM, vmm(host)),
            ("machine", arguments.join(" ")),
            (KERNEL, artifacts.kernel_digest.clone()),
            // Guest and modules; the file's name is its digest.
            (INITRAMFS, file(&artifacts.initramfs)),
            ("image", artifacts.root_digest.clone()),
            ("disk", file(&artifacts.scratch)),
            ("memory", format!("{} MiB", spec.memory_mib)),
            ("cpus", spec.cpus.to_string()),
            ("user", format!("{} {} {} {}", user.name, user.uid, user.gid, user.home)),
            ("timezone", spec.timezone.clone().unwrap_or_default()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    if !artifacts.layers.is_empty() {
        // Their names are their digests.
        let layers: Vec<String> = artifacts.layers.iter().map(|layer| file(layer)).collect();
        ingredients.insert("layers".to_owned(), layers.join(" "));
    }
    if accel == Accel::Kvm {
        // The guest has seen its processor, which KVM does not invent.
        ingredients.insert(PROCESSOR.to_owned(), host.processor.clone());
    }
    ingredients
}

fn key(ingredients: &Ingredients) -> String {
    let mut digest = Sha256::new();
    for (name, value) in ingredients {
        // Lengths keep one value from passing for two.
        digest.update(format!("{name} {}\n{value}\n", value.len()));
    }
    let mut key = hex::encode(digest.finalize());
    key.truncate(KEY_DIGITS);
    key
}
