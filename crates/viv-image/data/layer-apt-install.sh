# INSTALL of a layer of Debian packages: $@ are NAME or NAME=VERSION, fetched before. Runs as root of the
# image without a network; the packages' scripts run here.
set -eu
# Nothing starts by being installed.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e "$policy" ]; then
    printf '%s\n' '#!/bin/sh' 'exit 101' >"$policy"
    chmod 0755 "$policy"
    made=1
fi
apt-get install --no-download -- "$@" 3>&-
if [ -n "$made" ]; then
    rm -f "$policy"
fi
for package in "$@"; do
    # One that another package provides has no version of its own.
    dpkg-query --show --showformat 'package ${Package} ${Version}\n' -- "${package%%=*}" 3>&- | head -n 1 >&3 || :
done
