# As root, the first process of new namespaces: becomes systemd, to which the host in $1 and the cache in $2 are all of
# this machine that can be written. The machine's own units are none of its: they would set up devices, remove files of
# others and change the kernel's settings.
set -eu
root=$1
cache=$2
systemd=$3
mount --make-rprivate /
umount "$root/cgroup"
while read -r _ at _; do
    # One that is hidden by another cannot be reached, not even by us.
    mount -o remount,bind,ro "$at" 2>/dev/null || true
done </proc/self/mounts

mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/lock /run/user /run/kept /run/dev
number=0
for kept in "$root" "$cache"; do
    number=$((number + 1))
    mkdir "/run/kept/$number"
    mount --bind "$kept" "/run/kept/$number"
    mount -o remount,bind,rw "/run/kept/$number"
done
for emptied in /tmp /var/tmp /var/log /var/lib/systemd /etc/systemd/system /etc/systemd/user; do
    [ ! -d "$emptied" ] || mount -t tmpfs -o mode=755 tmpfs "$emptied"
done
chmod 1777 /tmp /var/tmp
# Journals of users are apart from the system's where they outlive it (journald.conf(5), SplitMode).
mkdir /var/log/journal
number=0
for kept in "$root" "$cache"; do
    number=$((number + 1))
    mkdir -p "$kept"
    mount --move "/run/kept/$number" "$kept"
done

mount -t tmpfs -o mode=755 tmpfs /run/dev
mkdir /run/dev/net /run/dev/pts /run/dev/shm
for node in null zero full random urandom tty kvm vhost-vsock vhost-net net/tun; do
    [ -e "/dev/$node" ] || continue
    : >"/run/dev/$node"
    mount --bind "/dev/$node" "/run/dev/$node"
done
ln -s /proc/self/fd /run/dev/fd
for stream in stdin:0 stdout:1 stderr:2; do
    ln -s "fd/${stream#*:}" "/run/dev/${stream%:*}"
done
mount -t devpts -o newinstance,ptmxmode=666 devpts /run/dev/pts
ln -s pts/ptmx /run/dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs /run/dev/shm
mount --move /run/dev /dev

mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
# Settings of the network are those of our own namespace.
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,ro /proc/sys
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# systemd.unit(5), sd_booted(3), https://systemd.io/CONTAINER_INTERFACE
exec env -i "PATH=$PATH" container=viv-test "SYSTEMD_UNIT_PATH=$root/systemd/units:/etc/systemd/system" \
    "$systemd" --system --unit=viv-test.target --log-target=console --show-status=no
