"""Measure which branches of the parser the tests take, in C.

    python tests/fuzz/coverage.py [--least 95] [--show]

Needs gcc with gcov, Cython and pytest. It builds the parser's rooms into a temporary directory,
runs the parser's tests on them, and counts the branches of the functions that read a
stranger's bytes: those that run without the interpreter. What Cython adds to others, for
exceptions that do not happen, is not counted. The exit status is 1 below --least percent.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ROOMS = ("authority", "chunks", "head", "parser")
TESTS = ("test_parser.py", "test_parser_properties.py")
PURE = re.compile(r"^cdef (?:inline )?[\w* ]+?\b(\w+)\(", re.MULTILINE)


def build(directory):
    """Build the rooms with gcov's counters."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--force"]
    command += ["--build-lib", str(directory), "--build-temp", str(directory / "objects")]
    environment = {**os.environ, "FASTSERVE_BUILD_COVERAGE": "1", "CC": "gcc"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    for package in ("fastserve", "fastserve/_speedups"):
        (directory / package / "__init__.py").touch()


def pure_functions(room):
    """The names of a room's functions that are `noexcept nogil`."""
    source = (ROOT / f"fastserve/_speedups/{room}.pyx").read_text()
    for match in PURE.finditer(source):
        if "noexcept nogil" in source[match.start() : source.index(":\n", match.start())]:
            yield match[1]


def branches(directory, room):
    """((line of the .c, branch's index), times taken) for a room's pure functions."""
    (counters,) = (directory / "objects").rglob(f"{room}.gcda")
    command = ["gcov", "--branch-probabilities", "--json-format", "--stdout", str(counters)]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    names = {f"__pyx_f_9fastserve_9_speedups_{len(room)}{room}_{name}" for name in
             pure_functions(room)}  # fmt: skip
    for file in json.loads(done.stdout)["files"]:
        for line in file["lines"]:
            if file["file"].endswith(f"{room}.c") and line.get("function_name") in names:
                for index, branch in enumerate(line["branches"]):
                    yield (line["line_number"], index), branch["count"]


def origin(room, line):
    """Where a line of the .c comes from: Cython says it in a comment before."""
    before = (ROOT / f"fastserve/_speedups/{room}.c").read_text().splitlines()[:line]
    said = [text for text in before if text.startswith(f'  /* "fastserve/_speedups/{room}.pyx":')]
    number = int(said[-1].rpartition(":")[2]) if said else 0
    source = (ROOT / f"fastserve/_speedups/{room}.pyx").read_text().splitlines()
    return f"  {number:4}: {source[number - 1].strip()}"


def main():
    """Build, test, count."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--least", type=float, default=95, help="percent of all branches")
    arguments.add_argument("--show", action="store_true", help="lines with branches not taken")
    options = arguments.parse_args()
    taken = total = 0
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        build(directory)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [str(HERE.parent / name) for name in TESTS]
        environment = {**os.environ, "PYTHONPATH": str(directory)}
        subprocess.run(command, cwd=directory, env=environment, check=True)
        for room in ROOMS:
            found = dict(branches(directory, room))
            missed = sorted({line for (line, _), count in found.items() if not count})
            here = sum(count > 0 for count in found.values())
            print(f"{room:10} {here} of {len(found)} branches, {100 * here / len(found):.1f} %")
            if options.show:
                print(*sorted({origin(room, line) for line in missed}), sep="\n")
            taken, total = taken + here, total + len(found)
    print(f"{'together':10} {taken} of {total} branches, {100 * taken / total:.1f} %")
    return 0 if 100 * taken >= options.least * total else 1


if __name__ == "__main__":
    sys.exit(main())
