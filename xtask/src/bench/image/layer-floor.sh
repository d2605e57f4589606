# The package manager by itself, as root of a mount and a pid namespace. $0 says what is to be done; the
# directory is one of the bench's own.
set -eu

# Runs a command with $1 as its root.
inside() {
    root=$1
    shift
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    # As the building of layers has it: nothing starts by being installed.
    DEBIAN_FRONTEND=noninteractive HOME=/ TMPDIR=/tmp LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"
}

case $0 in
prepare)
    fsck.erofs --extract=base "$1" >&2
    cp apt.conf base/etc/apt/apt.conf.d/90bench
    cat >>base/etc/apt/apt.conf.d/90bench <<'END'
Acquire::Languages "none";
Acquire::Retries "3";
APT::Install-Recommends "false";
DPkg::Use-Pty "false";
DPkg::Options { "--force-confdef"; "--force-confold"; "--force-unsafe-io"; };
END
    for file in resolv.conf apt/auth.conf ssl/certs/ca-certificates.crt; do
        if [ -e "/etc/$file" ]; then
            mkdir -p "$(dirname "base/etc/$file")"
            rm -f "base/etc/$file"
            cp "/etc/$file" "base/etc/$file"
        fi
    done
    printf '%s\n' '#!/bin/sh' 'exit 101' >base/usr/sbin/policy-rc.d
    chmod 0755 base/usr/sbin/policy-rc.d
    inside base apt-get update >&2
    ;;
install)
    mkdir upper work root
    mount -t overlay -o userxattr,volatile,index=off,lowerdir=base,upperdir=upper,workdir=work overlay root
    inside root apt-get install --yes -- "$@" >&2
    ;;
forget)
    rm -rf upper work root
    ;;
remove)
    rm -rf base upper work root
    ;;
esac
