"""What systemd tells a service, and what it wants to hear: sd_notify(3), sd_listen_fds(3).

Everything comes by environment variables, which are taken, so that no worker and no program that
one starts takes them for its own. Messages go to a datagram socket. Nothing waits, but
for the end: what does not fit is sent at the next turn, within a bound.

Sockets that systemd opened have names of the unit's choice. Those that we gave it to keep over a
restart (FDSTORE) have ours: `fastserve-SLOT-KEY`, the key of the group with its punctuation
quoted, since a name has no colon. So each finds its slot again, with what waits in its queue.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import MutableMapping, Sequence
from urllib.parse import quote, unquote

from fastserve.listeners import Group, Heritage

FIRST_DESCRIPTOR = 3
MOST_UNSENT = 1024      # messages
LEAST_PAUSE_S = 0.1     # between two signs of life
LAST_WORD_S = 1.0
EXTRA_S = 5.0           # beside what we think that something takes
_OURS = re.compile(r"fastserve-(\d{1,5})-(.+)")


class Notifier:
    """What a service manager is told; nothing where there is none.

    address:     of its socket
    watchdog_s:  how long it lets us be silent; 0 is for ever
    stores:      how many sockets it keeps for us over a restart
    """

    def __init__(self, address: str = "", watchdog_s: float = 0, stores: int = 0) -> None:
        self.address = address
        self.watchdog_s = watchdog_s
        self.stores = stores
        self.is_ready = False
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._stored: set[str] = set()
        self._alive_at_s = 0.0
        self._status = ""
        self._leaves = False
        self._sock: socket.socket | None = None
        self._barrier = -1      # readable by its end: systemd has acted on what came before
        if address:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """The one that the variables name, which are taken."""
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = _number(environ.pop("WATCHDOG_USEC", ""))
        if environ.pop("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            watchdog_us = 0
        stores = _number(environ.pop("FDSTORE", ""))
        if address[:1] not in ("/", "@"):
            address = ""
        return cls(address, watchdog_us / 1e6, stores if address else 0)

    def environment(self) -> dict[str, str]:
        """The variables by which a next supervisor finds it."""
        if not self.address:
            return {}
        found = {"NOTIFY_SOCKET": self.address}
        if self.watchdog_s:
            found["WATCHDOG_USEC"] = str(round(self.watchdog_s * 1e6))
        if self.stores:
            found["FDSTORE"] = str(self.stores)
        return found

    def starting(self, within_s: float) -> None:
        """It may take so long until we are ready."""
        self.send(EXTEND_TIMEOUT_USEC=_us(within_s + EXTRA_S), STATUS="starting")

    def ready(self, status: str) -> None:
        """We serve; the first time, or again behind reloading()."""
        self.is_ready = True
        self._status = status
        self.send(READY=1, STATUS=status)

    def reloading(self, within_s: float = 0.0) -> None:
        """We are about to be something else, which may take so long, and serve meanwhile."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000,
                  EXTEND_TIMEOUT_USEC=_us(within_s + EXTRA_S), STATUS="reloading")

    def stopping(self, within_s: float) -> None:
        """We have begun to end, which may take so long."""
        self.send(STOPPING=1, EXTEND_TIMEOUT_USEC=_us(within_s + EXTRA_S), STATUS="stopping")

    def status(self, text: str) -> None:
        """What there is to know about us; sent when it has changed."""
        if text != self._status:
            self._status = text
            self.send(STATUS=text)

    def main_process(self, pid: int) -> None:
        """Another process speaks for the service from now on."""
        self.send(MAINPID=pid)
        self._leaves = True

    def leave(self) -> None:
        """Say nothing more: the process ends, and may wait a little for the last word."""
        until_s = time.monotonic() + LAST_WORD_S
        self.flush()
        while self._unsent and self._sock is not None and time.monotonic() < until_s:
            time.sleep(0.01)
            self.flush()
        self.close_in_child()

    def close_in_child(self) -> None:
        """In a forked process: what waits is the parent's to say."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        for _, numbers in self._unsent:
            _close(numbers)
        self._unsent.clear()
        self._lift_barrier()

    def alive(self) -> None:
        """A sign of life, as often as it is wanted: at half of the time, or a little earlier."""
        now = time.monotonic()
        if self.watchdog_s and now >= self._alive_at_s:
            self._alive_at_s = now + max(LEAST_PAUSE_S, self.watchdog_s / 2 - 0.25)
            self.send(WATCHDOG=1)

    def store(self, groups: Sequence[Group], slots: int) -> None:
        """Let it keep the listeners of the first slots, as many as it takes, each once."""
        if not self.stores:
            return
        for group in groups:
            for slot, listener in enumerate(group.listeners[:slots]):
                name = _name(slot, group.key)
                if name not in self._stored and len(self._stored) < self.stores:
                    self._stored.add(name)
                    self.send([listener.socket.fileno()], FDSTORE=1, FDNAME=name, FDPOLL=0)

    def keeps(self, key: str) -> bool:
        """Whether it keeps the listener of a group's first slot."""
        return _name(0, key) in self._stored

    def forget(self, slot: int, key: str) -> None:
        """Let it close what it keeps of a slot; is_settled() tells when it has."""
        if self.stores:
            self._stored.discard(_name(slot, key))
            self.send(FDSTOREREMOVE=1, FDNAME=_name(slot, key))
            self._lift_barrier()
            self._barrier, theirs = os.pipe()
            self.send([theirs], BARRIER=1)
            os.close(theirs)

    def is_settled(self) -> bool:
        """Whether nothing that was to be forgotten may still be open there."""
        if self._barrier >= 0 and (self._sock is None or _is_at_end(self._barrier)):
            self._lift_barrier()
        return self._barrier < 0

    def _lift_barrier(self) -> None:
        if self._barrier >= 0:
            os.close(self._barrier)
            self._barrier = -1

    def send(self, numbers: Sequence[int] = (), /, **fields: object) -> None:
        """One message, with descriptors beside it."""
        if self._sock is None or self._leaves:
            return
        data = "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
        if len(self._unsent) < MOST_UNSENT and (data, []) not in self._unsent:
            self._unsent.append((data, [os.dup(number) for number in numbers]))
            self.flush()

    def flush(self) -> None:
        """Send what has waited."""
        address = f"\0{self.address[1:]}" if self.address[:1] == "@" else self.address
        while self._unsent and self._sock is not None:
            data, numbers = self._unsent[0]
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", numbers))] \
                if numbers else []
            try:
                self._sock.sendmsg([data], beside, 0, address)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                    return
            self._unsent.popleft()
            _close(numbers)


def heritage(environ: MutableMapping[str, str]) -> Heritage:
    """The sockets that systemd has opened, or kept, for this process; the variables are taken."""
    pid = environ.pop("LISTEN_PID", "")
    count = _number(environ.pop("LISTEN_FDS", ""))
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    environ.pop("LISTEN_PIDFDID", None)
    if pid != str(os.getpid()):
        return Heritage()
    kept: dict[str, list[tuple[int, socket.socket]]] = {}
    activated = []
    for index in range(count):
        number = FIRST_DESCRIPTOR + index
        with contextlib.suppress(OSError):
            os.set_inheritable(number, False)
            sock = socket.socket(fileno=number)
            ours = _OURS.fullmatch(names[index]) if index < len(names) else None
            if ours is None:
                activated.append(sock)
            else:
                kept.setdefault(unquote(ours[2]), []).append((int(ours[1]), sock))
    return Heritage(
        [(key, [sock for _, sock in sorted(found, key=lambda one: one[0])])
         for key, found in kept.items()], activated)


def _name(slot: int, key: str) -> str:
    return f"fastserve-{slot}-{quote(key, safe='')}"


def _is_at_end(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


def _close(numbers: list[int]) -> None:
    for number in numbers:
        os.close(number)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
