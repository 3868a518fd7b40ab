"""What signals do to a server without workers, beside stopping it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
from pathlib import Path

import pytest
import trustme
from server_process import serve_in_process, tls_flags
from test_supervisor import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals are tried on Linux")

APP = """
import logging
from fastserve import App

logging.getLogger("app").addHandler(logging.FileHandler("app.log"))
app = App()

@app.get("/")
def home():
    logging.getLogger("app").warning("asked")
    return "here"
"""


@pytest.fixture
def main(tmp_path):
    (tmp_path / "main.py").write_text(APP)
    return "main.py"


def ask(port):
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def serial(port):
    """The certificate that a server shows."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as client, \
            context.wrap_socket(client) as secure:
        return secure.getpeercert(binary_form=True)


def test_hup_reads_the_certificates_anew(tmp_path, main):
    """And is no end: it was one before anybody listened to it."""
    with serve_in_process(tmp_path, *tls_flags(tmp_path), target=main) as server:
        before = serial(server.port)
        issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(server.certificate)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: serial(server.port) != before)
        assert "HUP: reading the certificates anew" in server.log


def test_hup_without_certificates_changes_nothing(tmp_path, main):
    """It says that new code takes workers."""
    with serve_in_process(tmp_path, target=main) as server:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "new code takes workers" in server.log)
        ask(server.port)


def test_usr1_opens_the_log_files_anew(tmp_path, main):
    """What was moved away is written to no more; what was not is not touched."""
    log = tmp_path / "app.log"
    with serve_in_process(tmp_path, target=main) as server:
        ask(server.port)
        moved = log.rename(tmp_path / "app.log.1")
        server.process.send_signal(signal.SIGUSR1)
        until(log.exists)
        before = moved.read_text()
        ask(server.port)
        assert log.read_text().count("asked") == 1
        server.process.send_signal(signal.SIGUSR1)
        ask(server.port)
        assert log.read_text().count("asked") == 2
        assert moved.read_text() == before


def test_usr1_to_a_worker_ends_nobody(tmp_path, main):
    """Who sends it to all processes of a name means the same."""
    with serve_in_process(tmp_path, "--workers", "1", target=main) as server:
        pid = server.process.pid
        (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (tmp_path / "app.log").rename(tmp_path / "app.log.1")
        os.kill(int(worker), signal.SIGUSR1)
        until((tmp_path / "app.log").exists)
        ask(server.port)
        assert Path(f"/proc/{worker}").exists()
