"""A test that hangs fails in its time, and the suite goes on."""

import subprocess
import sys
from pathlib import Path

HANGING = '''
import asyncio
import threading

import pytest
import uvloop


@pytest.mark.parametrize("make", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_loop_with_nothing_to_do(make):
    loop = make()
    try:
        loop.run_until_complete(loop.create_future())
    finally:
        loop.close()


def test_an_exception_that_is_swallowed():
    try:
        threading.Event().wait()
    except BaseException:
        pass
    threading.Event().wait()


@pytest.fixture
def never():
    threading.Event().wait()


def test_a_fixture(never):
    pass


def test_the_next_one():
    pass
'''


def test_every_kind_of_hanging_test_fails_and_the_next_one_runs(tmp_path):
    """Under uvloop, under asyncio, in a fixture, and where the first exception is swallowed."""
    conftest = (Path(__file__).parent / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest.replace("AGAIN_S = 10", "AGAIN_S = 3"))
    (tmp_path / "test_hanging.py").write_text(HANGING)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert "3 failed, 1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert " in never\n" in done.stdout, "no traceback of all threads"
