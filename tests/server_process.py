"""Real server processes for real clients: `fastserve run` on an address of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme
from files_app import lay_out

import fastserve

HERE = Path(__file__).parent
CLIENTS_APP = str(HERE / "clients_app.py")
FILES_APP = "files_app:make_app"
AUTHORITY = "authority.pem"
CERTIFICATE = "server.pem"
START_S = 60
STOP_S = 60


@dataclass
class ServerProcess:
    """A running server.

    url:       where it listens, "http://127.0.0.1:4711", or "unix:/run/the.sock"
    log_path:  what it wrote to stderr so far
    """

    url: str
    log_path: Path
    process: subprocess.Popen[bytes]

    @property
    def ca_path(self) -> str:
        """The certificate of the authority that tls_flags() made."""
        return str(self.log_path.with_name(AUTHORITY))

    @property
    def certificate(self) -> str:
        """Its own, below that authority; the file has the key and the chain too."""
        return str(self.log_path.with_name(CERTIFICATE))

    @property
    def port(self) -> int:
        """Its TCP port."""
        return int(self.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        return self.log_path.read_text()


@contextlib.contextmanager
def serve_in_process(
    directory: Path, *flags: str, target: str = CLIENTS_APP
) -> Iterator[ServerProcess]:
    """`fastserve run TARGET FLAGS`; behind it, it must end well and without a traceback.

    directory:  where its log goes
    flags:      without --uds or --bind among them it listens on a free port
    """
    log_path = directory / "server.log"
    where = () if {"--uds", "--bind"} & set(flags) else ("--port", "0")
    command = [sys.executable, "-m", "fastserve", "run", target, *where, *flags]
    # the package that is tested, wherever the server's working directory is
    environment = {**os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent)}
    with log_path.open("wb") as log:
        process = subprocess.Popen(     # in a session of its own: no terminal sends it signals
            command, cwd=directory, env=environment, stderr=log, start_new_session=True)
    try:
        url = wait_for(log_path, r"listening on ([^ ,]+)[^(]* \(pid", process)[1]
        yield ServerProcess(url, log_path, process)
        process.terminate()
        status = process.wait(STOP_S)
        log_text = log_path.read_text()
        assert status == 0, log_text
        assert "Traceback" not in log_text, log_text
    finally:
        process.kill()
        process.wait()


def serve_files(directory: Path, *flags: str) -> contextlib.AbstractContextManager[ServerProcess]:
    """serve_in_process() for files_app.py, with its files below the directory."""
    found = ("--factory", "--app-dir", str(HERE))
    return serve_in_process(lay_out(directory), *found, *flags, target=FILES_APP)


def tls_flags(directory: Path) -> tuple[str, ...]:
    """The flags that make a server speak TLS, with a certificate for this machine's names."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / AUTHORITY))
    path = str(directory / CERTIFICATE)
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    return ("--ssl-certfile", path)


def wait_for(path: Path, pattern: str, process: subprocess.Popen[bytes]) -> re.Match[str]:
    """The first match in a file that a process writes; fails where the process ends before."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        text = path.read_text() if path.exists() else ""
        if match := re.search(pattern, text):
            return match
        assert not ended, f"ended with {process.returncode}:\n{text}"
        time.sleep(0.01)
    raise AssertionError(f"no {pattern!r} in:\n{text}")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waited for does not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def output_of(*command: str, stdin: bytes | None = None, statuses: tuple[int, ...] = (0,)) -> str:
    """What a program prints, stdout before stderr; it must succeed."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)
    text = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode in statuses, text
    return text


def interrupt_without_database(*arguments: str) -> tuple[int, bytes]:
    """What becomes of `python -m benchmarks ARGUMENTS` that SIGINT reaches while it waits for one.

    Returns its status and what it wrote to stderr.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(START_S)
        url = f"postgresql://someone@127.0.0.1:{silent.getsockname()[1]}/name?sslmode=disable"
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", *arguments, "--database", url], cwd=HERE.parent,
            stderr=subprocess.PIPE)
        try:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=STOP_S)
        finally:
            process.kill()
            process.communicate()
    return process.returncode, said
