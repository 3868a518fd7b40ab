"""`fastserve dev`: serve, and serve the new code as soon as a file has changed.

The supervisor's own reload does it, so no client is ever refused: the listener stays open, the
new worker serves before the old one is told to go, and what does not start leaves the old one
serving, with its traceback on the terminal. Where nobody serves yet, a stand-in answers 503 with
that traceback until the code is mended. A worker that is still starting when newer code comes is
given up.

Tracebacks go to clients only where nobody but this machine can reach the server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import ipaddress
import logging
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from fastserve.app import App
from fastserve.changes import Watched, Watcher
from fastserve.config import HEALTH_PATHS, Config
from fastserve.listeners import Inherited, Listener, Tcp, addresses
from fastserve.networks import Networks
from fastserve.orders import Orders
from fastserve.place import Place
from fastserve.slots import Child, Slot
from fastserve.standin import stand_in
from fastserve.supervisor import MOST_WORKERS, STARTUP_FAILED, Supervisor, Work, supervise
from fastserve.terminal import has_terminal

GIVE_UP_S = 0.5     # for a worker whose code is old before it serves
AGAIN_S = 1.0       # until a watcher that has ended is started again
SHOWN_FILES = 3

logger = logging.getLogger("fastserve")


def directories_of(target: str, app_dir: str | None) -> list[str]:
    """Where a target's files are: the directory that it is imported from, and its own file's."""
    found = [app_dir or os.getcwd()]
    file = os.path.join(found[0], target.partition(":")[0])
    if os.path.isfile(file):
        found.append(os.path.dirname(os.path.realpath(file)))
    return found


def serve(load: Callable[[], App], config: Config, watched: Watched) -> int:
    """Serve until a signal, always the newest code that starts; the exit status.

    load:  imports the application, in each worker anew
    Raises ConfigError when a listener cannot be opened, MissingExtraError without watchfiles.
    """
    watcher = Watcher(watched)

    def load_for_debugging() -> App:
        app = load()
        app.debug = app.debug or is_private(config)
        return app

    def work(*parts: Any) -> int:
        from fastserve.worker import serve_slot

        return serve_slot(load_for_debugging, config, *parts)

    try:
        return supervise(work, config, make=functools.partial(Developing, watcher))
    finally:
        watcher.close()


def is_private(config: Config) -> bool:
    """Whether nobody but this machine can reach a server: only then are tracebacks shown."""
    if Networks(config.forwarded_allow_ips) or Networks(config.proxy_allow_ips):
        return False
    return all(_is_local(address) for address in addresses(config))


def _is_local(address: object) -> bool:
    if isinstance(address, Inherited):
        return False
    if not isinstance(address, Tcp):
        return True
    try:
        return ipaddress.ip_address(address.host.strip("[]")).is_loopback
    except ValueError:
        return address.host == "localhost"


class Said(logging.Filter):
    """The errors that the server logged; a filter, since handlers are the application's to have."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep it in mind, and let it pass."""
        if record.levelno >= logging.ERROR:
            self.errors = [*self.errors[-9:], record.getMessage()]
        return True

    def of_a_worker(self) -> str:
        """The last one about the end of a worker."""
        return next((one for one in reversed(self.errors) if one.startswith("worker ")), "")


class StandIns:
    """Which workers only stand in: a pid for each slot, shared with the workers."""

    def __init__(self) -> None:
        self._pids = mmap.mmap(-1, 4 * MOST_WORKERS)

    def add(self, slot: int) -> None:
        """The process that calls is one."""
        struct.pack_into("i", self._pids, 4 * slot, os.getpid())

    def has(self, slot: Slot) -> bool:
        """Whether the worker of a slot is one."""
        pid: int = struct.unpack_from("i", self._pids, 4 * slot.index)[0]
        return slot.child is not None and slot.child.pid == pid


