"""Ports for servers that cannot be asked which one they took."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

GIVEN = Path("/proc/sys/net/ipv4/ip_local_port_range")     # by the kernel, to who asks for any


def free_port() -> int:
    """One that nobody uses, and that nobody is given before whoever asked comes to bind it."""
    below = int(GIVEN.read_text().split()[0]) if GIVEN.exists() else 32_768
    lowest = max(1024, below - 20_000)
    while True:
        port = random.SystemRandom().randrange(lowest, max(below, lowest + 10_000))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
