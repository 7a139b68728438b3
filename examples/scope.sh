#!/bin/sh
# Run a command in a delegated cgroup of its own, where that takes one: on cgroup v2 under systemd.
set -eu
if [ -e /sys/fs/cgroup/cgroup.controllers ] && command -v systemd-run >/dev/null 2>&1; then
    user=--user
    [ "$(id -u)" = 0 ] && user=
    if systemd-run $user --scope --quiet -p Delegate=yes -- true 2>/dev/null; then
        exec systemd-run $user --scope --quiet -p Delegate=yes -- "$@"
    fi
fi
exec "$@"
