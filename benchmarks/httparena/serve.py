"""The entry behind `fastserve run`, with what the arena gives it: data, a certificate, PostgreSQL.

Plain HTTP on one port and TLS on another. Several workers get a Redis, as the arena gives one to
the CRUD profile, where redis-server is installed.
"""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.techempower.serve import (
    ROOT,
    Refused,
    Relay,
    database,
    end_with_parent,
    reason,
    without_password,
)

FOLDER = Path(__file__).resolve().parent
NEEDS = ("asyncpg", "brotli", "cachetools", "trustme")
MAX_CONNECTIONS = 256       # what the arena's PostgreSQL allows
REDIS_START_S = 10.0


@dataclass(frozen=True)
class Served:
    """What to serve, and where.

    host, port, tls_port:  of plain HTTP and of TLS; 0 is a free port
    workers:               a number, "auto", or None for a process alone
    database:              postgresql://...; None is a PostgreSQL of its own
    folder:                where data/ and certs/ are made, or were; None is a temporary one
    rows:                  of the table, where it is made
    brotli_quality:        of the precompressed files, where they are made
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls_port: int = 0
    workers: str | None = None
    database: str | None = None
    folder: Path | None = None
    rows: int = 100_000
    brotli_quality: int = 11


def serve(served: Served) -> int:
    """Serve until told to stop, or until the server ends by itself; its exit status.

    Raises Refused where a package, PostgreSQL or the database is missing.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise Refused(f"{', '.join(missing)} not installed: pip install -e '.[bench]'")
    relay = Relay()
    with relay.listening(), contextlib.ExitStack() as stack:
        folder = served.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not (folder / "certs" / "server.crt").exists():
            _make_data(folder, served.brotli_quality)
        url = stack.enter_context(database(served.database))
        _fill(url, served.rows, relay)
        redis = stack.enter_context(_redis(served.workers))
        print(f"data: {folder}\ndatabase: {url}", file=sys.stderr, flush=True)
        return relay.run(_command(served, folder), _environment(served, folder, url, redis))


def _command(served: Served, folder: Path) -> list[str]:
    certs = folder / "certs"
    command = [
        sys.executable, "-m", "fastserve", "run", str(FOLDER / "app.py"),
        "--bind", f"{served.host}:{served.tls_port}",
        "--plain-bind", f"{served.host}:{served.port}",
        "--ssl-certfile", str(certs / "server.crt"), "--ssl-keyfile", str(certs / "server.key")]
    return [*command, "--workers", served.workers] if served.workers else command


def _environment(served: Served, folder: Path, url: str, redis: str) -> dict[str, str]:
    workers = served.workers or "1"
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "DATA_DIR": str(folder / "data"),
        "DATABASE_URL": url,
        "DATABASE_MAX_CONN": str(MAX_CONNECTIONS),
        "REDIS_URL": redis,
        "WORKERS": "" if workers == "auto" else workers,
    }


def _make_data(folder: Path, brotli_quality: int) -> None:
    from benchmarks.httparena import data

    try:
        data.write(folder, brotli_quality)
    except OSError as error:
        raise Refused(f"--data {folder}: {error.strerror}") from error


def _fill(url: str, rows: int, relay: Relay) -> None:
    import asyncpg

    from benchmarks.httparena import data

    try:
        relay.complete(data.fill(url, rows))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Refused(f"--database {without_password(url)}: {reason(error)}") from error


@contextlib.contextmanager
def _redis(workers: str | None) -> Iterator[str]:
    """The URL of a Redis for several workers; "" where there is one, or no redis-server."""
    program = shutil.which("redis-server")
    if workers in (None, "1") or program is None:
        if workers not in (None, "1"):
            print("no redis-server here: each worker keeps items of its own, which the CRUD "
                  "rules do not allow (apt-get install redis-server)", file=sys.stderr)
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="fastserve-redis-", dir="/tmp") as folder:
        path = Path(folder, "redis.sock")
        process = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=end_with_parent)  # noqa: PLW1509 - there are no threads here
        try:
            deadline = time.monotonic() + REDIS_START_S
            while not path.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Refused(f"{program} did not start")
                time.sleep(0.02)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait()
