# INSTALL of a layer of Alpine packages: $@ are NAME or NAME=VERSION, fetched before. Runs as root of the
# image without a network; the packages' scripts run here.
set -eu
apk add --no-network --no-interactive --cache-dir /viv-build/job/archives "$@" 3>&-
for package in "$@"; do
    name=${package%%=*}
    # NAME-VERSION
    version=$(apk info --verbose --installed 3>&- | sed -n "s/^$name-\([0-9][^-]*-r[0-9]*\)\$/\1/p" | head -n 1)
    if [ -n "$version" ]; then
        echo "package $name $version" >&3
    fi
done
