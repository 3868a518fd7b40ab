"""The access log's way out: a thread that writes what the journal hands over, or logging records.

The loop never waits for a disk, a pipe or a terminal. What the thread has not written is bounded:
beyond MOST_UNWRITTEN_BYTES whole batches are dropped, and counted. What cannot be written, for
want of space or of a reader, is dropped and counted too, said in the error log once in
COMPLAINT_PERIOD_S at most, and tried anew with the next lines.

Lines stay whole among several processes: a file is appended to with one write for each batch, and
into anything else a write is of whole lines that a pipe takes at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import signal
import stat
import sys
import threading
import time
from typing import Any

from fastserve._speedups.journal import LOG_LINE_BYTES, Journal, RecordJournal
from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.log import takes_a_line

STDOUT, STDERR = "-", "stderr"
MOST_UNWRITTEN_BYTES = 8 * 1024 * 1024
COMPLAINT_PERIOD_S = 10.0
WAIT_S = 0.25           # for a reader, before it is asked whether to go on
FILE_MODE = 0o640       # addresses of people are in it
PIECE_BYTES = min(LOG_LINE_BYTES, select.PIPE_BUF)
RECORDS = "fastserve.access"

logger = logging.getLogger("fastserve")


class LogWriter:
    """Writes batches of lines to a file, a pipe or whatever stands behind a descriptor.

    target:                a path, "-" for stdout or "stderr"
    most_unwritten_bytes:  what may wait
    Raises OSError when it cannot be opened.
    """

    def __init__(self, target: str, *, most_unwritten_bytes: int = MOST_UNWRITTEN_BYTES) -> None:
        self.target = target
        self.most_unwritten_bytes = most_unwritten_bytes
        self._at_work = threading.Lock()    # held while the thread writes
        self._fd = -1
        self._use(open_target(target))
        self._queue: queue.SimpleQueue[bytes | str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._given_up = threading.Event()
        self._said_s = -COMPLAINT_PERIOD_S
        self._torn = b""            # the rest of a line of which the start is written
        # Each is changed by one thread alone: the loop's, then the writer's.
        self._put_bytes, self._refused_lines = 0, 0
        self._done_bytes, self._lost_lines = 0, 0

    @property
    def dropped(self) -> int:
        """How many lines were not written, and will not be."""
        return self._refused_lines + self._lost_lines

    @property
    def unwritten_bytes(self) -> int:
        """What waits."""
        return self._put_bytes - self._done_bytes

    def put(self, data: bytes) -> None:
        """Have whole lines written; drop them where too much waits. Never blocks."""
        if self._closed or self.unwritten_bytes + len(data) > self.most_unwritten_bytes:
            self._refused_lines += data.count(b"\n")
            self._complain(f"{self.unwritten_bytes} bytes wait to be written")
            return
        self._put_bytes += len(data)
        self._send(data)

    def reopen(self) -> None:
        """Write what comes from now on to the file that has the path by then."""
        if self.target not in (STDOUT, STDERR):
            self._send("reopen")

    def close(self, timeout_s: float) -> bool:
        """Write what waits, within the time; whether all was. Nothing is written after that."""
        if self._closed:
            return True
        self._closed = True
        if self._thread is not None:
            self._send("close")
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self._abandon()
                return False
        self._release()
        return True

    def _abandon(self) -> None:
        """Leave the thread where it is stuck: it holds up neither us nor the process's end."""
        self._given_up.set()
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, bytes):
                    self._refused_lines += item.count(b"\n")
        self._queue.put("close")
        self._said_s = -COMPLAINT_PERIOD_S
        self._complain("it takes nothing, and the server ends")

    def _send(self, item: bytes | str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()
        self._queue.put(item)

    # On the thread.

    def _run(self) -> None:
        # signals are the main thread's, and would cut writes short
        signal.pthread_sigmask(signal.SIG_BLOCK, MANAGEABLE)
        while (item := self._queue.get()) != "close":
            if isinstance(item, bytes):
                self._write(item)
                self._done_bytes += len(item)
            else:
                self._reopen()

    def _write(self, data: bytes) -> None:
        torn, self._torn = self._torn, b""
        data = torn + data
        written = 0
        while written < len(data):
            end = self._end_of_piece(data, written)
            try:
                with self._at_work:
                    written += os.write(self._fd, data[written:end])
                continue
            except BlockingIOError:
                if self._wait():
                    continue
                reason = "it takes nothing"
            except OSError as error:
                reason = error.strerror or str(error)
            begun = data[written - 1:written] != b"\n" if written else bool(torn)
            self._lose(data[written:], reason, begun=begun)
            return

    def _end_of_piece(self, data: bytes, start: int) -> int:
        """How much of it to write at once: all to a file, else as many lines as stay whole."""
        if self._is_file or len(data) - start <= PIECE_BYTES:
            return len(data)
        end = data.rfind(b"\n", start, start + PIECE_BYTES) + 1
        return end or data.index(b"\n", start) + 1

    def _wait(self) -> bool:
        """Until it can be written to; False: it is not worth waiting any longer."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not self._given_up.wait(0.01):    # it may say that it can, and refuse
            if poll.poll(WAIT_S * 1000):
                return True
        return False

    def _lose(self, rest: bytes, reason: str, *, begun: bool) -> None:
        """Drop what could not be written, but for the end of a line that is begun."""
        if begun:
            self._torn = rest[:rest.index(b"\n") + 1]
        self._lost_lines += rest[len(self._torn):].count(b"\n")
        self._complain(reason)

    def _reopen(self) -> None:
        try:
            fd = open_target(self.target)
        except OSError as error:
            logger.error("cannot reopen the access log %s, the old file is written on: %s",
                         self.target, error.strerror)
            return
        self._release()
        self._use(fd)
        self._lost_lines += self._torn.count(b"\n")
        self._torn = b""

    # On either.

    def _use(self, fd: int) -> None:
        self._fd = fd
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._is_stderr = not self._is_file and is_behind_stderr(fd)

    def _release(self) -> None:
        if self.target not in (STDOUT, STDERR):
            os.close(self._fd)

    def _complain(self, reason: str) -> None:
        if time.monotonic() - self._said_s < COMPLAINT_PERIOD_S:
            return
        if not self._is_stderr:
            self._complain_if_taken(reason)
        # The thread must not fill the pipe between the question and the line.
        elif self._at_work.acquire(blocking=False):
            try:
                self._complain_if_taken(reason)
            finally:
                self._at_work.release()

    def _complain_if_taken(self, reason: str) -> None:
        if stderr_takes_a_line():
            self._said_s = time.monotonic()
            logger.error("access log %s: %s; %d lines were dropped so far",
                         self.target, reason, self.dropped)


MANAGEABLE = signal.valid_signals() - {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}


def open_target(target: str) -> int:
    """The descriptor of a path, which is made where it is not, of "-" or of "stderr"."""
    if target in (STDOUT, STDERR):
        stream, fd = (sys.__stdout__, 1) if target == STDOUT else (sys.__stderr__, 2)
        if stream is None:      # whatever has its number now, it is no stream of ours
            raise OSError(9, "it is closed")
        return fd
    # without blocking: a named pipe that nobody reads would hold us up
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(target, flags, FILE_MODE)


def is_behind_stderr(fd: int) -> bool:
    """Whether stderr is the same pipe, or whatever it is."""
    try:
        return os.path.samestat(os.fstat(fd), os.fstat(2))
    except OSError:     # stderr is closed
        return False


def stderr_takes_a_line() -> bool:
    """Whether to write to stderr would not block: it may be the pipe that is stuck."""
    return takes_a_line(2)


class Records:
    """Makes a record of "fastserve.access" of each request.

    The fields of the JSON format are attributes of the record: record.status, record.duration_s,
    record.headers, ...
    """

    def __init__(self) -> None:
        self.logger = logging.getLogger(RECORDS)
        self.logger.disabled = False    # a dictConfig() that does not name it had it so
        if self.logger.level == logging.NOTSET:
            self.logger.setLevel(logging.INFO)  # whatever the server's own log shows
        self._said_s = -COMPLAINT_PERIOD_S

    def __call__(self, fields: dict[str, Any]) -> None:
        """Log one request."""
        if not self.logger.isEnabledFor(logging.INFO):
            return
        ended_s = fields.pop("ended_s")
        try:
            record = self.logger.makeRecord(
                RECORDS, logging.INFO, "", 0, '%s "%s" %d',
                (fields["client"], request_line(fields), fields["status"]), None, extra=fields)
            record.created = ended_s
            record.msecs = int(ended_s * 1000) % 1000 + 0.0
            self.logger.handle(record)
        except Exception:   # of a filter or handler: it must not cost the client its connection
            now_s = time.monotonic()
            if now_s - self._said_s >= COMPLAINT_PERIOD_S:
                self._said_s = now_s
                with contextlib.suppress(Exception):    # it may be the same handler
                    logger.exception("logging a request failed")


def request_line(fields: dict[str, Any]) -> str:
    """What was asked, so that it may stand between quotes."""
    if fields["method"] is None:
        return "-"
    target = fields["target"].replace("\\", "\\\\").replace('"', '\\"')
    return f"{fields['method']} {target} HTTP/{fields['version']}"


class AccessLog:
    """The access log of one process.

    journal:  for the engine
    writer:   where its lines go; None: they become records
    """

    def __init__(self, journal: Journal, writer: LogWriter | None) -> None:
        self.journal = journal
        self.writer = writer
        self._told = 0

    @classmethod
    def from_config(cls, config: Config) -> AccessLog | None:
        """What the settings ask for; None for no log. ConfigError: it cannot be opened."""
        if config.access_log == "off":
            return None
        options: dict[str, Any] = {
            "headers": config.access_log_headers,
            "sample": config.access_log_sample,
            "slow_s": config.access_log_slow_s,
        }
        if config.access_log == "logging":
            return cls(RecordJournal(Records(), **options), None)
        try:
            writer = LogWriter(config.access_log_file)
        except OSError as error:
            raise ConfigError(
                f"access_log_file={config.access_log_file!r}: {error.strerror}: give a file that "
                "this user may write, - for stdout, or stderr") from None
        return cls(Journal(writer.put, format=config.access_log, **options), writer)

    def newly_dropped(self) -> int:
        """How many lines were lost since this was asked before."""
        dropped = 0 if self.writer is None else self.writer.dropped
        new, self._told = dropped - self._told, dropped
        return new

    def reopen(self) -> None:
        """Go on in the file that has the path now, after what was logged before."""
        if self.writer is not None:
            self.journal.flush()
            self.writer.reopen()

    def close(self, timeout_s: float) -> None:
        """Write what is left, if it can be within the time."""
        self.journal.flush()
        if self.writer is not None:
            self.writer.close(timeout_s)
