"""nginx and HAProxy as processes in front of a server, over TCP or over its unix socket.

They listen on unix sockets, so that no port is guessed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from server_process import START_S

KEPT = 8  # idle connections to the server that a proxy keeps

NGINX = """
{user}
daemon off;
pid nginx.pid;
error_log error.log error;
worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path unused1; uwsgi_temp_path unused2; scgi_temp_path unused3;
    proxy_next_upstream {retry_on};
    upstream kept {{ server {upstream}; keepalive {kept}; }}
    map $http_upgrade $connection_wanted {{ default upgrade; '' ''; }}
    server {{
        listen unix:{directory}/socket;
        proxy_set_header Host $host;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_wanted;
        location / {{ proxy_pass http://kept; proxy_http_version 1.1; }}
        location /unbuffered/ {{
            proxy_pass http://kept/;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
        location /old/ {{
            proxy_pass http://kept/;
            proxy_http_version 1.0;
            proxy_set_header Connection close;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    option dontlognull
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    retries {retries}
    retry-on {retry_on}
    http-reuse always
    option http-keep-alive
frontend clients
    bind {directory}/socket
    http-request set-path %[path,regsub(^/old/,/)] if {{ path_beg /old/ }}
    http-request set-path %[path,regsub(^/unbuffered/,/)] if {{ path_beg /unbuffered/ }}
    default_backend servers
backend servers
    server one {upstream} pool-max-conn {kept} pool-purge-delay 600s check inter 200ms
    option httpchk GET /
"""

# How a line of HAProxy about a request says that nothing went wrong ("CD--": the client left)
# and that nothing was tried again.
ENDED_WELL = re.compile(r" (----|CD--) \d+/\d+/\d+/\d+/0 ")


@dataclass
class ProxyProcess:
    """A running proxy.

    name:         "nginx" or "haproxy"
    socket_path:  where it listens
    directory:    its own, with its log
    """

    name: str
    socket_path: str
    directory: Path
    process: subprocess.Popen[bytes]

    def client(self) -> httpx.Client:
        """A client whose requests go through the proxy."""
        # reading the CA bundle for a TLS that is not there would take longer than the requests
        transport = httpx.HTTPTransport(uds=self.socket_path, verify=False)
        return httpx.Client(transport=transport, base_url="http://proxied", timeout=60)

    def complaints(self) -> list[str]:
        """What the proxy held against the server."""
        if self.name == "nginx":
            return (self.directory / "error.log").read_text().splitlines()
        lines = (self.directory / "log").read_text().splitlines()
        return [line for line in lines if "is DOWN" in line or not ENDED_WELL.search(line)]

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """While inside, the proxy and its children do nothing at all."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Let it end; behind this its log is whole."""
        self.process.terminate()
        self.process.wait(30)

    def wait(self) -> None:
        """Until it listens."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(self.socket_path)
                return
            time.sleep(0.01)
        raise AssertionError((self.directory / "log").read_text())


@contextlib.contextmanager
def proxy_in_process(
    name: str, needs: Callable[[str], str], upstream: str, retries: int = 0
) -> Iterator[ProxyProcess]:
    """A proxy in front of a server.

    name:      "nginx" or "haproxy"
    needs:     the fixture
    upstream:  "127.0.0.1:4711" or "unix:/path/of/a/socket"
    retries:   how often a request may be sent again that a closing connection has swallowed
    """
    program = needs(name)
    directory = Path(tempfile.mkdtemp(prefix="proxy"))  # short enough for a unix socket's name
    values = {"directory": directory, "kept": KEPT, "retries": retries, "user": ""}
    if name == "nginx":
        template = NGINX
        command = [program, "-p", f"{directory}/", "-c", "config", "-e", "error.log"]
        values |= {"upstream": upstream, "retry_on": "error timeout" if retries else "off"}
        if os.geteuid() == 0:
            values["user"] = "user root;"
    else:
        template = HAPROXY
        command = [program, "-db", "-f", "config"]
        values |= {"upstream": upstream.replace("unix:", "unix@"),
                   "retry_on": "all-retryable-errors" if retries else "none"}
    (directory / "config").write_text(template.format(**values))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=directory, stdout=log, stderr=log, start_new_session=True)
    proxy = ProxyProcess(name, str(directory / "socket"), directory, process)
    try:
        proxy.wait()
        yield proxy
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(directory)
