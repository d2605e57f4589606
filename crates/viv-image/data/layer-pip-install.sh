# INSTALL of a layer of Python packages: $@ are NAME or NAME==VERSION. Installs the wheels that were
# downloaded, and says which versions they are.
set -eu
echo 'step installing Python packages' >&3
python3 -m pip install --quiet --no-index --no-deps /viv-build/job/wheels/*.whl 3>&-
# Isolated: nothing but what is installed is looked at.
python3 -I - "$@" <<'PYTHON'
import importlib.metadata, os, re, sys

for requirement in sys.argv[1:]:
    name = re.match(r"[A-Za-z0-9._-]+", requirement).group()
    os.write(3, f"package {name} {importlib.metadata.version(name)}\n".encode())
PYTHON
