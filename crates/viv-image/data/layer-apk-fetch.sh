# FETCH of a layer of Alpine packages: $@ are NAME or NAME=VERSION. Runs as root of the image with the
# network, so it runs apk and nothing that a package brings.
set -eu
mkdir -p /viv-build/job/archives
echo 'step reading the package lists' >&3
apk update --cache-dir /viv-build/job/archives 3>&-
status=100
for package in "$@"; do
    name=${package%%=*}
    # NAME-VERSION
    versions=$(apk search --exact --all --cache-dir /viv-build/job/archives -- "$name" 3>&- | sed "s/^$name-//")
    if [ -z "$versions" ]; then
        echo "unknown $name" >&3
        status=1
    elif [ "$name" != "$package" ] && ! echo "$versions" | grep -qxF -- "${package#*=}"; then
        echo "unknown-version $name ${package#*=}" >&3
        echo "$versions" | sed "s/^/version $name /" >&3
        status=2
    fi
done
if [ "$status" = 1 ]; then
    apk search --cache-dir /viv-build/job/archives 3>&- | sed -e 's/-[^-]*-[^-]*$//' -e 's/^/candidate /' >&3
fi
if [ "$status" != 100 ]; then
    exit 1
fi
echo 'step fetching packages' >&3
# Into the cache, from where apk installs without asking again.
apk add --simulate --no-interactive --cache-dir /viv-build/job/archives "$@" 3>&- >/dev/null
apk fetch --recursive --cache-dir /viv-build/job/archives --output /viv-build/job/archives "$@" 3>&-
