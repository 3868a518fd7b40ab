"""How many connections a worker's open files allow: RLIMIT_NOFILE, less a reserve.

The soft limit of a login shell is 1,024, set for programs that use select(); here it is
raised to the hard one, as nginx and Go do. Each connection costs one descriptor; the
reserve is for everything else that a worker opens.
"""

from __future__ import annotations

import logging
import resource

RESERVE = 32
MOST = 1_048_576    # hard limits in containers may be 2^30 or none at all

logger = logging.getLogger("fastserve")


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; what it is now."""
    soft, hard = (_bounded(limit) for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
    if soft >= hard:
        return soft
    _, unbounded = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, unbounded))
    except (OSError, ValueError) as error:
        logger.debug("the limit of open files stays at %d: %s", soft, error)
        return soft
    logger.debug("raised the limit of open files from %d to %d", soft, hard)
    return hard


def connections_allowed(wanted: int | None, *, told: bool = False) -> int:
    """The limit of connections for this process, and a line in the log about it.

    wanted:  the setting; None takes as many as the open files allow
    told:    by the supervisor already, of all workers: only what is wrong is told again
    """
    files = raise_limit()
    possible = max(1, files - RESERVE)
    if wanted is None:
        level = logging.DEBUG if told else logging.INFO
        logger.log(level, "at most %d connections, of %d open files", possible, files)
        return possible
    if wanted > possible:
        logger.warning(
            "max_connections=%d is more than the limit of %d open files allows: at most %d. "
            "Raise it (ulimit -n, LimitNOFILE=)", wanted, files, possible)
        return possible
    return wanted


def _bounded(limit: int) -> int:
    return MOST if limit == resource.RLIM_INFINITY else min(limit, MOST)
