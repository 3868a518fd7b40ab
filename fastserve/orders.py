"""What a supervisor and a worker tell each other: lines of JSON on a socket of their own.

The end of the socket is the end of the other process, which no message could tell. Sockets
travel beside a message. Nobody ever waits: what does not fit is kept, sockets as duplicates, within
a bound, and goes with the next message; a peer that reads nothing for so long has other troubles.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

READ_BYTES = 65536
MOST_UNSENT = 1 << 20
MOST_SOCKETS = 64       # beside one message
MOST_KEPT = 256         # sockets of messages that wait

Message = dict[str, Any]


class Orders:
    """One end of the talk; its socket does not block."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._unread = b""
        self._sockets: list[int] = []
        # Each message that waits, or its rest, with the duplicates that go with its first byte.
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._bytes_waiting = 0
        self._sockets_waiting = 0

    @classmethod
    def pair(cls) -> tuple[Orders, Orders]:
        """Both ends."""
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """Tell the other end, with sockets of which it gets a duplicate."""
        line = json.dumps({**message, "sockets": len(sockets)}).encode() + b"\n"
        if self._bytes_waiting + len(line) > MOST_UNSENT \
                or self._sockets_waiting + len(sockets) > MOST_KEPT:
            return
        self._waiting.append((line, [os.dup(sock.fileno()) for sock in sockets]))
        self._bytes_waiting += len(line)
        self._sockets_waiting += len(sockets)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the other end takes it."""
        while self._waiting:
            data, numbers = self._waiting[0]
            try:
                sent = socket.send_fds(self.sock, [data], numbers) if numbers \
                    else self.sock.send(data)
            except OSError:     # full; or it has ended, and whoever reads learns so
                return
            _close(numbers)     # they went with the first byte
            self._sockets_waiting -= len(numbers)
            self._bytes_waiting -= sent
            if sent < len(data):
                self._waiting[0] = data[sent:], []
                return
            self._waiting.popleft()

    def receive(self) -> list[tuple[Message, list[socket.socket]]]:
        """The messages that have come, with their sockets. EOFError: the other end is gone."""
        try:
            data, numbers, _, _ = socket.recv_fds(self.sock, READ_BYTES, MOST_SOCKETS)
        except BlockingIOError:
            return []
        except OSError:
            raise EOFError from None
        if not data:
            raise EOFError
        self._sockets += numbers
        *lines, self._unread = (self._unread + data).split(b"\n")
        messages = []
        for line in lines:
            message: Message = json.loads(line)
            count = message.pop("sockets")
            taken, self._sockets = self._sockets[:count], self._sockets[count:]
            messages.append((message, [socket.socket(fileno=number) for number in taken]))
        return messages

    def close(self) -> None:
        """Forget what was not sent, and what came with no message yet."""
        for _, numbers in self._waiting:
            _close(numbers)
        self._waiting.clear()
        _close(self._sockets)
        self._sockets = []
        self.sock.close()


def _close(numbers: list[int]) -> None:
    for number in numbers:
        os.close(number)
