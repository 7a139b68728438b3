#!/bin/sh
# What `make test` needs beside setup.sh: a C compiler, which builds the programs that the tests run.
set -eu
if command -v gcc >/dev/null 2>&1 && [ -e /usr/include/stdio.h ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing: gcc libc6-dev"
    apt-get update -qq
    exec apt-get install -y -qq --no-install-recommends gcc libc6-dev
fi
echo "missing: gcc libc6-dev" >&2
echo "install them with: sudo apt-get install -y gcc libc6-dev" >&2
exit 1
