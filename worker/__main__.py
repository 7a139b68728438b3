"""Entry: `python -I -S -B <this folder> <socket fd> <import folders...>`, started by the host.

Runs with the host's rights. Imports all of this program at once and then removes what it needed
from `sys.path`, so that neither this folder nor what lies beside it can be imported later.
"""

import os
import sys


def _import_launcher(folders: list[str]):  # type: ignore[no-untyped-def]
    here = sys.path.pop(0)
    borrowed = [os.path.dirname(os.path.abspath(here)), *folders]
    sys.path[:0] = borrowed
    import worker.launcher

    del sys.path[: len(borrowed)]
    return worker.launcher


if __name__ == "__main__":
    _import_launcher(sys.argv[2:]).main(int(sys.argv[1]))
