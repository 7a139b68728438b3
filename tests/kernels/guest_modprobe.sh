#!/bin/sh
# The guest kernel's module loader: / has no modules of this kernel. Runs in the guest as root.
exec /sbin/modprobe -d /mnt/kernel/modules "$@"
