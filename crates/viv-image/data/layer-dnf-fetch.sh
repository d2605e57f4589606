# FETCH of a layer of Fedora's packages and the like: $@ are NAME or NAME-VERSION, $VIV_NAMES are the names. Runs as
# root of the image with the network, so it runs dnf and nothing that a package brings.
set -eu
echo 'step fetching packages' >&3
if dnf --assumeyes --setopt=install_weak_deps=False --setopt=keepcache=True --setopt=cachedir=/viv-build/job/dnf \
    install --downloadonly "$@" 3>&-; then
    exit 0
fi
status=100
for name in $VIV_NAMES; do
    versions=$(dnf --quiet --setopt=cachedir=/viv-build/job/dnf repoquery --queryformat '%{version}-%{release}\n' "$name" 3>&-)
    if [ -z "$versions" ]; then
        echo "unknown $name" >&3
        status=1
    fi
done
if [ "$status" = 1 ]; then
    dnf --quiet --setopt=cachedir=/viv-build/job/dnf repoquery --queryformat 'candidate %{name}\n' 3>&- | uniq >&3
fi
exit "$status"
