use super::*;
use crate::cache::Made;
use crate::kernel::{KernelSource, ensure_kernel};
use crate::output::tests::Recorder;
use crate::progress::NoProgress;

/// A cache with kernels that nobody compiled, built in this order.
pub(crate) fn with_kernels(contents: &[&str]) -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    for (number, content) in contents.iter().enumerate() {
        let package = format!("linux-source-6.12=6.12.{number}-1");
        let build = |staging: &Staging<'_>| {
            let path = staging.directory.join(VMLINUX);
            fs::write(&path, content).unwrap();
            let facts = [
                ("release", format!("6.12.{number}-viv")),
                ("source", package.clone()),
                ("built", (1_700_000_000 + number).to_string()),
                ("lines", (1000 + number).to_string()),
            ];
            let facts = BTreeMap::from(facts.map(|(name, value)| (name.to_owned(), value)));
            Ok(Built { facts, files: vec![(VMLINUX.to_owned(), path)] })
        };
        cache.ensure(&recipe(&package), &NoProgress, build).unwrap();
    }
    (directory, cache)
}

#[test]
fn the_newest_is_listed_first_and_found_by_a_beginning() {
    let (_directory, cache) = with_kernels(&["old", "new"]);
    let kernels = own_kernels(&cache).unwrap();
    let releases: Vec<_> = kernels.iter().map(|kernel| kernel.release.as_str()).collect();
    assert_eq!(releases, ["6.12.1-viv", "6.12.0-viv"]);
    assert_eq!(newest_fact(&cache, "lines").unwrap(), Some(1001));
    for kernel in &kernels {
        assert_eq!(kernel.id.len(), ID_DIGITS);
        assert_eq!(&find_own_kernel(&cache, &kernel.id[..4]).unwrap(), kernel);
        assert_eq!(&find_own_kernel(&cache, &kernel.digest).unwrap(), kernel);
        let ready = ensure_kernel(&cache, &KernelSource::Own(kernel.id.clone()), &NoProgress).unwrap();
        assert_eq!((ready.vmlinux, ready.modules), (kernel.vmlinux.clone(), Vec::new()));
    }
    let error = find_own_kernel(&cache, "zzz").unwrap_err();
    assert_eq!((*error.kind(), error.to_string().as_str()), (ErrorKind::NotFound, "there is no own kernel \"zzz\""));
    assert!(find_own_kernel(&cache, "").is_err());
}

#[test]
fn an_id_of_several_is_refused_unless_they_are_the_same() {
    let contents: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
    let (_directory, cache) = with_kernels(&contents);
    // Forty digests cannot all begin differently.
    let kernels = own_kernels(&cache).unwrap();
    let first = |kernel: &OwnKernel| kernel.id[..1].to_owned();
    let shared = kernels.iter().find(|a| kernels.iter().filter(|b| first(a) == first(b)).count() > 1).unwrap();
    assert!(find_own_kernel(&cache, &first(shared)).unwrap_err().to_string().starts_with("several own kernels"));

    let (_directory, cache) = with_kernels(&["same", "same"]);
    let id = own_kernels(&cache).unwrap()[0].id.clone();
    assert_eq!(find_own_kernel(&cache, &id).unwrap().id, id);
}

#[test]
fn debians_is_preferred_until_another_is_chosen_and_again_when_that_is_gone() {
    let (_directory, cache) = with_kernels(&["old", "new"]);
    let debian = PreferredKernel { source: KernelSource::Default, lost: None };
    assert_eq!(preferred_kernel(&cache).unwrap(), debian);
    let [new, old] = own_kernels(&cache).unwrap().try_into().unwrap();
    select_kernel(&cache, Some(&new)).unwrap();
    let preferred = preferred_kernel(&cache).unwrap();
    assert_eq!(preferred, PreferredKernel { source: KernelSource::Own(new.digest.clone()), lost: None });

    // Removing another changes nothing; removing that one goes back without a word.
    remove_own_kernel(&cache, &old.id).unwrap();
    assert_eq!(preferred_kernel(&cache).unwrap(), preferred);
    remove_own_kernel(&cache, &new.id).unwrap();
    assert_eq!(preferred_kernel(&cache).unwrap(), debian);
    assert_eq!(own_kernels(&cache).unwrap(), []);
    select_kernel(&cache, None).unwrap();
}

#[test]
fn a_chosen_kernel_that_is_gone_or_damaged_is_said_to_be_lost() {
    let (_directory, cache) = with_kernels(&["kernel"]);
    let kernel = own_kernels(&cache).unwrap().remove(0);
    select_kernel(&cache, Some(&kernel)).unwrap();
    let lost = PreferredKernel { source: KernelSource::Default, lost: Some(kernel.id.clone()) };
    fs::remove_file(&kernel.vmlinux).unwrap();
    fs::write(&kernel.vmlinux, "KERNEL").unwrap();
    assert_eq!(preferred_kernel(&cache).unwrap(), lost);
    fs::remove_file(&kernel.vmlinux).unwrap();
    assert_eq!(preferred_kernel(&cache).unwrap(), lost);
    fs::write(cache.root().join("kernels/selected"), "../../etc/passwd\n").unwrap();
    assert_eq!(preferred_kernel(&cache).unwrap().source, KernelSource::Default);
    fs::write(cache.root().join("kernels/selected"), "").unwrap();
    assert_eq!(preferred_kernel(&cache).unwrap().source, KernelSource::Default);
}

