"""Libraries that a file of tests, or one test, is about."""

from __future__ import annotations

import importlib
import sys

import pytest


def needs_library(name: str) -> None:
    """Skip the tests of a file, or the test, without a library; with --require-all they fail."""
    try:
        importlib.import_module(name)
    except ImportError:
        if "--require-all" in sys.argv:
            raise
        pytest.skip(f"{name} is not installed", allow_module_level=True)
