"""Boots another Linux kernel and runs a command on it. See README.md beside this file.

python tests/kernels/boot.py --kernel 6.1 --user -- .venv/bin/python -m pytest -q tests
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, Python looks for modules in its folder; this package's name begins at the root.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from tests.kernels.cli import main

    sys.exit(main())
