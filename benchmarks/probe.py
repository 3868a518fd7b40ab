"""One request on a plain socket, read with care: is the server up, and is its answer right?"""

import json
import socket
from dataclasses import dataclass
from typing import Any


class WrongAnswer(Exception):
    """The server answers, but not what the case asks for."""


@dataclass(frozen=True)
class Answer:
    """One response: as it came, and its parts."""

    raw: bytes
    status: int
    body: bytes

    def check(self, expect: Any) -> None:
        """Refuse anything but a 200 whose body means `expect`."""
        if self.status != 200:
            raise WrongAnswer(f"status {self.status}: {self.body[:80]!r}")
        got = self.body.decode() if isinstance(expect, str) else json.loads(self.body)
        if got != expect:
            raise WrongAnswer(f"body {self.body[:120]!r}")


def ask(port: int, request: bytes, timeout: float = 5) -> Answer:
    """Send one request and read its answer, whichever way its length is told."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += _some(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in
                 (line.partition(":") for line in fields)]
        lengths = [int(value) for name, value in pairs if name == "content-length"]
        start = head + b"\r\n\r\n"
        if not lengths and ("transfer-encoding", "chunked") in pairs:
            raw, body = _chunks(connection, body)
            return Answer(start + raw, int(status.split()[1]), body)
        if len(lengths) != 1:
            raise WrongAnswer(f"{len(lengths)} Content-Length fields")
        while len(body) < lengths[0]:
            body += _some(connection)
        if len(body) > lengths[0]:
            raise WrongAnswer("more bytes than Content-Length says")
        return Answer(start + body, int(status.split()[1]), body)


def _chunks(connection: socket.socket, data: bytes) -> tuple[bytes, bytes]:
    """A chunked body as it came, and put together."""
    body = b""
    at = 0
    while True:
        while (end := data.find(b"\r\n", at)) < 0:
            data += _some(connection)
        size = int(data[at:end].partition(b";")[0], 16)
        at = end + 2
        while len(data) < at + size + 2:
            data += _some(connection)
        body += data[at : at + size]
        at += size + 2
        if data[at - 2 : at] != b"\r\n" or (size == 0 and len(data) > at):
            raise WrongAnswer("its chunks do not end as they should")
        if size == 0:
            return data, body


def _some(connection: socket.socket) -> bytes:
    chunk = connection.recv(65536)
    if not chunk:
        raise ConnectionError("closed before the answer was complete")
    return chunk
