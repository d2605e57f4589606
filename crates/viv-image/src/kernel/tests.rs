use super::*;
use crate::modules::tests::tree;
use crate::progress::NoProgress;

const MODULES: [(&str, &str); 4] = [
    ("virtio_blk.ko.zst", "depends=\0"),
    ("erofs.ko", "depends=netfs\0"),
    ("netfs.ko", "depends=\0"),
    ("vsock.ko", "depends=\0"),
];
const BUILTIN: &str =
    "kernel/virtio_pci.ko\nkernel/virtio_console.ko\nkernel/ext4.ko\nkernel/overlay.ko\nkernel/virtiofs.ko\n";

fn bzimage() -> Vec<u8> {
    let kernel = bzimage::tests::vmlinux();
    let mut packed = zstd::encode_all(&kernel[..], 1).unwrap();
    packed.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
    bzimage::tests::bzimage(&packed)
}

fn ensure(cache: &Cache, path: &Path) -> Result<Kernel> {
    ensure_kernel(cache, &KernelSource::File(path.to_path_buf()), &NoProgress)
}

#[test]
fn a_bzimage_with_modules_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    let path = directory.path().join("bzImage");
    fs::write(&path, bzimage()).unwrap();
    let bare = ensure(&cache, &path).unwrap();
    assert_eq!((bare.release.as_str(), bare.modules.len()), ("6.12.1-test", 0));
    assert!(fs::read(&bare.vmlinux).unwrap() == bzimage::tests::vmlinux());

    tree(&directory.path().join("lib/modules/6.12.1-test"), BUILTIN, &MODULES);
    let kernel = ensure(&cache, &path).unwrap();
    let names: Vec<_> = kernel.modules.iter().map(|module| (module.name.as_str(), module.when)).collect();
    assert_eq!(
        names,
        [
            ("00-virtio_blk.ko", When::Boot),
            ("01-netfs.ko", When::Boot),
            ("02-erofs.ko", When::Boot),
            ("03-vsock.ko", When::Vsock),
        ]
    );
    assert_ne!(kernel.digest, bare.digest);
    assert_eq!(ensure(&cache, &path).unwrap(), kernel);
}

#[test]
fn an_elf_kernel_is_used_where_it_is_until_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    let path = directory.path().join("vmlinux");
    fs::write(&path, bzimage::tests::vmlinux()).unwrap();
    let kernel = ensure(&cache, &path).unwrap();
    assert_eq!(kernel.vmlinux, path.canonicalize().unwrap());
    assert_eq!(kernel.digest, crate::cache::hash_file(&path).unwrap());
    assert_eq!(ensure(&cache, &path).unwrap(), kernel);

    let mut other = bzimage::tests::vmlinux();
    other.push(0);
    fs::write(&path, other).unwrap();
    assert_ne!(ensure(&cache, &path).unwrap().digest, kernel.digest);
    fs::write(&path, &bzimage::tests::vmlinux()[..100]).unwrap();
    let error = ensure(&cache, &path).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::BadKernel);
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "it is cut short");
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("cache")).unwrap();
    let missing = ensure(&cache, &directory.path().join("nothing")).unwrap_err();
    assert_eq!(*missing.kind(), ErrorKind::NotFound);
    let path = directory.path().join("script");
    fs::write(&path, "#!/bin/sh\n").unwrap();
    assert_eq!(*ensure(&cache, &path).unwrap_err().kind(), ErrorKind::BadKernel);
    assert_eq!(*ensure(&cache, directory.path()).unwrap_err().kind(), ErrorKind::Io);
}
