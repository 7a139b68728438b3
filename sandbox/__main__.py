"""The `sandbox` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the console script and of `python -m sandbox`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="sandbox", description="Run untrusted code in a jail.")
    parser.add_argument("--version", action="version", version=f"sandbox {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser(
        "doctor", help="what this host offers, what is missing, and the command that mends it"
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    from . import _run

    _run.add_parser(commands)
    options = parser.parse_args(argv)
    if options.command == "run":
        return _run.run(options)
    from ._doctor import report

    return report(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
