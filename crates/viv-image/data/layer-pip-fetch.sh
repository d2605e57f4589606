# FETCH of a layer of Python packages: $@ are NAME or NAME==VERSION. Downloads wheels of them and of all
# that they need. Only wheels: whatever else the index has runs its own code to become one.
set -eu
echo "step fetching $(echo "$@" | sed 's/ /, /g') from the Python index" >&3

# What layers below have stays as it is.
for installed in /usr/local/lib/python3*/dist-packages/*.dist-info /usr/local/lib/python3*/site-packages/*.dist-info; do
    name=${installed##*/}
    name=${name%.dist-info}
    [ ! -d "$installed" ] || echo "${name%%-*}==${name#*-}"
done >/viv-build/job/constraints

said=/viv-build/job/pip.txt
if python3 -m pip download --only-binary :all: --dest /viv-build/job/wheels --constraint /viv-build/job/constraints \
    -- "$@" >"$said" 2>&1 3>&-; then
    exit 0
fi
cat "$said"

# Which of them there is not, and what there is.
python3 - "$@" <<'PYTHON'
import os, re, subprocess, sys


def say(line):
    os.write(3, f"{line}\n".encode())


def split(requirement):
    name, version = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", requirement).groups()
    return re.sub(r"[-_.]+", "-", name).lower(), name, version.removeprefix("==")


with open("/viv-build/job/pip.txt") as file:
    said = file.read()
missing = re.search(r"No matching distribution found for ([A-Za-z0-9._-]+)", said)
# An index that does not answer looks like one without the package.
if not missing or re.search(r"Retrying \(|Could not fetch URL .*(error|timed out)", said):
    sys.exit(1)
missing = split(missing.group(1))[0]
asked = {key: (name, version) for key, name, version in map(split, sys.argv[1:])}
name, version = asked.get(missing, (missing, ""))

found = subprocess.run(
    [sys.executable, "-m", "pip", "index", "versions", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
)
versions = re.search(r"^Available versions: (.*)$", found.stdout, re.MULTILINE)
versions = versions.group(1).split(", ") if versions else []
if not versions and missing in asked:
    say(f"unknown {name}")
elif version and version not in versions:
    say(f"unknown-version {name} {version}")
    for other in versions:
        say(f"version {name} {other}")
elif versions:
    what = f"{name} {version}".strip()
    say(f"refused {what} has no wheel for the image's Python, and making one would run its code while there is a network")
    say(f"hint take it from the image's own packages, if it is there: python3-{missing}")
    say(f"hint or install it inside: python3 -m venv .venv && .venv/bin/pip install {name}")
PYTHON
exit 1
