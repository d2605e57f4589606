//! Which templates a start of this viv, on this host, could use.

use std::path::{Path, PathBuf};

use viv_image::Cache;
use viv_vmm::{HostFacts, Kvm};

use super::TemplateInfo;
use super::key::{INITRAMFS, KERNEL, PROCESSOR, VIV, VMM, viv, vmm};
use super::store::same_rate;
use crate::Paths;

/// What templates are judged by.
#[derive(Debug)]
pub struct TemplateJudge<'a> {
    host: &'a HostFacts,
    guest_digest: &'a str,
    cache: Option<Cache>,
}

impl<'a> TemplateJudge<'a> {
    /// A judge for this host and the guest program with this digest.
    #[must_use]
    pub fn new(host: &'a HostFacts, guest_digest: &'a str, paths: &Paths) -> Self {
        // Without a cache no file of a template is there either.
        Self { host, guest_digest, cache: Cache::open(&paths.cache).ok() }
    }

    /// Why no start can use it, as a clause that fits "made for ..." and the like; `None` if one can, as
    /// far as can be told without reading its content.
    #[must_use]
    pub fn objection(&self, info: &TemplateInfo) -> Option<String> {
        let kernel = info.ingredients.get(KERNEL).map_or("", String::as_str);
        let initramfs = self.cache.as_ref().and_then(|cache| viv_image::initramfs_of(cache, kernel, self.guest_digest));
        objection(info, self.host, initramfs.as_deref(), &|path| path.exists())
    }
}

/// `initramfs` is the one that this viv would use with the template's kernel.
fn objection(
    info: &TemplateInfo,
    host: &HostFacts,
    initramfs: Option<&Path>,
    exists: &dyn Fn(&Path) -> bool,
) -> Option<String> {
    let ingredient = |name: &str| info.ingredients.get(name).map_or("", String::as_str);
    let version = |text: &str| text.split([' ', ',']).next().unwrap_or_default().to_owned();
    if ingredient(VIV) != viv() {
        return Some(format!("made by viv {}", version(ingredient(VIV))));
    }
    if ingredient(VMM) != vmm(host) {
        return Some("made with another QEMU".to_owned());
    }
    if let Some(gone) = info.files.iter().find(|path| !exists(path)) {
        return Some(format!("{} is gone", gone.display()));
    }
    if initramfs != Some(&PathBuf::from(ingredient(INITRAMFS))) {
        return Some("made by another build of viv".to_owned());
    }
    match (info.ingredients.get(PROCESSOR), &host.kvm) {
        (Some(_), Kvm::Unusable(_)) => return Some("made with KVM, which cannot be used".to_owned()),
        (Some(processor), _) if *processor != host.processor => {
            return Some("made on another processor".to_owned());
        }
        _ => {}
    }
    let clock_fits = info.tsc_khz.is_none() || same_rate(info.tsc_khz, Some(host.tsc_khz));
    (!clock_fits).then(|| "made when the host's clock ran at another rate".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Ingredients;

    fn host() -> HostFacts {
        HostFacts {
            qemu: viv_vmm::QemuBinary { path: "/usr/bin/qemu".into(), version: "10.0.2".into(), stamp: "1".into() },
            kvm: Kvm::Unusable("there is no /dev/kvm".into()),
            tsc_khz: 2_000_000,
            cpus: 2,
            processor: "ours".into(),
            vhost_vsock: false,
        }
    }

    fn info() -> TemplateInfo {
        let ingredients = [(VIV, viv()), (VMM, vmm(&host())), (INITRAMFS, "/cache/initramfs".to_owned())];
        TemplateInfo {
            key: "aa".into(),
            created_at_unix_ms: 0,
            used_at_unix_ms: 0,
            disk_bytes: 0,
            ingredients: ingredients.map(|(name, value)| (name.to_owned(), value)).into(),
            tsc_khz: Some(2_000_000),
            files: vec!["/cache/kernel".into()],
        }
    }

    fn with(name: &str, value: &str) -> TemplateInfo {
        let own = info();
        let changed = Ingredients::from([(name.to_owned(), value.to_owned())]);
        TemplateInfo { ingredients: own.ingredients.into_iter().chain(changed).collect(), ..own }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let there = |info: &TemplateInfo, host: &HostFacts| {
            objection(info, host, Some(Path::new("/cache/initramfs")), &|_| true).unwrap_or_else(|| "fits".to_owned())
        };
        let kvm = HostFacts { kvm: Kvm::Usable, ..host() };
        let said = [
            there(&info(), &host()),
            there(&with(VIV, "0.0.9, templates 1"), &host()),
            there(&with(VMM, "/usr/bin/qemu 9.2.0, 1"), &host()),
            there(&with(INITRAMFS, "/cache/other"), &host()),
            there(&info(), &HostFacts { tsc_khz: 2_100_000, ..host() }),
            there(&info(), &HostFacts { tsc_khz: 2_000_001, ..host() }),
            there(&with(PROCESSOR, "ours"), &host()),
            there(&with(PROCESSOR, "theirs"), &kvm),
            there(&TemplateInfo { tsc_khz: None, ..with(PROCESSOR, "ours") }, &kvm),
            objection(&info(), &host(), None, &|_| false).unwrap_or_default(),
        ];
        insta::assert_snapshot!(said.join("\n"));
    }
}
