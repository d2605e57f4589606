# INSTALL of a layer of Fedora's packages and the like: $@ as in FETCH. Runs as root of the image without a
# network; the packages' scripts run here.
set -eu
dnf --assumeyes --cacheonly --setopt=install_weak_deps=False --setopt=keepcache=True --setopt=cachedir=/viv-build/job/dnf \
    install "$@" 3>&-
for name in $VIV_NAMES; do
    rpm --query --queryformat 'package %{NAME} %{VERSION}-%{RELEASE}\n' "$name" 3>&- | head -n 1 >&3
done
