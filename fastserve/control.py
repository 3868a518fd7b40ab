"""The control socket: what signals ask for, with an answer.

One line of JSON, the request; one line of JSON, the answer, which comes once the thing is done or
has failed; then the connection is closed. The socket is a file that only its owner may use. The
supervisor's loop serves it: nothing in here waits, a client has COMMAND_S for its line, and there
are never more than MOST_CLIENTS. An answer may bring a descriptor along, SCM_RIGHTS.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.listeners import Heritage, open_groups

MOST_CLIENTS = 16
COMMAND_S = 5.0
COMMAND_BYTES = 4096
DESCRIPTOR = "descriptor"   # in an answer: a duplicate of it goes along, and its number does not

Answer = dict[str, Any]
# None while the thing is under way, then the answer.
Outcome = Callable[[], Answer | None]
# What a request is to do: ({"command": ...}) -> how it comes out. ValueError: it makes no sense.
Perform = Callable[[dict[str, Any]], Outcome]


def refused(reason: str) -> Answer:
    """The answer to what cannot be."""
    return {"ok": False, "error": reason}


class Client:
    """One connection to the control socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.received = b""
        self.until_s = time.monotonic() + COMMAND_S
        self.outcome: Outcome | None = None

    def read(self, perform: Perform) -> bool:
        """Take what has come; False: the client is gone, or has said too much."""
        try:
            data = self.sock.recv(COMMAND_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.received += data
        if not data or len(self.received) > COMMAND_BYTES:
            return False
        if self.outcome is None and b"\n" in self.received:
            self.outcome = self._begin(perform)
        return True

    def _begin(self, perform: Perform) -> Outcome:
        try:
            request = json.loads(self.received.partition(b"\n")[0])
            if not isinstance(request, dict):
                raise ValueError("a request is an object")
            return perform(request)
        except (ValueError, OSError) as error:
            answer = refused(str(error))
            return lambda: answer

    def finish(self) -> bool:
        """Whether it has its answer, or has waited with its request for too long."""
        if self.outcome is None:
            return time.monotonic() > self.until_s
        answer = self.outcome()
        if answer is None:
            return False
        descriptors = [answer.pop(DESCRIPTOR)] if DESCRIPTOR in answer else []
        data = json.dumps(answer).encode() + b"\n"
        with contextlib.suppress(OSError):  # it left, or reads nothing
            if descriptors:
                socket.send_fds(self.sock, [data], descriptors)
            else:
                self.sock.sendall(data)
        return True


class Control:
    """The control socket of one supervisor.

    path:      where it listens
    perform:   begins what a request asks for
    heritage:  may have a socket for it
    group:     the socket
    Raises ConfigError when it cannot listen there.
    """

    def __init__(self, path: str, perform: Perform, heritage: Heritage | None = None) -> None:
        (self.group,) = open_groups(Config(uds=path, uds_mode=0o600, backlog=128), heritage)
        self._listener = self.group.of(0)
        self._listens = True
        self._perform = perform
        self._clients: dict[int, Client] = {}

    def numbers(self) -> list[int]:
        """The descriptors to wait for."""
        room = self._listens and len(self._clients) < MOST_CLIENTS
        return [*([self._listener.socket.fileno()] if room else []), *self._clients]

    def ready(self, number: int) -> None:
        """One of them can be read."""
        client = self._clients.get(number)
        if client is not None:
            if not client.read(self._perform):
                self._drop(number)
            return
        if number == self._listener.socket.fileno():
            with contextlib.suppress(OSError):
                client = Client(self._listener.socket.accept()[0])
                self._clients[client.sock.fileno()] = client

    def turn(self) -> None:
        """Answer those whose thing is done."""
        for number, client in list(self._clients.items()):
            if client.finish():
                self._drop(number)

    def leave(self) -> None:
        """New clients are another process's; those that are here get their answers."""
        self._listens = False

    def close_in_child(self) -> None:
        """In a forked process: the file and the clients are the parent's."""
        self._listener.socket.close()
        for client in self._clients.values():
            client.sock.close()

    def close(self) -> None:
        """Let the clients go; the group is closed by who knows whose its file is."""
        for number in list(self._clients):
            self._drop(number)

    def _drop(self, number: int) -> None:
        self._clients.pop(number).sock.close()


def ask(path: str, request: dict[str, Any], timeout_s: float) -> Answer:
    """Send a request to a control socket; the answer, whose DESCRIPTOR the caller closes.

    Raises ConfigError when nobody answers there, or not in time.
    """
    descriptors: list[int] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(path)
            sock.sendall(json.dumps(request).encode() + b"\n")
            received = b""
            while True:
                data, numbers, _, _ = socket.recv_fds(sock, 65536, 1)
                descriptors += numbers
                received += data
                if not data:
                    break
        except TimeoutError:
            raise ConfigError(f"control={path!r}: no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ConfigError(f"control={path!r}: {error.strerror or error}: is a server with "
                              "workers running that was started with this --control?") from None
    if not received:
        raise ConfigError(f"control={path!r}: the server ended without an answer")
    answer: Answer = json.loads(received)
    if descriptors:
        os.set_inheritable(descriptors[0], False)
        answer[DESCRIPTOR] = descriptors[0]
    return answer


def ask_for_board(path: str, timeout_s: float = 5.0) -> int:
    """A descriptor of what the workers count, for shm.read_board(); the caller closes it.

    Raises ConfigError when nobody answers there, or has none.
    """
    answer = ask(path, {"command": "board"}, timeout_s)
    if DESCRIPTOR not in answer:
        raise ConfigError(f"control={path!r}: {answer.get('error', 'it gave no board')}")
    descriptor: int = answer[DESCRIPTOR]
    return descriptor
