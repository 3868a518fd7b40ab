"""A client that sends what it is told to, byte by byte, and reads answers strictly in order."""

import gzip
import io
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Any

TIMEOUT_S = 30.0
PLAIN, ENCRYPTED = False, True


class NoAnswer(Exception):
    """No answer, or none that is HTTP."""


@dataclass(frozen=True)
class Target:
    """A server under verification, on 127.0.0.1.

    port, tls_port:  of plain HTTP and of TLS
    data:            the folder with dataset.json and static/ that it serves; None: not known
    """

    port: int
    tls_port: int
    data: Path | None = None


@dataclass(frozen=True)
class Answer:
    """One answer; names of headers are in lower case, the body is as it was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """The media type, without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def coding(self) -> str:
        """The Content-Encoding; "" for none."""
        return self.headers.get("content-encoding", "").strip().lower()

    def decoded(self) -> bytes:
        """The body without its coding. Raises NoAnswer where it is not in that coding."""
        try:
            if self.coding == "gzip":
                return gzip.decompress(self.body)
            if self.coding == "br":
                import brotli

                return bytes(brotli.decompress(self.body))
        except Exception as error:
            raise NoAnswer(f"the body is no {self.coding}: {error}") from error
        if self.coding:
            raise NoAnswer(f"nobody asked for Content-Encoding: {self.coding}")
        return self.body


class _Kept(io.BufferedReader):
    """Stays open when a response has been read: another may follow."""

    def close(self) -> None:
        pass


class _Source:
    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def makefile(self, mode: str) -> io.BufferedReader:
        """What HTTPResponse asks a socket for."""
        return self._file


class Connection:
    """A connection; a context manager that closes it.

    alpn:  the protocols to offer; empty is plain TCP
    """

    def __init__(self, target: Target, encrypted: bool = PLAIN, alpn: tuple[str, ...] = ()) -> None:
        port = target.tls_port if encrypted else target.port
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if encrypted:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                if alpn:
                    context.set_alpn_protocols(list(alpn))
                self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        except OSError as error:
            raise NoAnswer(f"no connection to port {port}: {error}") from error
        self._file = _Kept(socket.SocketIO(self.socket, "r"))

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes. Raises NoAnswer where nobody takes them."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise NoAnswer(f"it took no more bytes: {error}") from error

    def answer(self, method: str = "GET") -> Answer:
        """Read the next answer. Raises NoAnswer."""
        source: Any = _Source(self._file)
        response = HTTPResponse(source, method=method)
        try:
            response.begin()
            body = response.read()
        except (OSError, HTTPException) as error:
            raise NoAnswer(str(error) or type(error).__name__) from error
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body)


def request(
    path: str,
    body: bytes | None = None,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A request, rendered; with a body it is a POST that says its length."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def chunked(path: str, *pieces: bytes) -> bytes:
    """A POST whose body comes in these chunks."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def ask(target: Target, data: bytes, encrypted: bool = PLAIN) -> Answer:
    """The answer to a request on a connection of its own. Raises NoAnswer."""
    with Connection(target, encrypted) as connection:
        connection.send(data)
        return connection.answer(data[:data.index(b" ")].decode())
