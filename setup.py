"""The list of extensions and the build switches; everything else is in pyproject.toml.

FASTSERVE_BUILD_DEBUG=1      -O0 -g, bounds checks everywhere
FASTSERVE_BUILD_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer
FASTSERVE_BUILD_FUZZ=1       the parser's rooms alone, with libFuzzer's coverage too (clang)
FASTSERVE_BUILD_COVERAGE=1   the parser's rooms alone, with gcov's counters
FASTSERVE_BUILD_WARN=1       a number that loses its value on the way is an error
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
# What reads a stranger's bytes may not even change a number's sign by accident.
PARSER = {"authority", "chunks", "head", "httptools_parser", "parser"}


def switch(name: str) -> bool:
    return os.environ.get(f"FASTSERVE_BUILD_{name}", "") not in ("", "0")


debug, fuzz, coverage, warn = (switch(name) for name in ("DEBUG", "FUZZ", "COVERAGE", "WARN"))
sanitize = switch("SANITIZE") or fuzz
darwin = sys.platform == "darwin"

compile_args = ["-fno-strict-aliasing", "-Wno-unused-function"]
link_args = []
if not darwin:
    compile_args += ["-fvisibility=hidden"]
if sanitize or debug or coverage or warn:
    # The fuzzer makes up by its pace for what this costs; the sanitized suite does not.
    compile_args += ["-O1" if fuzz else "-O0", "-g", "-fno-omit-frame-pointer", "-UNDEBUG"]
else:
    # Level 3 is level 2 where compiler or libc do not know it.
    compile_args += ["-O3", "-g0", "-U_FORTIFY_SOURCE", f"-D_FORTIFY_SOURCE={2 if darwin else 3}"]
    compile_args += ["-fstack-protector-strong"]
    if not darwin:
        compile_args += ["-fno-semantic-interposition"]
        link_args += ["-Wl,-z,relro", "-Wl,-z,now"]
if sanitize:
    flag = "-fsanitize=address,undefined"
    compile_args += [flag, "-fno-sanitize-recover=undefined"]
    link_args += [flag]
if fuzz:
    compile_args += ["-fsanitize=fuzzer-no-link"]
if coverage:
    compile_args += ["--coverage"]
    link_args += ["--coverage"]


def warnings(room: str) -> list[str]:
    if not warn:
        return []
    sign = "-Werror=sign-conversion" if room in PARSER else "-Wno-sign-conversion"
    return ["-Wconversion", "-Werror=conversion", sign]


extensions = [
    Extension(
        f"fastserve._speedups.{source.stem}",
        [str(source)],
        extra_compile_args=compile_args + warnings(source.stem),
        extra_link_args=link_args,
    )
    for source in sorted(ROOMS.glob("*.pyx"))
    if not (fuzz or coverage) or source.stem in PARSER
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
        emit_linenums=warn,
        nthreads=os.cpu_count() or 1,
    ),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
