#!/bin/sh
# What `make demo` and `make test` need: Python 3.11 with venv, libseccomp2, and a C compiler with the
# headers of the C library and of Linux. As root on Debian and its relatives what is missing is installed;
# otherwise the one line that does it is printed.
set -eu
venv=$1

find_python() {
    for name in python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

missing() {
    python=$(find_python)
    [ -n "$python" ] || echo python3
    { [ -n "$python" ] && "$python" -c 'import ensurepip, venv' 2>/dev/null; } || echo python3-venv
    ldconfig -p 2>/dev/null | grep -q libseccomp.so.2 || /sbin/ldconfig -p | grep -q libseccomp.so.2 ||
        echo libseccomp2
    command -v "${CC:-cc}" >/dev/null 2>&1 || echo gcc
    [ -e /usr/include/stdio.h ] && [ -e /usr/include/linux/seccomp.h ] || echo libc6-dev
}

packages=$(missing | tr '\n' ' ')
if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing: $packages"
        apt-get update -qq
        # shellcheck disable=SC2086
        apt-get install -y -qq --no-install-recommends $packages
    else
        echo "missing: $packages" >&2
        echo "install them with: sudo apt-get install -y $packages" >&2
        exit 1
    fi
fi
python=$(find_python)
if [ -z "$python" ]; then
    echo "Python 3.11 or newer is needed, and this system's packages have none" >&2
    exit 1
fi
echo "making $venv with $("$python" --version)"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -e '.[test]'
# As an installed wheel is: what the launcher compiles at its start stays in every fork's memory.
"$venv/bin/python" -m compileall -q sandbox worker
