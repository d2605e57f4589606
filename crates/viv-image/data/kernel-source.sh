# Runs on the host inside mmdebstrap's namespaces, as an extract hook: $1 is an empty root whose apt
# knows the suite. Writes to its standard input, which is the output file, opened by the caller:
# without VIV_SOURCE_PACKAGE the name and version of the package that the meta package of kernel
# sources stands for, else that package (NAME=VERSION), checked by apt. Nothing is installed.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
if [ -z "$VIV_SOURCE_PACKAGE" ]; then
    package=$(apt-cache depends linux-source | sed -n 's/^ *Depends: \(linux-source-[0-9].*\)$/\1/p' | head -n 1)
    if [ -z "$package" ]; then
        echo "E: linux-source names no package with a kernel's source" >&2
        exit 1
    fi
    version=$(apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p' | head -n 1)
    echo "$package=$version" >&0
    exit 0
fi
cd "$1"
echo "viv-step: downloading $VIV_SOURCE_PACKAGE"
# The download directory is the chroot's, which the _apt user cannot enter.
apt-get -o APT::Sandbox::User=root download "$VIV_SOURCE_PACKAGE"
cat "${VIV_SOURCE_PACKAGE%%=*}"_*.deb >&0
