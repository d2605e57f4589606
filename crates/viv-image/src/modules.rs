//! Which modules a guest needs before it can see its disks, and in which order.
//!
//! The dependencies are read from the modules themselves (`.modinfo`): a package that was unpacked,
//! not installed, has no `modules.dep`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::compression::decompress;
use crate::elf;

/// No module unpacks to more than this.
const LIMIT: u64 = 64 << 20;

/// When a guest loads a module. In the order in which dependencies are given away: what is needed
/// anyway is not left out because something that is not needs it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// While it boots.
    Boot,
    /// While it boots, if the link is vsock. A kernel without it is fine.
    Vsock,
    /// When it is told to configure a network device. A kernel without it is fine for those who have none.
    Network,
    /// When nobody waits any more. A kernel without it is fine.
    Later,
}

impl When {
    /// The word behind a module's name in the initramfs's list; none for what is always loaded.
    #[must_use]
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Boot => None,
            Self::Vsock => Some("vsock"),
            Self::Network => Some("network"),
            Self::Later => Some("later"),
        }
    }
}

/// A module the guest asks for by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Its name, with underscores.
    pub name: &'static str,
    /// When it is loaded.
    pub when: When,
}

/// What the guest needs: its disks (virtio_blk), its root (erofs, overlay, and ext4 for the scratch
/// disk), its shares (virtiofs), its link (virtio_console, or vsock), its network device if it has
/// one (virtio_net), and what gives memory back that it does not use (virtio_balloon). Most of it is built into Debian's cloud kernel.
pub(crate) const WANTED: [Wanted; 11] = [
    Wanted { name: "virtio_pci", when: When::Boot },
    Wanted { name: "virtio_blk", when: When::Boot },
    Wanted { name: "virtio_console", when: When::Boot },
    Wanted { name: "erofs", when: When::Boot },
    Wanted { name: "ext4", when: When::Boot },
    Wanted { name: "overlay", when: When::Boot },
    Wanted { name: "virtiofs", when: When::Boot },
    Wanted { name: "vsock", when: When::Vsock },
    Wanted { name: "vmw_vsock_virtio_transport", when: When::Vsock },
    Wanted { name: "virtio_net", when: When::Network },
    Wanted { name: "virtio_balloon", when: When::Later },
];

/// A module in load order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub name: String,
    pub when: When,
    /// Unpacked.
    pub content: Vec<u8>,
}

/// What a module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Modules whose symbols it uses.
    depends: Vec<String>,
    /// Modules or aliases it would like to find loaded.
    soft: Vec<String>,
}

/// Module names are written with either of `-` and `_`.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Reads what an unpacked module says of itself.
fn needs(module: &[u8]) -> io::Result<Needs> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "not a kernel module");
    let information = elf::section(module, ".modinfo").map_err(|_| damaged())?.ok_or_else(damaged)?;
    let mut needs = Needs::default();
    for field in information.split(|byte| *byte == 0) {
        let Ok(field) = std::str::from_utf8(field) else { continue };
        match field.split_once('=') {
            Some(("depends", names)) => {
                needs.depends = names.split(',').filter(|name| !name.is_empty()).map(normal).collect();
            }
            Some(("softdep", text)) => {
                // "pre: a b post: c"
                let before = text.split("post:").next().unwrap_or_default();
                let names = before.split_once("pre:").map_or("", |(_, names)| names);
                needs.soft.extend(names.split_whitespace().map(normal));
            }
            _ => {}
        }
    }
    Ok(needs)
}

