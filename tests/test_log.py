"""log.py: set up only by a door, and only where nobody else did; no control characters."""

import asyncio
import contextlib
import datetime
import io
import json
import logging
import logging.config
import os
import select
import subprocess
import sys
import time

import pytest
from support import Bench, running_loop

from fastserve import App, log
from fastserve.config import Config
from fastserve.entrance import Entrance
from fastserve.errors import ConfigError


@pytest.fixture
def clean(monkeypatch):
    """Log set-up as in a new process: call it in the test for the "fastserve" logger and stderr."""
    logger, root = logging.getLogger("fastserve"), logging.getLogger()
    before = (logger.handlers[:], logger.level, logger.propagate, root.handlers[:])
    disabled = logger.disabled

    def begin():    # in the test, since pytest puts handlers of its own on the root before it
        logger.handlers, root.handlers, logger.propagate = [], [], True
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        return logger, stream

    yield begin
    logger.handlers, level, logger.propagate, root.handlers = before
    logger.setLevel(level)
    logger.disabled = disabled


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


def test_json_is_an_object_on_a_line(clean):
    """With what was given as extra, and the traceback inside; whatever a client put into it."""
    logger, stream = clean()
    log.configure("info", "json")
    try:
        raise ValueError("no\u2028such\ud800")
    except ValueError:
        logger.exception("GET /%s", "\x1b[2J\n\x85", extra={"user": 7, "message_id": "a"})
    logger.info("plain")

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert stream.getvalue().isascii()
    assert (first["level"], first["logger"], first["message"]) == (
        "error", "fastserve", "GET /\x1b[2J\n\x85")
    assert (first["user"], first["message_id"]) == (7, "a")
    assert first["exception"].startswith("Traceback")
    assert "no\u2028such" in first["exception"]
    assert set(second) == {"time", "level", "logger", "pid", "message"}
    then = datetime.datetime.fromisoformat(second["time"].replace("Z", "+00:00"))
    now = datetime.datetime.now(datetime.timezone.utc)
    assert abs(now - then) < datetime.timedelta(seconds=60)


@pytest.mark.parametrize("value", [float("nan"), {("a", "b"): 1}, object()])
def test_extra_that_is_no_json_is_shown_somehow(clean, value):
    """The line is valid in any case, and the rest of it is there."""
    logger, stream = clean()
    log.configure("info", "json")
    circle = {}
    circle["self"] = circle
    logger.info("a", extra={"value": value})
    logger.info("b", extra={"value": circle})

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["a", "b"]
    assert all(isinstance(line["value"], str) for line in lines)


def test_a_file_that_is_moved_is_made_anew(clean, tmp_path):
    """Without a signal, by the next line; and stderr stays empty."""
    logger, stream = clean()
    path = tmp_path / "server.log"
    log.configure("info", "text", str(path))
    logger.info("one")
    path.rename(tmp_path / "old")
    logger.info("two")
    logger.handlers[0].close()

    assert "one" in (tmp_path / "old").read_text()
    assert "two" in path.read_text()
    assert stream.getvalue() == ""


def test_a_file_that_cannot_be_made_anew_is_kept(clean, tmp_path, caplog):
    """Whoever logs never fails for it; who rotates logs is told."""
    logger, _ = clean()
    (tmp_path / "logs").mkdir()
    log.configure("info", "text", str(tmp_path / "logs" / "server.log"))
    (tmp_path / "logs").rename(tmp_path / "old")
    logger.info("one")
    log.reopen()
    logger.info("two")
    logger.handlers[0].close()

    text = (tmp_path / "old" / "server.log").read_text()
    assert "one" in text
    assert "two" in text
    assert "cannot open a log file anew" in text


@pytest.fixture
def pipe(clean, monkeypatch):
    """The "fastserve" logger, which writes into a pipe; the pipe's other end, and this one's."""
    logger, _ = clean()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        log.configure("info")
        yield logger, reading, writing
    with contextlib.suppress(OSError):
        os.close(reading)


def fill(writing):
    """Write into a pipe as much as it takes."""
    while log.takes_a_line(writing):
        os.write(writing, b"x" * 4096)


