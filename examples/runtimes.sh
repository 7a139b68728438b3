#!/bin/sh
# What `make test` needs beside setup.sh: a C compiler, which builds the programs that the tests run, and
# the runtimes that tests/programs/test_runtimes.py runs in jails, where jails show them (/usr).
set -eu

missing() {
    for pair in gcc=gcc g++=g++ make=make javac=default-jdk-headless node=nodejs perl=perl ruby=ruby \
        pypy3=pypy3 lua5.4=lua5.4 go=golang-go rustc=rustc; do
        [ -x "/usr/bin/${pair%%=*}" ] || [ -x "/usr/local/bin/${pair%%=*}" ] || echo "${pair#*=}"
    done
    [ -e /usr/include/stdio.h ] || echo libc6-dev
}

packages=$(missing | tr '\n' ' ')
[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing: $packages"
    apt-get update -qq
    # shellcheck disable=SC2086
    exec apt-get install -y -qq --no-install-recommends $packages
fi
echo "missing: $packages" >&2
echo "install them with: sudo apt-get install -y --no-install-recommends $packages" >&2
exit 1
