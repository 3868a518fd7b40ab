r"""Fuzz the parsers with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/fuzz/run.py --seconds 600

Needs clang with its runtime libraries (Debian: clang, libclang-rt-dev) and Cython. It builds
into a temporary directory, starts from the wire cases, and prints libFuzzer's report; what
breaks a property is left in the directory given by --keep. With --corpus what was found worth
keeping outlives the run, and the next one goes on from there.

AFL++ runs the same properties: build with CC=afl-clang-fast, link afl's driver
(-fsanitize=fuzzer with afl-clang-fast) to target.c, and start from the same corpus.
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

import inputs  # noqa: E402
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
    directory.mkdir(exist_ok=True, parents=True)
    for file, kind in (
        ("heads", "head"), ("framing", "head"), ("chunked", "chunked"), ("families", "stream"),
    ):  # fmt: skip
        for index, case in enumerate(wire_cases.load(file)):
            if len(case.data) < 1000:
                seed = inputs.seed(kind, bool(case.limits), index, case.data)
                (directory / f"{file}-{index}").write_bytes(seed)


def main():
    """Parse the arguments, build, fuzz; the exit status is libFuzzer's."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--keep", type=Path, default=Path.cwd(), help="where findings go")
    arguments.add_argument("--corpus", type=Path, help="where inputs are kept between runs")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        target = build(directory)
        corpus = options.corpus or directory / "corpus"
        write_seeds(corpus)
        path = os.pathsep.join([str(directory), str(HERE), *filter(None, sys.path)])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0",
        }
        command = [str(target), str(corpus), f"-max_total_time={options.seconds}"]
        command += ["-max_len=2000", "-timeout=10", f"-artifact_prefix={options.keep}/"]
        command += [f"-dict={HERE / 'http.dict'}", "-print_final_stats=1"]
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
