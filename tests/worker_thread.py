"""A whole worker in a thread: listeners, TLS, entrance, lifespan; for clients that block."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

from fastserve import App
from fastserve.config import Config
from fastserve.listeners import open_listeners
from fastserve.tls import Certificates
from fastserve.worker import Worker

DEADLINE_S = 20


class WorkerThread:
    """An app that is being served.

    port:    of its first listener
    worker:  to be looked at; call into it by call()
    """

    def __init__(self, app: App, config: Config) -> None:
        certificates = Certificates.from_config(config)
        self.listeners = open_listeners(config)
        self.worker = Worker(app, config, self.listeners, certificates)
        self.status: int | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def port(self) -> int:
        port: int = self.listeners[0].socket.getsockname()[1]
        return port

    def _run(self) -> None:
        self.status = self.worker.run()

    def call(self, function: Any, *args: Any) -> None:
        """Call something on the loop, and wait for it."""
        done = threading.Event()

        def call_it() -> None:
            function(*args)
            done.set()

        assert self.worker.task is not None
        self.worker.task.get_loop().call_soon_threadsafe(call_it)
        assert done.wait(DEADLINE_S)

    def start(self) -> None:
        self.thread.start()
        wait_for(lambda: self.worker.started or self.status is not None)
        assert self.status is None

    def stop(self) -> None:
        self.call(self.worker.stopping.set)
        self.thread.join(DEADLINE_S)
        assert self.status == 0
        for listener in self.listeners:
            listener.close()
        gc.unfreeze()


def wait_for(condition: Any) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


@contextlib.contextmanager
def serve_in_thread(app: App, **settings: Any) -> Iterator[WorkerThread]:
    """Serve an app on a free port while inside."""
    settings.setdefault("port", 0)
    served = WorkerThread(app, Config.load(settings))
    served.start()
    try:
        yield served
    finally:
        served.stop()