#[test]
fn only_a_package_that_fits_is_built_from() {
    let package = |answer: &str| usable_package(answer).map_err(|error| error.to_string());
    assert_eq!(package("linux-source-6.12=6.12.57-1~deb13u1").unwrap(), "linux-source-6.12=6.12.57-1~deb13u1");
    assert!(package("linux-source-7.1=7.1.2-1").is_ok());
    for odd in [
        "",
        "linux-source-6.12",
        "linux-source-6.12=",
        "linux-source-=1",
        "linux-image-6.12=1",
        "linux-source-6.12=1 x",
    ] {
        assert!(package(odd).unwrap_err().contains("an odd package"), "{odd}");
    }
    assert!(package("linux-source-6.1=6.1.2-1").unwrap_err().contains("too old"));
}

#[test]
fn what_is_built_depends_on_package_and_configuration() {
    let recipe = recipe("linux-source-6.12=6.12.57-1");
    assert_eq!(recipe.text.lines().next(), Some("own kernel from linux-source-6.12=6.12.57-1, version 1"));
    assert!(recipe.text.contains("CONFIG_PVH=y"));
}

/// A source tree that configures and makes something small with the marks of a kernel.
const SMALL_SOURCE: [(&str, &str); 2] = [
    (
        "Makefile",
        "allnoconfig:\n\tcp $(KCONFIG_ALLCONFIG) .config\n\
         vmlinux:\n\t@echo '  CC      init/main.o'\n\t@echo '  LD      vmlinux'\n\
         \tcc -nostdlib -static -o vmlinux vmlinux.S\n",
    ),
    (
        "vmlinux.S",
        ".globl _start\n_start: hlt\n\
         .section .note.Xen,\"a\",@note\n.align 4\n.long 4, 4, 18\n.asciz \"Xen\"\n.long 0x1000000\n\
         .section .rodata\n.asciz \"Linux version 6.12.1-viv (viv@viv)\"\n",
    ),
];

/// Configures, compiles and keeps a small source, with its files changed.
fn build_small(cache: &Cache, progress: &dyn Progress, change: &dyn Fn(&str) -> String) -> Result<Made> {
    cache.ensure(&recipe("linux-source-6.12=6.12.1-1"), progress, |staging| {
        let outside = Outside::new(&NoProgress)?;
        let build = Build { staging, outside: &outside, progress };
        let tree = outside.path.join("source");
        fs::create_dir(&tree).unwrap();
        for (name, content) in SMALL_SOURCE {
            fs::write(tree.join(name), change(content)).unwrap();
        }
        build.configure(&tree)?;
        let lines = build.compile(&tree, NonZeroU32::MIN, Some(2))?;
        build.keep(&tree, "linux-source-6.12=6.12.1-1", lines)
    })
}

fn can_make() -> bool {
    if ["make", "cc", "strip"].iter().all(|tool| tools::find(tool).is_some()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "make, a compiler or strip is not installed");
    eprintln!("SKIPPED: make, a compiler or strip is not installed");
    false
}

#[test]
fn what_make_makes_becomes_an_own_kernel() {
    if !can_make() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let recorder = Recorder::default();
    build_small(&cache, &recorder, &str::to_owned).unwrap();
    let kernel = own_kernels(&cache).unwrap().remove(0);
    assert_eq!((kernel.release.as_str(), kernel.source.as_str()), ("6.12.1-viv", "linux-source-6.12=6.12.1-1"));
    assert!(kernel.built <= SystemTime::now() && kernel.built > UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    assert_eq!(newest_fact(&cache, "lines").unwrap(), Some(2));
    assert!(bzimage::check(&fs::read(&kernel.vmlinux).unwrap()).is_ok());
    insta::assert_snapshot!(recorder.0.into_inner().unwrap().join("\n"), @r"
    started the own kernel
    configuring
    40/1000
    compiling
    50/1000
    compiling init
    525/1000
    linking
    990/1000
    finished
    ");
}

#[test]
fn an_option_that_is_dropped_or_a_kernel_that_cannot_boot_is_refused() {
    if !can_make() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let refused = |from: &'static str, to: &'static str| {
        let error = build_small(&cache, &NoProgress, &|text| text.replace(from, to)).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Build);
        assert_eq!(own_kernels(&cache).unwrap(), []);
        viv_error::Report::from(&error)
    };
    let dropped = refused("cp $(KCONFIG_ALLCONFIG) .config", "grep -v CONFIG_PVH $(KCONFIG_ALLCONFIG) > .config");
    assert_eq!(dropped.causes, ["CONFIG_PVH is n instead of y"]);
    let unbootable = refused(".asciz \"Xen\"", ".asciz \"GNU\"");
    assert_eq!(unbootable.message, "the kernel that was built cannot be used");
    let nameless = refused("Linux version", "Linux varsion");
    assert_eq!(nameless.message, "the kernel that was built does not say its release");
    let broken = refused(".globl _start", "no such instruction");
    assert!(
        broken.message.starts_with("make failed") && broken.causes[0].contains("no such instruction"),
        "{broken:?}"
    );
}
