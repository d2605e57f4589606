"""The same work in each of the directories named: prints {directory: {work: seconds}} as JSON.

Runs as root in the guest, so that caches can be dropped and reads reach the device.
"""

import json
import os
import shutil
import subprocess
import sys
import time

MEBIBYTES = 256
SMALL_FILES = 10_000
REPOSITORY_FILES = 20_000


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def timed(work):
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def sequential_write(path):
    block = os.urandom(1 << 20)
    with open(path, "wb", buffering=0) as file:
        for _ in range(MEBIBYTES):
            file.write(block)
        os.fsync(file.fileno())


def sequential_read(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def make_small_files(directory, count):
    for index in range(count):
        folder = os.path.join(directory, str(index // 500))
        if index % 500 == 0:
            os.makedirs(folder)
        with open(os.path.join(folder, f"{index}.txt"), "w") as file:
            file.write(f"file {index}\n")


def read_small_files(directory):
    for folder, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                file.read()


def git(directory, *arguments, **options):
    settings = ["safe.directory=*", "gc.auto=0", "maintenance.auto=false"]
    flags = [word for setting in settings for word in ("-c", setting)]
    subprocess.run(["git", *flags, "-C", directory, *arguments], check=True, stdout=subprocess.DEVNULL, **options)


def make_repository(directory):
    """One commit of many small files, checked out; its objects in one pack, so that it is made quickly."""
    lines = ["commit refs/heads/main", "committer bench <bench@localhost> 0 +0000", "data 0"]
    for index in range(REPOSITORY_FILES):
        content = f"file {index}"
        lines += [f"M 100644 inline {index // 500}/{index}.txt", f"data {len(content)}", content]
    os.makedirs(directory)
    git(directory, "init", "--quiet", "--initial-branch", "main")
    git(directory, "fast-import", "--quiet", input="\n".join(lines).encode() + b"\n")
    git(directory, "reset", "--quiet", "--hard")
    # What has just been written is looked at again; after this the index is believed.
    git(directory, "status", "--short")


def measure(directory):
    work = os.path.join(directory, "viv-share-bench")
    os.makedirs(work)
    figures = {}

    def figure(name, action):
        print(f"{directory}: {name}", file=sys.stderr, flush=True)
        figures[name] = timed(action)

    large = os.path.join(work, "large")
    figure("sequential write", lambda: sequential_write(large))
    drop_caches()
    figure("sequential read", lambda: sequential_read(large))
    os.unlink(large)

    small = os.path.join(work, "small")
    figure("small files made", lambda: make_small_files(small, SMALL_FILES))
    drop_caches()
    figure("small files read", lambda: read_small_files(small))
    figure("small files removed", lambda: shutil.rmtree(small))

    # Left where it is: the host removes the one directory, the other is gone with the sandbox.
    repository = os.path.join(work, "repository")
    make_repository(repository)
    drop_caches()
    figure("git status", lambda: git(repository, "status", "--short"))
    return figures


print(json.dumps({directory: measure(directory) for directory in sys.argv[1:]}))
