"""The compiled part of the worker program; all else is in pyproject.toml."""

import os
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

_FLAGS = [
    *("-std=gnu11", "-O2", "-g0", "-fPIC", "-shared", "-Wall", "-Wextra"),
    # Only what native.h gives to Python is seen from outside, and nothing from outside replaces it.
    *("-fvisibility=hidden", "-Wl,-Bsymbolic", "-Wl,-z,relro,-z,now"),
    *("-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
]


class Build(build_ext):
    """A plain shared library, which the launcher opens by its path: no module of Python's, made
    without its headers and its flags (among them paths of the machine where Python was built)."""

    def build_extension(self, ext: Extension) -> None:
        target = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        self.spawn([os.environ.get("CC", "cc"), *_FLAGS, "-o", target, *ext.sources])


setup(
    cmdclass={"build_ext": Build},
    # One wheel for every Python.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
    ext_modules=[
        Extension(
            "sandbox.worker._native",
            sources=sorted(glob("worker/native/*.c")),
            depends=sorted(glob("worker/native/*.h")),
            py_limited_api=True,
        )
    ],
)
