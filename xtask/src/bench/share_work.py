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


def git(directory, *arguments):
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "safe.directory=*"]
    subprocess.run(["git", *identity, "-C", directory, *arguments], check=True, stdout=subprocess.DEVNULL)


def measure(directory):
    work = os.path.join(directory, "viv-share-bench")
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    figures = {}
    large = os.path.join(work, "large")
    figures["sequential write"] = timed(lambda: sequential_write(large))
    drop_caches()
    figures["sequential read"] = timed(lambda: sequential_read(large))
    os.unlink(large)

    small = os.path.join(work, "small")
    figures["small files made"] = timed(lambda: make_small_files(small, SMALL_FILES))
    drop_caches()
    figures["small files read"] = timed(lambda: read_small_files(small))
    figures["small files removed"] = timed(lambda: shutil.rmtree(small))

    repository = os.path.join(work, "repository")
    make_small_files(repository, REPOSITORY_FILES)
    git(repository, "init", "--quiet")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "all")
    drop_caches()
    figures["git status"] = timed(lambda: git(repository, "status", "--short"))
    shutil.rmtree(work)
    return figures


print(json.dumps({directory: measure(directory) for directory in sys.argv[1:]}))
