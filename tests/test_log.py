"""log.py: set up only by a door, and only where nobody else did; no control characters."""

import io
import logging
import subprocess
import sys

import pytest

from fastserve import log


@pytest.fixture
def clean(monkeypatch):
    """Log set-up as in a new process: call it in the test for the "fastserve" logger and stderr."""
    logger, root = logging.getLogger("fastserve"), logging.getLogger()
    before = (logger.handlers[:], logger.level, logger.propagate, root.handlers[:])

    def begin():    # in the test, since pytest puts handlers of its own on the root before it
        logger.handlers, root.handlers, logger.propagate = [], [], True
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        return logger, stream

    yield begin
    logger.handlers, level, logger.propagate, root.handlers = before
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"), ("a\rb", r"a\rb"), ("\x00", r"\x00"), ("\x9b", r"\x9b"),
        ("\u2028", r"\u2028"), ("grün\nsecond", "grün\nsecond"), ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_escaped_and_text_is_not(text, shown):
    """A log that is looked at in a terminal cannot be made to lie."""
    assert log.printable(text) == shown


def test_what_a_client_sent_cannot_move_the_cursor(clean):
    """The whole formatted line goes through the gate, exception included."""
    logger, stream = clean()
    log.configure("info")

    logger.info("GET /%s", "\x1b[2J")

    assert r"GET /\x1b[2J" in stream.getvalue()


def test_the_level_counts(clean):
    """--log-level warning hides what is below."""
    logger, stream = clean()
    log.configure("warning")

    logger.info("quiet")
    logger.warning("loud")

    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_an_application_that_set_up_logging_keeps_it(clean):
    """A handler on the root logger gets our records; we add none."""
    logger, _ = clean()
    logging.getLogger().addHandler(logging.NullHandler())

    log.configure("info")

    assert logger.handlers == []
    assert logger.propagate


def test_importing_configures_nothing():
    """A library that is only imported leaves logging alone."""
    code = (
        "import fastserve, fastserve.log, logging; "
        "assert not logging.getLogger('fastserve').handlers; "
        "assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
