# FETCH of a layer of Debian packages: $@ are NAME or NAME=VERSION. Runs as root of the image with the
# network, so it runs apt and nothing that a package brings. What apt is told beside stands in
# $APT_CONFIG.
set -eu
cache=/viv-build/cache
archives=/viv-build/job/archives
mkdir -p "$cache/lists/partial" "$archives/partial" /viv-build/job/log

# Lists are read again when they are old, when others are asked for, and when they were not read to the
# end.
wanted=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* /viv-build/files/* 2>/dev/null | cksum)
fresh=$(find "$cache/read" -mmin "-$VIV_FRESH_MINUTES" 2>/dev/null || :)
if [ -z "$fresh" ] || [ "$(cat "$cache/read")" != "$wanted" ]; then
    echo 'step reading the package lists' >&3
    rm -f "$cache/read"
    apt-get update -o APT::Update::Error-Mode=any 3>&-
    echo "$wanted" >"$cache/read"
fi

echo 'step fetching packages' >&3
if apt-get install --download-only -- "$@" 3>&-; then
    exit 0
fi
# Which of them is the reason?
status=100
for package in "$@"; do
    name=${package%%=*}
    # NAME | VERSION | SOURCE
    versions=$(apt-cache madison -- "$name" 3>&- | cut -d '|' -f 2 | tr -d ' ')
    if [ -z "$versions" ]; then
        echo "unknown $name" >&3
        status=1
    elif [ "$name" != "$package" ] && ! echo "$versions" | grep -qxF -- "${package#*=}"; then
        echo "unknown-version $name ${package#*=}" >&3
        echo "$versions" | uniq | sed "s/^/version $name /" >&3
    fi
done
if [ "$status" = 1 ]; then
    apt-cache pkgnames 3>&- | sed 's/^/candidate /' >&3
fi
exit "$status"
