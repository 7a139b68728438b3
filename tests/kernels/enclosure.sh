#!/bin/sh
# enclosure.sh STATE KERNEL COMMAND...: runs COMMAND (the kernel) where it can read this machine's
# / and write none of it.
#
# Runs on the host as root, as pid 1 of new mount, pid, network, IPC and UTS namespaces. The guest's
# root file system is hostfs: each file operation of a guest is one of the kernel program's, with
# that program's rights, and a guest that is root can remount hostfs writable or load a module that
# does as it likes in that program. So the program itself is confined:
#
# - its / is a read-only bind mount of the real one, without the file systems mounted below it
#   (no /proc, /sys, /dev, /run, no other disk), and the old root is gone: pivot_root, then unmount;
# - its /proc is of its own pid namespace and read-only: /proc/sys asks for uid 0, not for a
#   capability, so a guest that mounts hostfs over could otherwise set this machine's sysctls;
# - it is uid 65534 with one capability, CAP_DAC_READ_SEARCH, to read what only root may read;
# - what it can write: the disk image, and tmpfs that vanish with it.
#
# Not covered: reading. A guest that is root can read every file on this machine's / file system.
set -eu

state=$1 kernel=$2
shift 2
root=$state/root

# A read-only view of the folder or file $1 at $2. Two mounts, because a bind mount ignores "ro".
show() {
    if [ -d "$1" ]; then mkdir -p "$2"; else : >"$2"; fi
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}

mount --bind / "$root"
mount -o remount,bind,ro "$root"

# /mnt is in every Debian and in no program's way: what this tool adds is below it.
mount -t tmpfs -o mode=755,nosuid,nodev enclosure "$root/mnt"
show "$kernel" "$root/mnt/kernel"
show "$state/guest" "$root/mnt/guest"
mkdir "$root/mnt/shown"
while read -r number folder; do
    show "$folder" "$root/mnt/shown/$number"
done <"$state/guest/shown"
chown 65534:65534 "$state/disk"
: >"$root/mnt/disk"
mount --bind "$state/disk" "$root/mnt/disk"
mkdir "$root/mnt/uml"
mount -t tmpfs -o mode=1777,nosuid,nodev uml "$root/mnt/uml"
mount -o remount,bind,ro "$root/mnt"

# The kernel's "physical" memory is an unlinked file in /dev/shm, mapped executable. The default
# limit of a tmpfs, half of the machine's memory, may be less than a guest is given.
mount -t tmpfs -o mode=755,nosuid,size=100% dev "$root/dev"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir -m 1777 "$root/dev/shm"
mount -t proc -o ro,nosuid,nodev,noexec proc "$root/proc"

cd "$root"
pivot_root . .
umount -l .

# Not exec: pid 1 of a namespace ignores the signals it has no handler for, its own included.
# no_setuid_fixup: hostfs asks access(2), which drops the capabilities of a real uid other than 0
# unless this bit is set.
setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
    --securebits=+no_setuid_fixup --inh-caps=-all,+dac_read_search \
    --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search "$@"
