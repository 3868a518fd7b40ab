"""What a supervisor and a worker tell each other: lines of JSON on a socket of their own.

The end of the socket is the end of the other process, which no message could tell. Sockets
travel beside a message. Nobody ever waits: what does not fit is kept, within a bound, and goes
with the next message; a peer that reads nothing for so long has other troubles.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

READ_BYTES = 65536
MOST_UNSENT = 1 << 20
MOST_SOCKETS = 64       # beside one message

Message = dict[str, Any]


class Orders:
    """One end of the talk; its socket does not block."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._unread = b""
        self._unsent = b""
        self._sockets: list[int] = []

    @classmethod
    def pair(cls) -> tuple[Orders, Orders]:
        """Both ends."""
        ours, theirs = socket.socketpair()
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """Tell the other end, with sockets of which it gets a duplicate."""
        numbers = [sock.fileno() for sock in sockets]
        line = json.dumps({**message, "sockets": len(numbers)}).encode() + b"\n"
        if len(self._unsent) + len(line) > MOST_UNSENT:
            return
        self._unsent += line
        try:
            sent = socket.send_fds(self.sock, [self._unsent], numbers) if numbers \
                else self.sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:     # it has ended: whoever reads learns so
            return
        self._unsent = self._unsent[sent:]

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
        self.sock.close()