def test_lines_that_nobody_reads_are_left_out_and_counted(pipe):
    """Who logs waits a moment once; the next line that is taken tells how many there were."""
    logger, reading, writing = pipe
    fill(writing)
    for _ in range(50):
        logger.info("nobody reads this")
    while b"x" in os.read(reading, 65536) and not log.takes_a_line(writing):
        pass
    while select.select([reading], [], [], 0)[0]:
        os.read(reading, 65536)
    logger.info("again")
    text = os.read(reading, 65536).decode()
    assert text.startswith("50 lines were left out, which nobody read\n")
    assert text.endswith("fastserve: again\n")
    assert "nobody reads this" not in text


def test_a_long_line_is_cut_where_the_reader_stops(pipe):
    """And the next one begins on a line of its own."""
    logger, reading, writing = pipe
    fill(writing)
    os.read(reading, 8192)      # a pipe gives its room back by pages
    logger.info("y" * 100_000)
    read = b""
    while select.select([reading], [], [], 0)[0]:
        read += os.read(reading, 65536)
    assert 0 < read.count(b"y") < 100_000
    logger.info("next")
    assert os.read(reading, 65536).startswith(b"\n1 lines were left out")


def test_a_reader_that_has_gone_is_no_error(pipe, capfd):
    """Lines are for nobody then."""
    logger, reading, _ = pipe
    os.close(reading)
    for _ in range(3):
        logger.info("to nobody")
    assert capfd.readouterr().err == ""


def test_what_a_text_stream_does_not_encode_is_written_somehow(pipe):
    """Characters that are none, of a path perhaps."""
    logger, reading, _ = pipe
    logger.info("caf\u00e9 \udcff")
    assert b"caf\xc3\xa9 \\udcff" in os.read(reading, 65536)


def test_a_file_that_cannot_be_opened_is_named(clean, tmp_path):
    """At the start, with the way out."""
    clean()
    with pytest.raises(ConfigError, match=r"log_file='.*': Is a directory: give a file"):
        log.configure("info", "text", str(tmp_path))


def test_an_application_that_sets_up_logging_later_gets_it(clean):
    """A worker asks again when it has imported the application: as if that had come first."""
    logger, stream = clean()
    log.configure("info")
    logging.config.dictConfig({
        "version": 1,       # and disables whatever it does not name
        "handlers": {"theirs": {"class": "logging.StreamHandler", "stream": stream,
                                "formatter": "short"}},
        "formatters": {"short": {"format": "theirs: %(message)s"}},
        "root": {"handlers": ["theirs"], "level": "INFO"},
    })
    log.configure("info")
    logger.info("hello")

    assert stream.getvalue() == "theirs: hello\n"


def test_to_configure_twice_is_to_configure_once(clean):
    """No line comes twice."""
    logger, stream = clean()
    log.configure("info")
    log.configure("info", "json")
    logger.info("hello")

    assert len(stream.getvalue().splitlines()) == 1
    assert len(logger.handlers) == 1


def test_importing_configures_nothing():
    """A library that is only imported leaves logging alone."""
    code = (
        "import fastserve, fastserve.log, logging; "
        "assert not logging.getLogger('fastserve').handlers; "
        "assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_clients_do_wrong_costs_ten_lines_a_second(caplog):
    """Requests that are refused cost none, clients that are too slow share ten."""
    caplog.set_level(logging.INFO, logger="fastserve")
    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(App(), loop, "fake")
        for _ in range(100):
            bench.connect().send(b"GET / HTTP/1.1\r\nbad header\r\n\r\n")
            bench.connect().send(b"GET / HTTP/1.1\r\n")
        assert caplog.messages == []
        begun_s = time.monotonic()
        for _ in range(60):
            bench.clock.now_s += 0.25
            bench.engine.tick()
        bench.wait_for(lambda: bench.engine.connections == 0)
        seconds = time.monotonic() - begun_s
        bench.close()

    assert 0 < len(caplog.messages) <= 10 * (int(seconds) + 1)


def test_connections_that_do_not_open_cost_ten_lines_a_second(caplog):
    """Handshakes and PROXY headers that fail: and only where somebody looks for them."""
    entrance = Entrance(None, None, Config(), None)
    begun_s = time.monotonic()
    for level in ("INFO", "DEBUG"):
        caplog.set_level(level, logger="fastserve")
        for _ in range(100):
            entrance.complain(("192.0.2.1", 1), "no PROXY header in time")
        if level == "INFO":
            assert caplog.messages == []
    seconds = time.monotonic() - begun_s

    assert 0 < len(caplog.messages) <= 10 * (int(seconds) + 1)
