"""The compiled part of the worker program; all else is in pyproject.toml."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        # No module of Python's, and made without its headers: the launcher opens it by its path.
        Extension(
            "sandbox.worker._native",
            sources=sorted(glob("worker/native/*.c")),
            depends=sorted(glob("worker/native/*.h")),
            extra_compile_args=["-std=gnu11", "-O2", "-g0", "-Wall", "-Wextra"],
            extra_link_args=["-Wl,-z,relro,-z,now"],
            py_limited_api=True,
        )
    ]
)
