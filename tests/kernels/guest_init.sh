#!/bin/busybox sh
# pid 1 of the guest: sets up what systemd would have set up, runs the command, powers off.
#
# Runs in the guest as root. / is hostfs, read-only; /mnt holds what enclosure.sh put there:
#   /mnt/guest    settings, shown, command, passwd, group (written by guest.py)
#   /mnt/kernel   the kernel's modules
#   /mnt/shown/N  the folders to show at the paths listed in /mnt/guest/shown
# The terminals are pipes to the host: tty0 the kernel log, tty1 the command's output, tty2 its
# status. A failure here ends pid 1, which is a kernel panic, and the host shows the log.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
. /mnt/guest/settings   # REPO, AS_USER (1 or 0)

# What the command's user is delegated, as user@.service has it since systemd 252.
USER_CONTROLLERS="cpu memory pids"
CGROUPS=/sys/fs/cgroup
USER_MANAGER=$CGROUPS/user.slice/user-1000.slice/user@1000.service
SCOPE=$USER_MANAGER/app.slice/tests.scope
SERVICE=$CGROUPS/system.slice/tests.service

mount_kernel_filesystems() {
    # The full path: busybox runs its own commands through /proc/self/exe, which until here is the
    # kernel program's own, seen through hostfs.
    /bin/mount -t proc -o nosuid,nodev,noexec proc /proc
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs -o nosuid devtmpfs /dev
    mkdir -p /dev/pts /dev/shm /dev/mqueue
    mount -t devpts -o gid=5,mode=620,ptmxmode=666,nosuid,noexec devpts /dev/pts
    mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm
    mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue
    for link in fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
        ln -sfn "${link#*:}" "/dev/${link%%:*}"
    done
}

load_modules() {
    # The kernel calls this helper, as root, for file systems and protocols it meets first later.
    echo /mnt/guest/modprobe >/proc/sys/kernel/modprobe
    /mnt/guest/modprobe -a -q ext4 overlay
}

# /root, /home: the host's homes are nobody's business, and uid 1000 could not pass a /root of mode
# 700 to an interpreter below it.
mount_writable_places() {
    mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /run
    mkdir -p /run/lock /run/user/1000 /run/disk
    chmod 1777 /run/lock
    chmod 700 /run/user/1000
    chown 1000:1000 /run/user/1000
    mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /tmp
    mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /root
    mount -t tmpfs -o mode=755,nosuid,nodev tmpfs /home
    mkdir /home/tester
    chown 1000:1000 /home/tester
    mount -t ext4 /dev/ubda /run/disk
    mount -o bind /run/disk/var-tmp /var/tmp
}

# Makes $1 a folder that every user can reach, by an empty tmpfs over the first parent that is
# closed or cannot be written. What that hides lies on the host's own paths and is not needed.
make_reachable() {
    rest=${1#/} here=
    while [ -n "$rest" ]; do
        name=${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
        if [ ! -d "$here/$name" ] && ! mkdir "$here/$name" 2>/dev/null; then
            mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$here"
            mkdir "$here/$name"
        fi
        here=$here/$name
        [ -z "$rest" ] || is_open_to_all "$here" || mount -t tmpfs -o mode=755 tmpfs "$here"
    done
}

is_open_to_all() {
    case $(stat -c %A "$1") in *x | *t) true ;; *) false ;; esac
}

mount_shown_folders() {
    while read -r number folder; do
        make_reachable "$folder"
        mount -o bind "/mnt/shown/$number" "$folder"
    done </mnt/guest/shown
    make_reachable "$REPO"
    mount -o bind /run/disk/repo "$REPO"
    mount -o bind /mnt/guest/passwd /etc/passwd
    mount -o bind /mnt/guest/group /etc/group
}

enable() {   # GROUP CONTROLLER...: for the group's children
    group=$1
    shift
    for controller; do echo "+$controller" >"$group/cgroup.subtree_control"; done
}

# Where systemd puts `systemd-run --user --scope -p Delegate=yes` (SCOPE) and a system service with
# Delegate=yes (SERVICE). In both the command sits in the delegated group itself, whose
# subtree_control is empty: moving into a leaf and enabling controllers is the command's business.
make_cgroups() {
    mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 $CGROUPS
    mkdir -p $CGROUPS/init.scope $SERVICE $SCOPE
    echo $$ >$CGROUPS/init.scope/cgroup.procs
    all=$(cat $CGROUPS/cgroup.controllers)
    enable $CGROUPS $all
    enable $CGROUPS/system.slice $all
    enable $CGROUPS/user.slice $USER_CONTROLLERS
    enable $CGROUPS/user.slice/user-1000.slice $USER_CONTROLLERS
    enable $USER_MANAGER $USER_CONTROLLERS
    enable $USER_MANAGER/app.slice $USER_CONTROLLERS
    # The user's manager owns its group and the files the kernel says to delegate, no limits; all
    # below is made by that manager and so belongs to the user altogether.
    chown 1000:1000 $USER_MANAGER
    while read -r file; do
        [ ! -e "$USER_MANAGER/$file" ] || chown 1000:1000 "$USER_MANAGER/$file"
    done </sys/kernel/cgroup/delegate
    chown -R 1000:1000 $USER_MANAGER/app.slice
}

run_command() {
    if [ "$AS_USER" = 1 ]; then group=$SCOPE; else group=$SERVICE; fi
    status=0
    (
        echo 0 >$group/cgroup.procs
        cd "$REPO"
        exec /bin/sh /mnt/guest/command
    ) </dev/null || status=$?
    echo $status >/run/status
    # Whatever the command left behind holds its output open.
    echo 1 >$USER_MANAGER/cgroup.kill
    echo 1 >$SERVICE/cgroup.kill
}

main() {
    mount_kernel_filesystems
    load_modules
    mount_writable_places
    mount_shown_folders
    make_cgroups
    hostname guest
    ip link set lo up
    stty -F /dev/tty1 raw -echo
    stty -F /dev/tty2 raw -echo
    # Through cat: the command's output is a pipe, as it is in CI, and not a terminal.
    run_command 2>&1 | cat >/dev/tty1
    sync
    cat /run/status >/dev/tty2
    exec poweroff -n -f
}

main