class Developing(Supervisor):
    """A supervisor that reloads when files change, and never gives up on the code."""

    def __init__(
        self, watcher: Watcher, work: Work, config: Config, *rest: Any, **named: Any
    ) -> None:
        super().__init__(self.serve_or_stand_in, config, *rest, **named)
        self.serve = work
        self.watcher = watcher
        self.watch_at_s = 0.0
        self.stand_ins = StandIns()
        self.said = Said()
        self.problem = ""               # why the last worker ended without a word; then stand in
        self.pages: set[int] = set()    # the pids of those that began as stand-ins
        self.at_terminal = has_terminal()

    def run(self) -> int:
        logger.addFilter(self.said)
        try:
            return super().run()
        finally:
            logger.removeFilter(self.said)

    def keep(self) -> None:
        if not self.watcher.lives and time.monotonic() >= self.watch_at_s:
            self.watch_at_s = time.monotonic() + AGAIN_S
            self.watcher.start()
        super().keep()

    def on_signal(self, number: signal.Signals) -> None:
        """HUP is the watcher's, an operator's, or says that the terminal has been closed."""
        if number != signal.SIGHUP:
            super().on_signal(number)
        elif changed := self.watcher.take():
            _forget_bytecode(changed)
            logger.info("changed: %s", _shown(changed))
            self.reload()
        elif self.at_terminal and not has_terminal():
            self.stop(at_once=False, why="the terminal has gone")
        else:
            super().on_signal(number)

    def reload(self, canary: int | None = None, canary_s: float | None = None) -> str:
        """Replace every worker; those that still start have old code already."""
        self.problem = ""
        if self.renewal.reloading is not None:
            self.renewal.reloading.end("newer code came")
            self.renewal.reloading = None
        for slot in self.slots:
            slot.failures, slot.start_at_s = 0, 0.0
            for child in slot.children():
                if not child.ready and not child.deaf:
                    self.listen_to(child)   # it may just have said that it serves
                if not child.ready:
                    self.give_up_on(child)
        return super().reload(canary, canary_s)

    def give_up_on(self, child: Child) -> None:
        """End a worker that starts; if it comes to serve before, it ends as others do."""
        child.because = "newer code came"
        child.slot.forget(child)
        self.leaving.add(child)
        self.dismiss(child, time.monotonic() + GIVE_UP_S)

    def renew(self) -> None:
        if not any(not child.ready for child in self.leaving):  # one that starts is enough
            super().renew()

    def start(self, slot: Slot, reason: str) -> Child:
        child = super().start(slot, reason)
        if self.problem:
            self.pages.add(child.pid)
        return child

    def on_death(self, child: Child, status: int) -> None:
        super().on_death(child, status)
        slot = child.slot
        silent = not child.ready and not child.dismissed and self.stop_by_s is None
        if silent and not self.someone_serves():
            self.problem = self.said.of_a_worker()
            slot.start_at_s = 0.0           # to say so is no attempt to start it again
            if slot.child is not None:      # it says what was wrong before
                self.leave(slot, slot.child)
        self.pages.discard(child.pid)

    def no_worker_starts(self) -> None:
        """The code will be mended; but where not even a stand-in starts, it is not the code."""
        if self.pages:
            super().no_worker_starts()

    def someone_serves(self) -> bool:
        """Whether somebody serves the application, old or new."""
        return any(not self.stand_ins.has(slot) for slot in self.serving_slots())

    def serve_or_stand_in(
        self, listeners: list[Listener], orders: Orders, place: Place
    ) -> int:
        """In a worker: serve the application or, where nobody does, say why it does not start."""
        from fastserve.worker import serve_slot

        self.watcher.forget()
        # Two edits within a second leave a file of the same time and size: bytecode is stale.
        sys.dont_write_bytecode = True
        problem = self.problem
        if not problem:
            said = Said()
            logger.addFilter(said)
            status = self.serve(listeners, orders, place)
            logger.removeFilter(said)
            if status != STARTUP_FAILED or self.someone_serves():
                return status
            problem = "\n".join(said.errors)
        self.stand_ins.add(place.slot)
        page = stand_in(problem, shown=is_private(self.config))
        config = dataclasses.replace(      # it is neither live nor ready, and has one route
            self.config, health_paths=False, access_log_skip=HEALTH_PATHS)
        return serve_slot(lambda: page, config, listeners, orders, place)


def _shown(paths: list[str]) -> str:
    names = [os.path.relpath(path) for path in paths[:SHOWN_FILES]]
    more = len(paths) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _forget_bytecode(paths: list[str]) -> None:
    for path in paths:
        if path.endswith(".py"):
            with contextlib.suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(path))
