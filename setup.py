"""The list of extensions and the build switches; everything else is in pyproject.toml.

FASTSERVE_BUILD_DEBUG=1      -O0 -g, bounds checks everywhere
FASTSERVE_BUILD_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer
FASTSERVE_BUILD_FUZZ=1       the sanitizers and libFuzzer's coverage (clang)
FASTSERVE_BUILD_ANNOTATE=1   Cython's annotated HTML beside each source
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

Options.warning_errors = True

ROOMS = Path("fastserve/_speedups")


def switch(name: str) -> bool:
    return os.environ.get(f"FASTSERVE_BUILD_{name}", "") not in ("", "0")


debug, fuzz = switch("DEBUG"), switch("FUZZ")
sanitize = switch("SANITIZE") or fuzz

compile_args = ["-fvisibility=hidden", "-fno-strict-aliasing", "-Wno-unused-function"]
link_args = []
if sanitize or debug:
    compile_args += ["-O1" if sanitize else "-O0", "-g", "-fno-omit-frame-pointer", "-UNDEBUG"]
else:
    compile_args += ["-O3", "-g0", "-fno-semantic-interposition"]
if sanitize:
    flag = "-fsanitize=address,undefined"
    compile_args += [flag, "-fno-sanitize-recover=undefined"]
    link_args += [flag]
if fuzz:
    compile_args += ["-fsanitize=fuzzer-no-link"]
if sys.platform == "darwin":
    compile_args.remove("-fvisibility=hidden")
    compile_args = [arg for arg in compile_args if arg != "-fno-semantic-interposition"]

extensions = [
    Extension(
        f"fastserve._speedups.{source.stem}",
        [str(source)],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for source in sorted(ROOMS.glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "embedsignature": False,
            "boundscheck": True,
        },
        annotate=switch("ANNOTATE"),
        nthreads=os.cpu_count() or 1,
    ),
)
