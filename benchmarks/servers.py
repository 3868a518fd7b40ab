"""The registry of servers: what to install, how to start it, which cases it cannot do.

To add a peer: write benchmarks/peers/<name>_app.py and one Server(...) below.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).resolve().parent / "peers"

FLOOR = "floor"
REFERENCE = "fastserve"  # its answers are what the floor sends


@dataclass(frozen=True)
class Server:
    """How one server is set up and started.

    venv:     the name of its cached environment; servers may share one
    requires: what pip installs into that environment
    command:  arguments behind the environment's Python, or its scripts as "bin/NAME";
              {port} and {peers}, the folder of the peers' apps, are filled in
    imports:  the statement with which a program that uses it begins, for the import time
    package:  the distribution whose version is reported
    legacy:   the Python it needs, when that is not the one under test
    skips:    cases it is not run on, and why
    note:     what a reader must know to judge its figures
    """

    name: str
    title: str
    venv: str = ""
    requires: tuple[str, ...] = ()
    command: str = ""
    imports: str = ""
    package: str = ""
    legacy: str = ""
    skips: dict[str, str] = field(default_factory=dict)
    note: str = ""


_STACK = ("uvicorn", "httptools", "uvloop", "starlette", "fastapi", "orjson")
_UVICORN = (
    "-m uvicorn --loop uvloop --http httptools --no-access-log --log-level warning"
    " --timeout-keep-alive 75 --backlog 4096 --port {port}"
)
_GRANIAN = (
    "bin/granian --workers 1 --loop uvloop --http 1 --no-ws --runtime-mode st --no-log"
    " --http1-pipeline-flush --backlog 16384 --backpressure 16384 --port {port}"
)
_SYNC_ONLY = dict.fromkeys(("plaintext-async", "pipelined-16-async"), "WSGI has no async handler")
_GRANIAN_NOTE = "--http1-pipeline-flush, which granian calls experimental, is on"


def _uvicorn(name: str, title: str, app: str, package: str, imports: str) -> Server:
    command = f"{_UVICORN} {app}:app"
    return Server(name, title, "uvicorn", _STACK, command, imports, package)


def _granian(name: str, title: str, arguments: str, imports: str, note: str = "") -> Server:
    command = f"{_GRANIAN} {arguments}"
    requires = ("granian", "uvloop", "orjson")
    return Server(
        name, title, "granian", requires, command, imports, "granian", note=note or _GRANIAN_NOTE
    )


def _script(
    name: str, title: str, package: str, arguments: str, requires: str, **more: Any
) -> Server:
    command = f"{{peers}}/{arguments} {{port}}"
    imports = f"import {package}"
    return Server(name, title, package, tuple(requires.split()), command, imports, package, **more)


_ALL = (
    Server(
        FLOOR,
        "C floor",
        skips={"import": "it is not Python"},
        note="an epoll loop that parses nothing and sends the bytes of fastserve's answer",
    ),
    Server(
        REFERENCE,
        "fastserve",
        command="-m fastserve run examples/bench.py:app --port {port}",
        imports="from fastserve import App, HTTPError, Request, Response",
        package="fastserve",
        note="default flags",
    ),
    _uvicorn("uvicorn", "uvicorn, bare ASGI", "raw_asgi_app", "uvicorn", "import uvicorn"),
    _uvicorn(
        "starlette",
        "uvicorn + Starlette",
        "starlette_app",
        "starlette",
        "import uvicorn, starlette.applications, starlette.routing, starlette.responses",
    ),
    _uvicorn("fastapi", "uvicorn + FastAPI", "fastapi_app", "fastapi", "import uvicorn, fastapi"),
    Server(
        "uvicorn-usual",
        "uvicorn as `pip install uvicorn` leaves it (h11, asyncio)",
        "uvicorn-usual",
        ("uvicorn", "orjson"),
        "-m uvicorn --no-access-log --log-level warning --timeout-keep-alive 75 --port {port}"
        " raw_asgi_app:app",
        "import uvicorn",
        "uvicorn",
        note="its access log, on by default, is off here as for all",
    ),
    _granian("granian-rsgi", "granian, RSGI", "--interface rsgi rsgi_app:app", "import granian"),
    _granian(
        "granian-rsgi-rust",
        "granian, RSGI, Rust tasks",
        "--interface rsgi --task-impl rust rsgi_app:app",
        "import granian",
        "--task-impl rust, which granian calls experimental and offers up to Python 3.11, is on",
    ),
    _granian(
        "granian-asgi", "granian, ASGI", "--interface asgi raw_asgi_app:app", "import granian"
    ),
    Server(
        "granian-usual",
        "granian with its default flags, RSGI",
        "granian",
        ("granian", "uvloop", "orjson"),
        "bin/granian --interface rsgi --port {port} rsgi_app:app",
        "import granian",
        "granian",
        skips={"idle": "its default accepts 1,024 connections at once"},
    ),
    _script(
        "robyn",
        "Robyn",
        "robyn",
        "robyn_app.py --log-level ERROR",
        "robyn orjson",
        note="one process, one worker; no const routes: those are answered without Python",
    ),
    _script(
        "sanic",
        "Sanic",
        "sanic",
        "sanic_app.py",
        "sanic uvloop httptools orjson",
        note="single_process",
    ),
    _script(
        "aiohttp",
        "aiohttp on uvloop",
        "aiohttp",
        "aiohttp_app.py",
        "aiohttp[speedups] uvloop orjson",
    ),
    Server(
        "blacksheep",
        "uvicorn + BlackSheep",
        "blacksheep",
        ("blacksheep", "uvicorn", "httptools", "uvloop", "orjson"),
        f"{_UVICORN} blacksheep_app:app",
        "import uvicorn, blacksheep",
        "blacksheep",
    ),
    _script(
        "socketify",
        "socketify",
        "socketify",
        "socketify_app.py",
        "socketify orjson",
        note="polls between two event loops; the POST handler is sync, for its async form aborts",
    ),
    _script(
        "fastpysgi",
        "fastpysgi, WSGI",
        "fastpysgi",
        "fastpysgi_app.py wsgi",
        "fastpysgi orjson",
        note="every handler is sync, for WSGI has no other",
        skips=_SYNC_ONLY,
    ),
    _script(
        "fastpysgi-asgi",
        "fastpysgi, ASGI",
        "fastpysgi",
        "fastpysgi_app.py asgi",
        "fastpysgi orjson",
        note="polls between two event loops",
    ),
    Server(
        "japronto",
        "Japronto 0.1.2 on Python 3.6",
        "japronto",
        ("japronto==0.1.2", "uvloop==0.14.0"),
        "{peers}/japronto_app.py {port}",
        "japronto",
        "japronto",
        legacy="3.6",
        skips={
            "pipelined-16-async": "pipelined requests to an async handler corrupt its heap",
            "import": "Python 3.6 has no -X importtime",
        },
        note="no Date and no Server header; the standard library's JSON; coroutines without an"
        " await are made plain functions by Japronto itself",
    ),
)

SERVERS: dict[str, Server] = {server.name: server for server in _ALL}