/// The names of all modules to load, dependencies first, and when each is.
/// `lookup` knows what a module needs; `None` means it is built in or does not exist.
fn load_order<E>(
    wanted: &[Wanted],
    lookup: &mut dyn FnMut(&str) -> Result<Option<Needs>, E>,
) -> Result<Vec<(String, When)>, E> {
    fn visit<E>(
        name: &str,
        when: When,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<(String, When)>,
        lookup: &mut dyn FnMut(&str) -> Result<Option<Needs>, E>,
    ) -> Result<bool, E> {
        if !seen.insert(name.to_owned()) {
            return Ok(true);
        }
        let Some(needs) = lookup(name)? else { return Ok(false) };
        for soft in &needs.soft {
            // A soft dependency is often an algorithm's name; the module of that name with _generic is
            // what would provide it.
            if !visit(soft, when, seen, order, lookup)? {
                visit(&format!("{soft}_generic"), when, seen, order, lookup)?;
            }
        }
        for dependency in &needs.depends {
            visit(dependency, when, seen, order, lookup)?;
        }
        order.push((name.to_owned(), when));
        Ok(true)
    }
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    for when in [When::Boot, When::Vsock, When::Network, When::Later] {
        for module in wanted.iter().filter(|module| module.when == when) {
            visit(module.name, when, &mut seen, &mut order, lookup)?;
        }
    }
    Ok(order)
}

/// A kernel's tree of modules, such as `/lib/modules/6.12.107-cloud-amd64`.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    /// Lists a tree; it must have a `modules.builtin`.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let builtin = fs::read_to_string(root.join("modules.builtin"))?;
        let builtin = builtin.lines().filter_map(module_name).collect();
        let mut files = BTreeMap::new();
        let mut directories = vec![root.join("kernel")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    directories.push(entry.path());
                } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
                    files.insert(name, entry.path());
                }
            }
        }
        Ok(Self { root: root.to_path_buf(), files, builtin })
    }

    /// Unpacks what is wanted, in load order. Nothing is loaded for what is built in.
    ///
    /// # Errors
    /// `NotFound` for a wanted module that is neither there nor built in; `InvalidData` for a damaged
    /// one.
    pub(crate) fn modules(&self, wanted: &[Wanted]) -> io::Result<Vec<Module>> {
        for module in wanted {
            if module.when == When::Boot && !self.files.contains_key(module.name) && !self.builtin.contains(module.name)
            {
                let message = format!("{} has no module {}", self.root.display(), module.name);
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
        }
        let mut contents = BTreeMap::new();
        let order = load_order(wanted, &mut |name| {
            let Some(path) = self.files.get(name) else { return Ok(None) };
            let explain = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            let packed = fs::read(path).map_err(explain)?;
            let content = decompress(&packed, LIMIT).map_err(explain)?.unwrap_or(packed);
            let needs = needs(&content).map_err(explain)?;
            contents.insert(name.to_owned(), content);
            Ok::<_, io::Error>(Some(needs))
        })?;
        let modules = order
            .into_iter()
            .filter_map(|(name, when)| contents.remove(&name).map(|content| Module { name, when, content }));
        Ok(modules.collect())
    }
}

/// Cuts off the signature that is appended to a module, if there is one: the signature, a
/// `struct module_signature` whose last four bytes are the signature's length (big-endian), and a
/// marker (linux/module_signature.h).
pub(crate) fn remove_signature(module: &mut Vec<u8>) {
    const MARKER: &[u8] = b"~Module signature appended~\n";
    const HEADER_BYTES: usize = 12;
    let Some((_, length)) = module.strip_suffix(MARKER).and_then(<[u8]>::split_last_chunk::<4>) else { return };
    let signature = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    let appended = signature.saturating_add(HEADER_BYTES + MARKER.len());
    if let Some(end) = module.len().checked_sub(appended) {
        module.truncate(end);
    }
}

