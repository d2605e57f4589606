//! The tools a build runs, as data.

use std::num::NonZeroU32;
use std::path::Path;

use crate::run::Invocation;
use crate::tools::SYSTEM_PATH;

/// What is not unpacked: nearly half of the source, of which no PC's kernel is made and which is not
/// read by its configuration either.
const UNUSED: [&str; 4] =
    ["*/Documentation/*/*", "*/tools/testing/*", "*/arch/*/boot/dts/*", "*/drivers/gpu/drm/amd/include/*"];

fn invocation(program: &'static str, arguments: Vec<String>, environment: Vec<(String, String)>) -> Invocation {
    let path = ("PATH".to_owned(), SYSTEM_PATH.to_owned());
    Invocation { program, arguments, environment: [vec![path], environment].concat() }
}

/// Unpacks the package into `tree`.
pub(crate) fn unpack_package(package: &Path, tree: &Path) -> Invocation {
    let arguments = vec!["--extract".to_owned(), package.display().to_string(), tree.display().to_string()];
    invocation("dpkg-deb", arguments, Vec::new())
}

/// Unpacks the source within the package into `tree`, without the directory it is packed in.
pub(crate) fn unpack_source(archive: &Path, tree: &Path) -> Invocation {
    let mut arguments = vec![
        "--extract".to_owned(),
        "--xz".to_owned(),
        format!("--file={}", archive.display()),
        format!("--directory={}", tree.display()),
        "--strip-components=1".to_owned(),
        "--no-same-owner".to_owned(),
    ];
    arguments.extend(UNUSED.iter().map(|pattern| format!("--exclude={pattern}")));
    invocation("tar", arguments, Vec::new())
}

/// Writes `.config`: what the fragment asks for, and nothing else that can be left out.
pub(crate) fn configure(tree: &Path, fragment: &Path, temporary: &Path) -> Invocation {
    let arguments = vec![
        "--silent".to_owned(),
        format!("--directory={}", tree.display()),
        format!("KCONFIG_ALLCONFIG={}", fragment.display()),
        "allnoconfig".to_owned(),
    ];
    invocation("make", arguments, make_environment(temporary))
}

/// Builds `vmlinux`.
pub(crate) fn compile(tree: &Path, jobs: NonZeroU32, temporary: &Path) -> Invocation {
    let arguments = vec![
        "--no-print-directory".to_owned(),
        format!("--directory={}", tree.display()),
        format!("--jobs={jobs}"),
        "vmlinux".to_owned(),
    ];
    invocation("make", arguments, make_environment(temporary))
}

/// Takes out of `vmlinux` what only debuggers read; QEMU would read it at every start.
pub(crate) fn strip(vmlinux: &Path) -> Invocation {
    invocation("strip", vec!["--strip-all".to_owned(), vmlinux.display().to_string()], Vec::new())
}

/// Neither user, host nor date goes into a kernel.
fn make_environment(temporary: &Path) -> Vec<(String, String)> {
    [
        ("HOME", "/".to_owned()),
        ("LC_ALL", "C".to_owned()),
        ("TMPDIR", temporary.display().to_string()),
        ("KBUILD_BUILD_USER", "viv".to_owned()),
        ("KBUILD_BUILD_HOST", "viv".to_owned()),
        ("KBUILD_BUILD_VERSION", "1".to_owned()),
        ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build() {
        let build = Path::new("/var/tmp/viv-build-1");
        let tree = build.join("source");
        let jobs = NonZeroU32::new(2).unwrap();
        let plans = [
            unpack_package(&build.join("source.deb"), &build.join("package")),
            unpack_source(&build.join("package/usr/src/linux-source-6.12.tar.xz"), &tree),
            configure(&tree, &build.join("fragment.config"), build),
            compile(&tree, jobs, build),
            strip(&tree.join("vmlinux")),
        ];
        let lines = plans.iter().map(|plan| format!("{} {}", plan.program, plan.arguments.join(" ")));
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r"
        dpkg-deb --extract /var/tmp/viv-build-1/source.deb /var/tmp/viv-build-1/package
        tar --extract --xz --file=/var/tmp/viv-build-1/package/usr/src/linux-source-6.12.tar.xz --directory=/var/tmp/viv-build-1/source --strip-components=1 --no-same-owner --exclude=*/Documentation/*/* --exclude=*/tools/testing/* --exclude=*/arch/*/boot/dts/* --exclude=*/drivers/gpu/drm/amd/include/*
        make --silent --directory=/var/tmp/viv-build-1/source KCONFIG_ALLCONFIG=/var/tmp/viv-build-1/fragment.config allnoconfig
        make --no-print-directory --directory=/var/tmp/viv-build-1/source --jobs=2 vmlinux
        strip --strip-all /var/tmp/viv-build-1/source/vmlinux
        ");
        let environment = &compile(&tree, jobs, build).environment;
        let lines = environment.iter().map(|(name, value)| format!("{name}={value}"));
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r"
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        HOME=/
        LC_ALL=C
        TMPDIR=/var/tmp/viv-build-1
        KBUILD_BUILD_USER=viv
        KBUILD_BUILD_HOST=viv
        KBUILD_BUILD_VERSION=1
        KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970
        ");
    }
}
