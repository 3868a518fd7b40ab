r"""Fuzz the parsers with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/fuzz/run.py --seconds 600

Needs clang with its runtime libraries (Debian: clang, libclang-rt-dev) and Cython. It builds
into a temporary directory, starts from the wire cases, and prints libFuzzer's report; what
breaks a property is left in the directory given by --keep.

The tests themselves run on a sanitized build like this (gcc):

    FASTSERVE_BUILD_SANITIZE=1 python setup.py build_ext --inplace --force
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
        PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
        python -m pytest tests/test_parser.py tests/test_httptools_parser.py
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

import wire_cases  # noqa: E402


def build(directory):
    """Build the instrumented extensions and the target; returns the target's path."""
    environment = {
        **os.environ,
        "FASTSERVE_BUILD_FUZZ": "1",
        "CC": "clang",
        "LDSHARED": "clang -shared",
    }
    command = [sys.executable, "setup.py", "-q", "build_ext", "--force"]
    command += ["--build-lib", str(directory), "--build-temp", str(directory / "objects")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    # Only the parsers are imported: the real package would ask for all of its rooms.
    for package in ("fastserve", "fastserve/_speedups"):
        (directory / package / "__init__.py").touch()
    variables = sysconfig.get_config_vars()
    target = directory / "target"
    command = ["clang", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-o", str(target)]
    command += [str(HERE / "target.c"), f"-I{sysconfig.get_path('include')}"]
    command += [f"-L{variables['LIBDIR']}", f"-L{variables['LIBPL']}"]
    command += [f"-Wl,-rpath,{variables['LIBDIR']}", "-Wl,--export-dynamic"]
    command += [f"-lpython{variables['LDVERSION']}", "-lm"]
    command += f"{variables['LIBS']} {variables['SYSLIBS']}".split()
    subprocess.run(command, check=True)
    return target


def write_seeds(directory):
    """One file for each wire case of a size that fuzzing can use, with wide and narrow limits."""
    directory.mkdir()
    for kind, files in ((0, ("heads", "framing")), (2, ("chunked",))):
        for file in files:
            for index, case in enumerate(wire_cases.load(file)):
                if len(case.data) < 1000:
                    choice = kind | bool(case.limits)
                    seed = bytes((choice,)) + case.data
                    (directory / f"{file}-{index}").write_bytes(seed)


def main():
    """Parse the arguments, build, fuzz; the exit status is libFuzzer's."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--keep", type=Path, default=Path.cwd(), help="where findings go")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        target = build(directory)
        write_seeds(directory / "corpus")
        path = os.pathsep.join([str(directory), str(HERE), *filter(None, sys.path)])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0",
        }
        command = [str(target), str(directory / "corpus"), f"-max_total_time={options.seconds}"]
        command += ["-max_len=2000", "-timeout=10", f"-artifact_prefix={options.keep}/"]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