/// `kernel/fs/erofs/erofs.ko.xz` is `erofs`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, packing) = file.split_once(".ko")?;
    matches!(packing, "" | ".xz" | ".zst" | ".gz").then(|| normal(name))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn module(information: &str) -> Vec<u8> {
        elf::tests::sample(b"Xen\0", 0, ".modinfo", information.as_bytes())
    }

    /// Writes a tree with the given modules.
    pub(crate) fn tree(directory: &Path, builtin: &str, modules: &[(&str, &str)]) {
        fs::create_dir_all(directory.join("kernel/fs")).unwrap();
        fs::write(directory.join("modules.builtin"), builtin).unwrap();
        for (file, information) in modules {
            let mut content = module(information);
            if file.ends_with(".zst") {
                content = zstd::encode_all(&content[..], 1).unwrap();
            }
            fs::write(directory.join("kernel/fs").join(file), content).unwrap();
        }
    }

    const TEST_WANTED: [Wanted; 4] = [
        Wanted { name: "erofs", when: When::Boot },
        Wanted { name: "vmw_vsock_virtio_transport", when: When::Vsock },
        Wanted { name: "overlay", when: When::Boot },
        Wanted { name: "ext4", when: When::Boot },
    ];

    #[test]
    fn dependencies_come_first_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        tree(
            directory.path(),
            "kernel/fs/ext4/ext4.ko\n",
            &[
                ("erofs.ko.zst", "name=erofs\0depends=libcrc32c,netfs\0"),
                ("libcrc32c.ko", "softdep=pre: crc32c post: never\0depends=\0"),
                ("crc32c-generic.ko", "depends=\0"),
                ("netfs.ko", "depends=\0"),
                ("never.ko", "depends=\0"),
                ("overlay.ko", "depends=netfs\0"),
                ("vmw_vsock_virtio_transport.ko", "depends=vmw_vsock_virtio_transport_common,vsock,netfs\0"),
                ("vmw_vsock_virtio_transport_common.ko", "depends=vsock\0"),
                ("vsock.ko", "depends=\0"),
            ],
        );
        let modules = Tree::open(directory.path()).unwrap().modules(&TEST_WANTED).unwrap();
        let order: Vec<String> = modules
            .iter()
            .map(|module| {
                format!("{}{}", module.name, module.when.word().map(|word| format!(" {word}")).unwrap_or_default())
            })
            .collect();
        insta::assert_snapshot!(order.join("\n"), @r#"
        crc32c_generic
        libcrc32c
        netfs
        erofs
        overlay
        vsock vsock
        vmw_vsock_virtio_transport_common vsock
        vmw_vsock_virtio_transport vsock
        "#);
        assert!(modules.iter().all(|module| module.content.starts_with(b"\x7fELF")));
    }

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let cut = |bytes: &[u8]| {
            let mut module = bytes.to_vec();
            remove_signature(&mut module);
            module
        };
        let marker = b"~Module signature appended~\n";
        let signed = [b"\x7fELF module", &b"SIGNED"[..], &[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 6], marker].concat();
        assert_eq!(cut(&signed), b"\x7fELF module");
        assert_eq!(cut(b"\x7fELF module"), b"\x7fELF module");
        assert_eq!(cut(marker), marker);
        let lying = [&[0xff; 12][..], marker].concat();
        assert_eq!(cut(&lying), lying);
    }

    #[test]
    fn a_circle_ends() {
        let needs = |depends: &str| Needs { depends: vec![depends.to_owned()], soft: Vec::new() };
        let wanted = [Wanted { name: "a", when: When::Boot }];
        let order =
            load_order::<()>(&wanted, &mut |name| Ok(Some(needs(if name == "a" { "b" } else { "a" })))).unwrap();
        assert_eq!(order, [("b".to_owned(), When::Boot), ("a".to_owned(), When::Boot)]);
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let directory = tempfile::tempdir().unwrap();
        tree(directory.path(), "kernel/fs/ext4/ext4.ko\nkernel/fs/overlay.ko\n", &[]);
        let error = Tree::open(directory.path()).unwrap().modules(&TEST_WANTED).unwrap_err();
        assert!(error.to_string().ends_with("has no module erofs"), "{error}");
        fs::write(directory.path().join("kernel/fs/erofs.ko.xz"), b"garbage").unwrap();
        let error = Tree::open(directory.path()).unwrap().modules(&TEST_WANTED).unwrap_err();
        assert!(error.to_string().ends_with("erofs.ko.xz: not a kernel module"), "{error}");
    }

    #[test]
    fn names() {
        assert_eq!(module_name("kernel/fs/erofs/erofs.ko.xz").as_deref(), Some("erofs"));
        assert_eq!(module_name("virtio-rng.ko").as_deref(), Some("virtio_rng"));
        assert_eq!(module_name("modules.order"), None);
    }
}
