# Runs on the host inside mmdebstrap's namespaces, as the last customize hook: $1 is the root being
# built. Gives it its few settings, removes what belongs to the host or to the build, and makes the
# image, which it writes to its standard input: that is the output file, opened by the caller, who
# owns a directory this script cannot enter.
set -eu
root="$1"
cd "$root"

echo 'viv-step: settling the root file system'
# The names people type.
ln -s ../../bin/fdfind usr/local/bin/fd
ln -s ../../bin/vim.tiny usr/local/bin/vim

# Nothing starts by being installed: there is no init in the guest to look after it.
printf '%s\n' '#!/bin/sh' 'exit 101' >usr/sbin/policy-rc.d
chmod 0755 usr/sbin/policy-rc.d

# The agent user itself is made at boot, with the host user's id.
printf '%s\n' 'agent ALL=(ALL) NOPASSWD: ALL' >etc/sudoers.d/viv
chmod 0440 etc/sudoers.d/viv
chroot "$root" visudo --check --quiet

# sshd: no host keys of its own, and Debian's own switch against starting, which its init script and
# its unit both heed; upgrading the package in a guest does not start it either.
rm -f etc/ssh/ssh_host_*
: >etc/ssh/sshd_not_to_be_run

# The host's names, the build's settings, identities.
rm -f etc/resolv.conf etc/hostname etc/hosts etc/machine-id var/lib/dbus/machine-id
: >etc/resolv.conf
: >etc/machine-id
printf '%s\n' '127.0.0.1 localhost' '::1 localhost ip6-localhost ip6-loopback' >etc/hosts
rm -f etc/apt/apt.conf.d/00mmdebstrap etc/apt/apt.conf.d/99mmdebstrap
printf '%s\n' 'Acquire::Languages "none";' >etc/apt/apt.conf.d/90viv
if [ -e etc/apt/sources.list ]; then
    # A mirror may have been named with a password.
    sed -i -E 's#(://)[^/@[:space:]]*@#\1#' etc/apt/sources.list
fi

# What can be had again or is stale at once.
rm -rf var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/cache/ldconfig/* var/lib/dpkg/*-old
rm -f etc/passwd- etc/group- etc/shadow- etc/gshadow- etc/.pwd.lock
find var/log -type f -delete

# sudo is no use without its setuid bit, which a build directory on an odd file system may lose.
test -u usr/bin/sudo

echo 'viv-step: making the image'
# A bind mount shows the root without what is mounted in it. The mount is made in a namespace of its
# own, so that it is gone with this script however that ends.
# shellcheck disable=SC2016
unshare --mount --propagation private sh -eu -c '
    mount --bind "$1" "$1/mnt"
    mkfs.erofs --quiet --exclude-regex="^(dev|proc|run|sys|tmp)/" "$1/tmp/root.erofs" "$1/mnt"
' sh "$root"
cat tmp/root.erofs >&0
