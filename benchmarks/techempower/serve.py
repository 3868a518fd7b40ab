"""An entry of ours behind `fastserve run`, as its users start it, with a database that is ready.

The server is a process of its own; what this one is told (SIGINT, SIGTERM) it is told, too, and
this one ends when it has ended. Should this one be killed, the server ends like its database.
"""

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
NEEDS = {
    "app.py": ("asyncpg", "cachetools", "jinja2"),
    "app_pipelined.py": ("asyncpg", "cachetools", "jinja2", "psycopg"),
    "app_orm.py": ("asyncpg", "cachetools", "greenlet", "jinja2", "sqlalchemy"),
}
PR_SET_PDEATHSIG = 1


class Refused(Exception):
    """It cannot be served; the message names what is missing or wrong, and the way out."""


@dataclass(frozen=True)
class Served:
    """What to serve, and where.

    app:       a file of this folder, one of NEEDS
    database:  postgresql://...; None is a PostgreSQL of its own
    flags:     for `fastserve run`, "--port", "8080", ...
    """

    app: str
    database: str | None
    flags: tuple[str, ...]


def serve(served: Served) -> int:
    """Serve until told to stop, or until the server ends by itself; its exit status.

    Raises Refused where a package, PostgreSQL or the database is missing.
    """
    _check_packages(served.app)
    relay = Relay()
    with relay.listening(), database(served.database) as url:
        _make_tables(url, relay)
        if served.database is None:
            print(f"database: {url}", file=sys.stderr, flush=True)
        return relay.run(
            [sys.executable, "-m", "fastserve", "run", str(FOLDER / served.app), *served.flags],
            {**os.environ, "DATABASE_URL": url, "PYTHONPATH": _python_path()})


class Relay:
    """Passes the signals that stop a server on to it.

    One that comes earlier ends all when the step under way is done. Nothing is raised where it
    comes: that would be lost where Python or a driver runs hooks of its own, such as those around
    each fork. What `complete()` runs is cancelled instead.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._told: int | None = None
        self._cancel: Callable[[], object] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals meanwhile."""
        before = {number: signal.signal(number, self._pass_on)
                  for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except Refused:
            self.check()    # the terminal's Ctrl-C reaches what runs for us, too, which then fails
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def complete(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what may take as long as somebody else likes; raises SystemExit for a signal."""
        async def cancellable() -> None:
            task = asyncio.current_task()
            assert task is not None
            self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
            if self._told is None:
                await work

        try:
            asyncio.run(cancellable())
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._cancel = None
            work.close()
        self.check()

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """Start the server and wait for its end; its exit status, 128 + N for signal N."""
        self.check()
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL,
            start_new_session=True,     # or the terminal's Ctrl-C would reach it twice
            preexec_fn=end_with_parent)  # noqa: PLW1509 - there are no threads here
        if self._told is not None:
            self.process.send_signal(self._told)
        status = self.process.wait()
        return status if status >= 0 else 128 - status

    def check(self) -> None:
        """Raise SystemExit where a signal has come."""
        if self._told is not None:
            raise SystemExit(128 + self._told)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._told = number
        if self.process is not None:
            self.process.send_signal(number)
        elif self._cancel is not None:
            with contextlib.suppress(RuntimeError):     # its loop has just ended
                self._cancel()


def end_with_parent() -> None:
    """Before a program is executed: it is told to end when this process has ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _check_packages(app: str) -> None:
    missing = [name for name in NEEDS[app] if importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(f"{', '.join(missing)} not installed: pip install -e '.[bench]'")


@contextlib.contextmanager
def database(url: str | None) -> Iterator[str]:
    """`url`, or that of a PostgreSQL which runs meanwhile. Raises Refused where there is none."""
    from benchmarks.postgres import NoPostgres, Postgres

    if url is not None:
        yield url
        return
    try:
        server = Postgres().__enter__()
    except NoPostgres as error:
        raise Refused(str(error)) from error
    try:
        yield server.url
    finally:
        server.stop()


def _make_tables(url: str, relay: Relay) -> None:
    import asyncpg

    from benchmarks.techempower import tables

    try:
        relay.complete(tables.create(url))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Refused(f"--database {without_password(url)}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def without_password(url: str) -> str:
    """`url` as it may be shown."""
    head, at, tail = url.rpartition("@")
    scheme, slashes, account = head.partition("://")
    user, colon, _ = account.partition(":")
    return f"{scheme}{slashes}{user}{':***' if colon else ''}{at}{tail}"


def _python_path() -> str:
    """The fastserve of this checkout, and whatever else was on the path."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
