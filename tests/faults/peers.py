"""The servers beside which the faults are shown, and how each is started.

Each is installed once, into a cached virtual environment as benchmarks/venvs.py makes them, and
serves tests/faults/peer_app.py with its default flags; keep-alive is as long as ours.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.faults.serving import FASTSERVE, Make

APP = "tests.faults.peer_app:app"
PEERS = (
    Make("uvicorn", "{python} -m uvicorn " + APP + " --host 127.0.0.1 --port {port}"
         " --workers {workers} --timeout-keep-alive 75 --no-access-log --log-level warning"),
    Make("gunicorn", "{python} -m gunicorn -k asgi -b 127.0.0.1:{port} -w {workers}"
         " --keep-alive 75 --log-level warning --no-control-socket " + APP),
    Make("granian", "{python} -m granian --interface asgi --host 127.0.0.1 --port {port}"
         " --workers {workers} --log-level warning " + APP, scales=False),
    Make("granian, respawning", "{python} -m granian --interface asgi --host 127.0.0.1"
         " --port {port} --workers {workers} --respawn-failed-workers --log-level warning " + APP,
         scales=False),
)
PACKAGES = {
    "uvicorn": ("uvicorn", "uvloop", "httptools"), "gunicorn": ("gunicorn", "uvloop", "httptools"),
    "granian": ("granian", "uvloop"),
}


def package_of(make: Make) -> str:
    """The distribution that a make is."""
    return make.name.partition(",")[0]


def installed(names: list[str], cache: Path | None) -> list[tuple[Make, str]]:
    """Those of some names, or all, each with its version; the first is fastserve."""
    import fastserve
    from benchmarks.servers import Server
    from benchmarks.venvs import DEFAULT_CACHE, Venvs, describe

    venvs = Venvs(cache or DEFAULT_CACHE, None)
    found = [(FASTSERVE, fastserve.__version__)] if not names or FASTSERVE.name in names else []
    for make in PEERS:
        package = package_of(make)
        if not names or package in names:
            server = Server(f"faults-{package}", package, requires=PACKAGES[package],
                            command="-", package=package)
            python = venvs.interpreter(server)
            made = dataclasses.replace(make, python=python)
            found.append((made, describe(python, package)["version"]))
    return found
