"""Entry: `python -I -S -B -u <this file> <socket fd> <import folders...>`, started by the host.

Runs with the host's rights. Imports all of this program at once and then removes what it needed
from `sys.path`, so that neither this folder nor what lies beside it can be imported later. Started
as a file, not as a folder: that would import runpy and its like, which every fork pays for.
"""

import os
import sys


def _import_launcher(folders: list[str]):  # type: ignore[no-untyped-def]
    borrowed = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), *folders]
    sys.path[:0] = borrowed
    import worker.launcher

    del sys.path[: len(borrowed)]
    return worker.launcher


if __name__ == "__main__":
    _import_launcher(sys.argv[2:]).main(int(sys.argv[1]))
