# As root, in a mount namespace of its own: runs a systemd for the host in $1 until standard input ends, and leaves
# nothing of it. Whoever holds the other end of that may be killed: it ends all the same.
set -eu
root=$1
mount --make-rprivate /
groups=$root/cgroup
mkdir -p "$groups"
# Whatever hierarchies this machine has, version 2 can be seen anywhere.
mount -t cgroup2 cgroup2 "$groups"
own=$groups/viv-e2e-$$
mkdir "$own"
(
    echo 0 >"$own/cgroup.procs"
    exec unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child sh "$root/systemd/boot.sh" "$@"
) </dev/null &
cat >/dev/null
echo 1 >"$own/cgroup.kill"
wait
# Groups go when the last of their processes has.
while [ -d "$own" ]; do
    find "$own" -depth -type d -exec rmdir {} \; 2>/dev/null || true
done
umount "$groups"
