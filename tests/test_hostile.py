"""The rows of tests/hostile that are quick: real servers, attacked, in a short form."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

if not sys.platform.startswith("linux"):
    pytest.skip("it reads /proc and uses epoll", allow_module_level=True)


@pytest.mark.parametrize("row", ["S3", "S9", "S10", "G6"])
def test_a_row_holds_in_its_short_form(row):
    """`.ci/run hostile` runs all of them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", row],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
