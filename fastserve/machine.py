"""What limits this machine and its administrator set, as a supervisor says them when it starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from fastserve import cpus
from fastserve.config import Config
from fastserve.descriptors import RESERVE, raise_limit
from fastserve.listeners import Group

_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")

logger = logging.getLogger("fastserve")


def introduce(config: Config, workers: int, groups: Sequence[Group]) -> None:
    """Log who serves where, within what limits, and what of the settings is cut."""
    encrypted = config.ssl_certfile is not None
    where = ", ".join(group.listeners[0].where(encrypted=encrypted) for group in groups)
    logger.info("supervisor %d: %d worker%s for %s",
                os.getpid(), workers, "" if workers == 1 else "s", where)
    files = raise_limit()
    longest = somaxconn()
    queue = config.backlog if longest is None else min(config.backlog, longest)
    logger.info(
        "limits: %s; %s open files, so %s connections for each worker; %s may wait in each queue",
        cpus.explain(), f"{files:,}", f"{connections(config, files):,}", f"{queue:,}")
    if queue < config.backlog:
        logger.warning(
            "backlog=%d is cut to %d, which is net.core.somaxconn: raise that "
            "(sysctl -w net.core.somaxconn=%d), or lower backlog",
            config.backlog, queue, config.backlog)
    if config.pin_cpus and workers > len(cpus.allowed()):
        logger.warning(
            "pin_cpus: %d workers share %d processors, so some have the same one",
            workers, len(cpus.allowed()))


def connections(config: Config, files: int) -> int:
    """How many a worker may have, by its settings and the limit of open files."""
    possible = max(1, files - RESERVE)
    return possible if config.max_connections is None else min(config.max_connections, possible)


def somaxconn() -> int | None:
    """The longest queue that the kernel makes; None where it does not tell."""
    try:
        return int(_SOMAXCONN.read_text())
    except (OSError, ValueError):
        return None
