# Runs on the host inside mmdebstrap's namespaces, as an extract hook: $1 is an empty root whose apt
# knows the suite. Fetches the package that the kernel's meta package stands for, checked by apt, and
# writes it to its standard input: that is the output file, opened by the caller, who owns a
# directory this script cannot enter. Nothing is installed.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
package=$(apt-cache depends "$VIV_KERNEL_PACKAGE" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
if [ -z "$package" ]; then
    echo "E: $VIV_KERNEL_PACKAGE names no kernel package" >&2
    exit 1
fi
cd "$1"
echo "viv-step: downloading $package"
# The download directory is the chroot's, which the _apt user cannot enter.
apt-get -o APT::Sandbox::User=root download "$package"
cat "${package}"_*.deb >&0
