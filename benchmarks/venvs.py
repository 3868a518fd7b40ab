"""Cached virtual environments: one for each peer, made once, for each Python."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.servers import REFERENCE, ROOT, Server

DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fastserve-bench"


class Unavailable(Exception):
    """A server that cannot be had here; the message is the reason that is reported."""


def find_python(version: str) -> str:
    """The interpreter of an old version, from PATH or pyenv."""
    roots = [Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()]
    candidates = [str(p) for r in roots for p in sorted(r.glob(f"versions/{version}.*/bin/python"))]
    candidates.append(shutil.which(f"python{version}") or "")
    for candidate in filter(None, candidates):
        ask = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return candidate
    raise Unavailable(f"Python {version} is not present")


class Venvs:
    """Environments under one directory, keyed by the interpreter they are made with.

    python: the interpreter for the peers and fastserve; None: this one, in which fastserve
            is already installed
    """

    def __init__(self, cache: Path, python: str | None, say: Callable[[str], None] = print) -> None:
        self.cache = cache.expanduser()
        self.python = python
        self.say = say

    def base(self, server: Server) -> str:
        """The interpreter that the server's environment is made with."""
        if server.legacy:
            return find_python(server.legacy)
        return self.python or getattr(sys, "_base_executable", "") or sys.executable

    def path(self, server: Server) -> Path:
        base = os.path.realpath(self.base(server))
        key = hashlib.sha256(base.encode()).hexdigest()[:8]
        return self.cache / f"{Path(base).name}-{key}" / (server.venv or server.name)

    def is_installed(self, server: Server) -> bool:
        if not self._needs_venv(server):
            return True
        try:
            stamp = self.path(server) / "installed.json"
            return bool(json.loads(stamp.read_text()) == self._wanted(server))
        except (OSError, ValueError, Unavailable):
            return False

    def interpreter(self, server: Server, *, upgrade: bool = False) -> str:
        """The Python that runs the server; its environment is made first if need be."""
        if not self._needs_venv(server):
            return sys.executable
        python = str(self.path(server) / "bin" / "python")
        if upgrade or not self.is_installed(server):
            with self._alone(server):
                if upgrade or not self.is_installed(server):
                    self._install(server, python)
        return python

    @contextlib.contextmanager
    def _alone(self, server: Server) -> Iterator[None]:
        """No other bench makes this environment meanwhile."""
        path = self.path(server)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f".{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _needs_venv(self, server: Server) -> bool:
        return bool(server.command) and (server.package != REFERENCE or self.python is not None)

    def _wanted(self, server: Server) -> list[str]:
        own = ["-e", str(ROOT)] if server.package == REFERENCE else []
        return [*own, *server.requires]

    def _install(self, server: Server, python: str) -> None:
        path = self.path(server)
        self.say(f"installing {', '.join(self._wanted(server))} into {path}")
        shutil.rmtree(path, ignore_errors=True)
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
        for step in ([self.base(server), "-m", "venv", str(path)], [*pip, *self._wanted(server)]):
            done = subprocess.run(step, capture_output=True, text=True, check=False, cwd="/")
            if done.returncode:
                lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
                raise Unavailable("cannot be installed: " + (lines[-1] if lines else "no reason"))
        (path / "installed.json").write_text(json.dumps(self._wanted(server)))


def describe(python: str, package: str) -> dict[str, str]:
    """The version of a package and of the Python that runs it, and how that was built.

    Some distributions record the build of libpython beside a python that has none: what that
    says of the optimisation is nothing, whichever way.
    """
    program = (
        "import json, platform, sysconfig, sys\n"
        "args = sysconfig.get_config_var('CONFIG_ARGS') or ''\n"
        "shared = '--enable-shared' in args\n"
        "try: linked = 'libpython' in open('/proc/self/maps').read()\n"
        "except OSError: linked = shared\n"
        "no = 'no' if linked == shared else 'not recorded'\n"
        "try:\n"
        "    from importlib.metadata import version\n"
        "    found = version(sys.argv[1])\n"
        "except Exception:\n"
        "    try:\n"
        "        import pkg_resources\n"
        "        found = pkg_resources.get_distribution(sys.argv[1]).version\n"
        "    except Exception: found = ''\n"
        "print(json.dumps({'version': found, 'python': platform.python_version(),\n"
        "    'implementation': platform.python_implementation(),\n"
        "    'compiler': platform.python_compiler(), 'config_args': args,\n"
        "    'pgo': 'yes' if '--enable-optimizations' in args else no,\n"
        "    'lto': 'yes' if '--with-lto' in args else no,\n"
        "    'shared': 'yes' if linked else 'no'}))\n"
    )
    done = subprocess.run(
        [python, "-c", program, package], capture_output=True, text=True, check=False, cwd=ROOT
    )
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        return {"version": "", "python": "", "error": done.stderr.strip()[-200:]}
