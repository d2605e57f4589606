# Makes a Debian with apt and a directory of packages, as an erofs image that is written to standard
# input. TIME is the time of the packages' files.
set -eu
work=$(mktemp -d /var/tmp/viv-repository-XXXXXX)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"
repository=$work/repository
mkdir "$repository"

# package NAME VERSION DEPENDS: with a file that says the version; the postinst is standard input.
package() {
    tree=$work/$1-$2
    mkdir -p "$tree/DEBIAN" "$tree/usr/share/$1"
    chmod 0755 "$tree" "$tree/DEBIAN"
    echo "$2" >"$tree/usr/share/$1/version"
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n' "$1" "$2"
        if [ -n "$3" ]; then printf 'Depends: %s\n' "$3"; fi
        printf 'Description: for a test\n'
    } >"$tree/DEBIAN/control"
    { echo '#!/bin/bash'; cat; } >"$tree/DEBIAN/postinst"
    chmod 0755 "$tree/DEBIAN/postinst"
    find "$tree" -exec touch --no-dereference --date="@$TIME" {} +
    dpkg-deb --root-owner-group --build "$tree" "$repository/$1_$2_all.deb" >&2
    {
        cat "$tree/DEBIAN/control"
        echo "Filename: ./$1_$2_all.deb"
        echo "Size: $(stat -c %s "$repository/$1_$2_all.deb")"
        echo "SHA256: $(sha256sum "$repository/$1_$2_all.deb" | cut -d ' ' -f 1)"
        echo
    } >>"$repository/Packages"
}

package alpha 1.0 '' </dev/null
package alpha 2.0 '' </dev/null
package beta 1.0 alpha </dev/null
package broken 1.0 '' <<'SCRIPT'
echo broken on purpose >&2
exit 1
SCRIPT
package slow 1.0 '' <<'SCRIPT'
: >/usr/share/slow/started
sleep 987654
SCRIPT
package probe 1.0 '' <<'SCRIPT'
cd /usr/share/probe
cat /proc/net/dev >interfaces
cat /proc/net/route >routes
if (: </dev/tcp/127.0.0.1/22) 2>/dev/null || (: </dev/tcp/192.0.2.1/80) 2>/dev/null; then echo open; else echo refused; fi >connect
env >environment
cat /proc/self/mountinfo >mounts
if ls -d /var/tmp/.tmp* /home/*/* 2>/dev/null; then echo secret; else echo no secret; fi >root
for process in /proc/[0-9]*; do echo "${process#/proc/}"; done >processes
for descriptor in /proc/self/fd/*; do echo "${descriptor##*/} $(readlink "$descriptor")"; done >descriptors
cat /proc/self/status >status
cat /proc/self/cgroup >cgroup
cat /proc/keys >keys
attempt() {
    name=$1
    shift
    if "$@" 2>/dev/null; then echo "$name: done"; else echo "$name: refused"; fi
}
{
    attempt mount mount -t tmpfs none /mnt
    attempt unshare unshare --user true
    attempt sysctl sh -c 'echo 1 >/proc/sys/user/max_user_namespaces'
    attempt cache sh -c 'echo >/viv-build/cache/poison'
    attempt mknod mknod /tmp/disk b 8 0
} >attempts
# Whatever this reaches is its own.
kill -KILL 1
:
SCRIPT
package remover 1.0 '' <<'SCRIPT'
rm /usr/share/victims/file
rm -r /usr/share/victims/directory
mkdir /usr/share/victims/directory
: >/usr/share/victims/directory/new
cd /usr/share/remover
echo owned >owned
chown 1234:4321 owned
chmod 4755 owned
ln owned linked
setfattr -n user.name -v value owned
SCRIPT
look() {
    cat <<'SCRIPT'
cd /usr/share
there() { if [ -e "$2" ]; then echo "$1: here"; else echo "$1: gone"; fi; }
mkdir -p looker
{
    there victim victims/file
    there old victims/directory/old
    there new victims/directory/new
    echo "owner: $(stat -c '%u:%g %a' remover/owned)"
    echo "links: $(stat -c %h remover/linked)"
    echo "attribute: $(getfattr --only-values -n user.name remover/owned)"
} >looker/report
SCRIPT
}
look | package looker 1.0 remover
look | package looker-again 1.0 remover

cat >"$repository/Release" <<RELEASE
Suite: test
Date: $(date --utc --rfc-email --date="@$TIME")
SHA256:
 $(sha256sum "$repository/Packages" | cut -d ' ' -f 1) $(stat -c %s "$repository/Packages") Packages
RELEASE

# The image goes to the standard input of the hook, as root images do.
cat >"$work/finish.sh" <<'FINISH'
set -eu
root=$1
mkdir -p "$root/usr/share/victims/directory"
: >"$root/usr/share/victims/file"
: >"$root/usr/share/victims/directory/old"
rm -rf "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
printf '%s\n' 'deb [trusted=yes] copy:/srv/repository ./' >"$root/etc/apt/sources.list"
# Without what is mounted in it.
unshare --mount --propagation private sh -eu -c '
    mount --bind "$1" "$1/mnt"
    mkfs.erofs --quiet --exclude-regex="^(dev|proc|run|sys|tmp)/" "$1/tmp/image" "$1/mnt" >&2
' sh "$root"
cat "$root/tmp/image" >&0
FINISH
mirror=${VIV_DEBIAN_MIRROR:+deb $VIV_DEBIAN_MIRROR trixie main}
mode=unshare
if [ "$(id -u)" = 0 ]; then mode=root; fi
mmdebstrap --quiet --mode="$mode" --variant=apt --format=null --skip=cleanup/mmdebstrap,cleanup/apt,cleanup/tmp,cleanup/run \
    --include=attr --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="copy-in $repository /srv" \
    --customize-hook="sh $work/finish.sh \"\$1\"" trixie - ${mirror:+"$mirror"}
