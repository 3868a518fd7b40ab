"""What every test may use: programs that may be missing, and the switch that insists on them."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --require-all."""
    parser.addoption(
        "--require-all",
        action="store_true",
        help="fail, instead of skip, where a program that a test needs is missing",
    )


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Keep what pytest has piled up, a million objects, out of the gc.collect() of tests."""
    gc.collect()
    gc.freeze()


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
