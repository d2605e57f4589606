# Runs on the host as the ids of a build: leaves of what the build wrote, which is in $1, only what makes
# the layer. $@ beside: the paths that do; all but what can be had again or is one's own, without any.
set -eu
# By its name alone: the ids may not enter what is above.
cd -P "$1"
shift
rm -rf ./dev ./proc ./run ./sys ./tmp ./viv-build
if [ "$#" = 0 ]; then
    # Caches, lists, logs.
    rm -rf ./var/cache/apt ./var/lib/apt/lists ./var/cache/apk ./var/cache/dnf ./var/cache/libdnf5 ./var/cache/debconf/*-old \
        ./var/cache/ldconfig ./var/lib/dpkg/*-old ./var/lib/dpkg/lock* ./var/lib/dpkg/triggers/Lock ./var/tmp
    if [ -d ./var/log ] && [ ! -L ./var/log ]; then
        find ./var/log -type f -delete
    fi
    # Identities, and the guest's own.
    rm -rf ./etc/machine-id ./var/lib/dbus/machine-id ./etc/ssh/ssh_host_* ./etc/resolv.conf ./etc/hostname ./etc/hosts \
        ./etc/.pwd.lock ./etc/passwd- ./etc/group- ./etc/shadow- ./etc/gshadow- ./etc/subuid- ./etc/subgid-
    exit 0
fi
# All that is neither in a path that is kept nor above one. A directory that is not empty stays.
words=$#
while [ "$words" -gt 0 ]; do
    path=$1
    shift
    set -- "$@" ! -path "./$path" ! -path "./$path/*"
    words=$((words - 1))
done
find . -mindepth 1 -depth "$@" \( -type d -exec rmdir --ignore-fail-on-non-empty -- {} + -o ! -type d -delete \)
