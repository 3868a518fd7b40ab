"""The rows of tests/faults that are quick: real workers, broken under load, in a short form."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

if not sys.platform.startswith("linux"):
    pytest.skip("slots are Linux's", allow_module_level=True)


@pytest.mark.parametrize("row", ["L1", "L8", "L9", "G2", "G3"])
def test_a_row_holds_in_its_short_form(row):
    """`.ci/run hostile` runs all of them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", row],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
