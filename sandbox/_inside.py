"""The constructors that a pickled call names. They are only names here, on the host: the functions
are in worker/transfer.py, and run in the jail."""

from __future__ import annotations

# `HOST_MODULE` over there; written into every pickle.
NAMED_IN = "sandbox._transfer"


class Inside:
    """A constructor of worker/transfer.py. The pickle names it as an attribute of `_transfer`,
    where the pickler looks it up; the jail's unpickler maps that name to its own function, and no
    module of the host is in there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__module__ = NAMED_IN

    def __call__(self, *args: object) -> object:
        raise TypeError(f"{self.name} exists only inside the jail")


load_code = Inside("load_code")
make_globals = Inside("make_globals")
import_module = Inside("import_module")
module_globals = Inside("module_globals")
make_cell = Inside("make_cell")
fill_cell = Inside("fill_cell")
make_function = Inside("make_function")
fill_function = Inside("fill_function")
make_cached = Inside("make_cached")
fill_cached = Inside("fill_cached")
builtin_type = Inside("builtin_type")
