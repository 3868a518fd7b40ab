"""When a worker has served for long enough, and a fresh one is to take its place.

Three bounds, each with a jitter that is drawn when a worker starts, so that workers which started
together do not end together: requests, age, memory. A Recycling only says who is due and why; the
supervisor starts the successor first, and never replaces more than one at a time.
"""

from __future__ import annotations

import logging
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fastserve.config import Config

SAMPLE_S = 1.0          # how often memory is looked at
SAMPLES = 2             # so often above the bound, one after the other, before it counts
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")

logger = logging.getLogger("fastserve")


class Reason(NamedTuple):
    """Why a worker is replaced: one of readings.REASONS, and a text for people."""

    kind: str
    text: str


@dataclass
class Term:
    """The bounds of one worker, as drawn at its start, and what was seen of its memory.

    requests, lifetime_s, rss_bytes:  0 is no bound
    above:                            samples above rss_bytes, one after the other
    sampled_s:                        how old it was when the last one was taken
    """

    requests: int
    lifetime_s: float
    rss_bytes: int
    above: int = 0
    sampled_s: float | None = None


class Recycling:
    """Who is due, by the settings max_requests, max_lifetime_s and max_rss_bytes.

    bounded:  whether anybody ever is
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.bounded = bool(config.max_requests or config.max_lifetime_s or config.max_rss_bytes)

    def begin(self) -> Term:
        """The bounds of a worker that starts now."""
        config = self._config
        requests, lifetime_s = config.max_requests, config.max_lifetime_s
        return Term(
            requests and requests + random.randint(0, config.max_requests_jitter),  # noqa: S311
            lifetime_s and lifetime_s + random.uniform(  # noqa: S311
                0, config.max_lifetime_jitter_s),
            config.max_rss_bytes)

    def ready(self, term: Term, pid: int, age_s: float) -> None:
        """A worker serves: one that is too large already is not replaced for that."""
        used = rss_bytes(pid) if term.rss_bytes else None
        term.sampled_s = age_s
        if used is not None and used > term.rss_bytes:
            term.rss_bytes = 0      # a successor would be no smaller
            logger.warning(
                "worker %d holds %s as it starts, more than max_rss_bytes=%d: it is not replaced "
                "for that; raise max_rss_bytes", pid, mebibytes(used), self._config.max_rss_bytes)

    def due(self, term: Term, pid: int, requests: int, age_s: float) -> Reason | None:
        """Why a worker is to be replaced now, if it is.

        requests:  that it has begun
        """
        if term.requests and requests >= term.requests:
            return Reason("max_requests", f"{requests:,} requests")
        if term.lifetime_s and age_s >= term.lifetime_s:
            return Reason("max_lifetime", f"it is {age_s:,.0f} s old")
        if term.rss_bytes and (term.sampled_s is None or age_s >= term.sampled_s + SAMPLE_S):
            used = rss_bytes(pid)
            term.sampled_s = age_s
            term.above = term.above + 1 if used is not None and used > term.rss_bytes else 0
            if used is not None and term.above >= SAMPLES:
                return Reason("max_memory", f"it holds {mebibytes(used)}")
        return None


def rss_bytes(pid: int) -> int | None:
    """The memory of a process that is in RAM; None where nobody tells."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return None


def mebibytes(size: int) -> str:
    """A size for people."""
    return f"{size / (1 << 20):,.0f} MiB"
