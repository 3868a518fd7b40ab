"""The floors: imports only go down, and importing fastserve stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastserve

PACKAGE = Path(fastserve.__file__).parent
if not (PACKAGE / "_speedups" / "transport.pyx").exists():
    pytest.skip("the installed package carries no sources to read", allow_module_level=True)
GROUND, WIRE, APPLICATION, PROCESS, DOORS = range(5)
FLOORS = {
    "errors": GROUND, "networks": GROUND, "presets": GROUND, "config": GROUND,
    "_speedups": WIRE,
    "files": APPLICATION, "mediatypes": APPLICATION,
    "app": APPLICATION, "binding": APPLICATION, "blocking": APPLICATION,
    "compress": APPLICATION, "decompress": APPLICATION, "forms": APPLICATION, "health": APPLICATION,
    "middleware": APPLICATION, "otel": APPLICATION, "routing": APPLICATION,
    "access_log": PROCESS, "beats": PROCESS, "births": PROCESS, "canary": PROCESS,
    "control": PROCESS, "cpus": PROCESS, "deaths": PROCESS, "forking": PROCESS, "machine": PROCESS,
    "metrics": PROCESS, "orders": PROCESS, "place": PROCESS, "processes": PROCESS,
    "readings": PROCESS, "recorder": PROCESS, "recycling": PROCESS, "reloading": PROCESS,
    "renewal": PROCESS, "shm": PROCESS, "status": PROCESS, "slots": PROCESS, "sources": PROCESS,
    "stacks": PROCESS, "steering": PROCESS, "supervisor": PROCESS, "terminal": PROCESS,
    "watchdog": PROCESS, "deployment": PROCESS, "pidfile": PROCESS, "privileges": PROCESS,
    "systemd": PROCESS, "commands": PROCESS, "upgrade": PROCESS, "descriptors": PROCESS,
    "entrance": PROCESS, "listeners": PROCESS, "log": PROCESS, "proxy": PROCESS,
    "proxy_protocol": PROCESS, "target": PROCESS, "tls": PROCESS, "worker": PROCESS,
    "__init__": DOORS, "__main__": DOORS, "cli": DOORS, "testing": DOORS,
    "changes": DOORS, "check": DOORS, "dev": DOORS, "host_checks": DOORS, "options": DOORS,
    "standin": DOORS,
    "tail": DOORS, "top": DOORS, "watching": DOORS,
}
# On the ground, too.
GROUND_ORDER = ["errors", "networks", "presets", "config"]
# Inside the wire floor: each room may know those before it.
WIRE_ORDER = [
    "plan", "buffer", "scan", "digits", "dates", "authority", "chunks", "head", "parser",
    "httptools_parser", "wheel", "stepping", "task", "runner", "table", "converters", "router",
    "observed", "scoreboard", "journal", "observer", "system", "channel", "watchers", "transport",
    "acceptor", "multidict", "messages", "responses", "deadlines", "conditions", "files",
    "outgoing", "serializer", "engine", "exchange", "protocol",
]
# App.run() is the one step up: the application starts the process that serves it.
EXCEPTIONS = {("app", "worker")}
FORBIDDEN = {
    WIRE: {"signal", "uvloop", "click", "multiprocessing"},
    APPLICATION: {"socket", "signal", "uvloop", "click", "multiprocessing"},
    PROCESS: {"click"},
}
ASYNCIO_ON_THE_WIRE = {"channel", "outgoing", "exchange", "runner", "task"}
OPTIONAL = [
    "click", "uvloop", "httptools", "h11", "httpx", "anyio", "jinja2", "msgspec",
    "prometheus_client", "opentelemetry", "python_multipart", "brotli", "backports.zstd",
    "watchfiles", "redis", "websockets", "wsproto",
]

CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n#]+)|c?import\s+([\w.]+))", re.MULTILINE)


def type_checking_only(tree):
    """The imports under `if TYPE_CHECKING:`, which do not happen."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }


def python_imports(path):
    tree = ast.parse(path.read_text())
    skipped = type_checking_only(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cython_imports(path):
    for module, names, plain in CYTHON_IMPORT.findall(path.read_text()):
        if plain:
            yield plain
            continue
        yield module
        yield from (f"{module}.{name}" for name in re.findall(r"\w+", names))


def rooms(imports):
    """The rooms of ours among imported names, e.g. {"errors", "_speedups.plan"}."""
    found = set()
    for name in imports:
        parts = name.split(".")
        if parts[0] != "fastserve" or len(parts) == 1:
            continue
        if parts[1] == "_speedups":
            found.add(".".join(parts[1:3]))
        elif (PACKAGE / f"{parts[1]}.py").exists():
            found.add(parts[1])
        else:
            found.add("__init__")   # a public name, by `from fastserve import App`
    return found


PYTHON_FILES = sorted(PACKAGE.glob("*.py"))
CYTHON_FILES = sorted((PACKAGE / "_speedups").glob("*.py[x]")) + sorted(
    (PACKAGE / "_speedups").glob("*.pxd"))


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.stem)
def test_every_room_has_a_floor_and_imports_only_downwards(path):
    """Doors, process, application, wire, ground: a file may skip floors, never climb.

    On the ground itself, each may know those before it.
    """
    room = path.stem
    assert room in FLOORS, f"{path.name} has no floor: put it into FLOORS, and into the drawing"
    for other in rooms(python_imports(path)):
        downwards = FLOORS[other.partition(".")[0]] <= FLOORS[room]
        if FLOORS[room] == GROUND:
            downwards = GROUND_ORDER.index(other) < GROUND_ORDER.index(room)
        assert downwards or (room, other) in EXCEPTIONS, f"{room} imports {other}"


def test_the_one_exception_is_inside_of_the_method():
    """App.run() imports the worker when it is called, not when fastserve is imported."""
    tree = ast.parse((PACKAGE / "app.py").read_text())
    top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    inner = {
        node.module
        for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function) if isinstance(node, ast.ImportFrom)
    }

    assert "fastserve.worker" not in top
    assert "fastserve.worker" in inner


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.stem)
def test_no_floor_reaches_for_what_is_not_its_business(path):
    """No sockets, signals or uvloop in the application; no click below the doors."""
    imported = set(python_imports(path))

    assert not imported & FORBIDDEN.get(FLOORS[path.stem], set())


@pytest.mark.parametrize("path", CYTHON_FILES, ids=lambda path: path.name)
def test_the_wire_floor_keeps_its_order(path):
    """Only `protocol` knows them all; errors is all they know of ours outside."""
    room = path.stem
    assert room in WIRE_ORDER, f"{path.name} has no place in WIRE_ORDER"
    imported = set(cython_imports(path))
    for other in rooms(imported):
        if other == "errors":
            continue
        name = other.removeprefix("_speedups.")
        assert name in WIRE_ORDER, f"{path.name} imports {other}"
        assert WIRE_ORDER.index(name) <= WIRE_ORDER.index(room), f"{path.name} imports {other}"
    assert "asyncio" not in imported or room in ASYNCIO_ON_THE_WIRE
    assert not imported & FORBIDDEN[WIRE]


def test_transport_knows_nothing_of_http():
    """It moves bytes."""
    moving = ("channel", "watchers", "transport")
    for name in (f"{room}.{kind}" for room in moving for kind in ("pyx", "pxd")):
        path = PACKAGE / "_speedups" / name
        assert rooms(cython_imports(path)) <= {
            "_speedups.channel", "_speedups.transport", "_speedups.buffer", "_speedups.system",
            "_speedups.watchers", "_speedups.wheel",
        }, name
        assert "cimport Request" not in path.read_text()


def test_importing_fastserve_imports_nothing_optional():
    """Not even click or uvloop: those are for who serves."""
    code = f"import sys, fastserve; print([name for name in {OPTIONAL} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    """__all__ is what `from fastserve import ...` promises."""
    for name in fastserve.__all__:
        assert hasattr(fastserve, name)
