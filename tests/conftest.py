"""What every test may use: programs that may be missing, and the switch that insists on them.

A test that hangs fails and the next one runs: `timeout` in pyproject.toml, or --timeout.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any
from zlib import crc32

import hypothesis
import pytest
import uvloop

from fastserve.shm import SharedBoard

AGAIN_S = 10

# How long an example takes says how busy the machine is, and nothing of us.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

if sys.flags.dev_mode:
    # -X dev puts every new loop in debug mode, in which handlers run as asyncio's tasks: our own
    # would not be tested. Those tests that want debug mode set it.
    def _without_debug(make: Callable[[], Any]) -> Callable[[], Any]:
        def new_event_loop() -> Any:
            loop = make()
            loop.set_debug(False)
            return loop

        return new_event_loop

    for _library in (asyncio, uvloop):
        _library.new_event_loop = _without_debug(_library.new_event_loop)  # type: ignore[attr-defined]


class Hung(SystemExit):
    """The end of a test that took too long: a loop swallows whatever else a signal raises."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --require-all."""
    parser.addoption(
        "--require-all",
        action="store_true",
        help="fail, instead of skip, where a program that a test needs is missing",
    )
    parser.addoption("--shard", metavar="K/N", help="only the K-th of N parts of the tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the shard: a hash spreads what is slow evenly."""
    if config.getoption("--shard"):
        part, parts = map(int, config.getoption("--shard").split("/"))
        inside = [crc32(item.nodeid.encode()) % parts == part - 1 for item in items]
        config.hook.pytest_deselected(
            items=[item for item, kept in zip(items, inside, strict=True) if not kept])
        items[:] = [item for item, kept in zip(items, inside, strict=True) if kept]


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Keep what pytest has piled up, a million objects, out of the gc.collect() of tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def board() -> Iterator[SharedBoard]:
    """A board of eight blocks; boards.py writes into them as workers do."""
    board = SharedBoard(8)
    yield board
    board.close()


@pytest.fixture(scope="session")
def needs(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """needs("wrk"): the path of a program; the test is skipped where it is missing."""

    def needs(program: str) -> str:
        found = shutil.which(program)
        if found is None:
            reason = f"{program} is not installed"
            if request.config.getoption("--require-all"):
                pytest.fail(reason)
            pytest.skip(reason)
        return found

    return needs


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL for the whole run, with the tables World and Fortune; skipped without one."""
    from benchmarks.postgres import NoPostgres, Postgres
    from benchmarks.techempower import tables

    try:
        with Postgres() as database:
            asyncio.run(tables.create(database.url))
            yield database.url
    except NoPostgres as missing:
        if request.config.getoption("--require-all"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Raise Hung in the test when its time is over, and again where that did not end it."""

    def end(number: int, frame: FrameType | None) -> None:
        faulthandler.dump_traceback(sys.__stderr__)
        raise Hung(f"still running after {settings.timeout:g} s")

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, AGAIN_S)
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """The test has ended."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    return True
