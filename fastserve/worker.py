"""One process that serves: the loop, the lifespan, the listeners, the end.

The order is the contract. Listeners are bound first (a port in use is known before the
application starts); the lifespan starts before the first accept; a signal stops the
accepting, lets what is in flight finish within `graceful_timeout_s`, shuts the lifespan
down once, and the status is 0. A second signal drops what is left. A start-up that fails
is status 3, a shutdown that fails is status 1. HUP reads the certificates anew, where there is
no supervisor to do more; USR1 opens the log files anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve import log, stacks
from fastserve._speedups.scoreboard import AT_LINES_DROPPED, Scoreboard
from fastserve._speedups.system import end_with_parent
from fastserve.access_log import AccessLog
from fastserve.config import Config
from fastserve.deployment import Deployment
from fastserve.descriptors import connections_allowed
from fastserve.entrance import Entrance
from fastserve.errors import ConfigError, FastserveError, StartupError
from fastserve.forking import STOPPING
from fastserve.listeners import Listener
from fastserve.orders import Orders
from fastserve.place import Place
from fastserve.privileges import User
from fastserve.proxy import ForwardedFields
from fastserve.shm import SharedBoard, read_board
from fastserve.supervisor import supervise
from fastserve.systemd import Notifier
from fastserve.target import user_traceback
from fastserve.tls import Certificates, bad_names_unreported

if TYPE_CHECKING:
    from fastserve._speedups.engine import Engine
    from fastserve.app import App
    from fastserve.health import Page


OK, FAILED, STARTUP_FAILED = 0, 1, 3
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TICK_S = 0.25           # how often deadlines are looked at
LAST_LINES_S = 2.0      # for the access log, at the end
DRAIN_POLL_S = 0.01     # how often the end asks whether all have left

logger = logging.getLogger("fastserve")


def run(app: App, config: Config) -> int:
    """Serve until a signal, with workers of the same application if there are to be any.

    Returns the exit status. Raises ConfigError when a certificate cannot be loaded or a
    listener not be opened.
    """
    if config.workers is not None:
        return supervise(
            lambda *parts: serve_slot(lambda: app, config, *parts), config, reloads=False)
    log.configure(config.log_level, config.log_format, config.log_file)
    certificates = Certificates.from_config(config)
    deployment = Deployment(config, os.environ)
    try:
        if deployment.before is not None:
            raise deployment.before.refuse("workers=None cannot follow a server with workers")
        listeners = [group.of(0) for group in deployment.open()]
        deployment.settle()
        return Worker(app, config, listeners, certificates, deployment=deployment).run()
    finally:
        deployment.close()


def serve_slot(
    load: Callable[[], App],
    config: Config,
    listeners: list[Listener],
    orders: Orders,
    place: Place,
) -> int:
    """Serve in a worker process of a supervisor; the exit status."""
    try:
        user = User.from_config(config)
        if user is not None:
            user.become()   # before any code of the application runs
        # Even while an import hangs; behind become(), which would undo it.
        end_with_parent(place.parent, signal.SIGTERM)
        app = load()
        log.configure(config.log_level, config.log_format, config.log_file)
        certificates = Certificates.from_config(config)
        board = Scoreboard(place.fd, place.block, slot=place.slot)
        link = Link(orders, place.beat, place.slot, board, place.fd)
        status = Worker(app, config, listeners, certificates, link).run()
    except FastserveError as error:
        shown = getattr(error, "traceback", None)
        logger.error("%s%s", f"{shown}\n" if shown else "", error)
        return STARTUP_FAILED
    leave_threads_behind(app, status)
    return status


@dataclass(frozen=True)
class Link:
    """What ties a worker to its supervisor.

    orders:  its end of their talk
    beat:    to be called whenever the loop turns
    slot:    its place
    board:   where it counts
    fd:      of the memory where all count
    """

    orders: Orders
    beat: Callable[[], None]
    slot: int
    board: Scoreboard
    fd: int


def run_from_script(app: App, settings: dict[str, Any]) -> None:
    """What app.run() does: serve, then return; or exit with the status and one line."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        config = Config.load(settings)
        status = run(app, config)
    except ConfigError as error:
        sys.stderr.write(f"fastserve: {error}\n")
        raise SystemExit(FAILED) from None
    if config.workers is not None:
        for number, handler in before.items():
            signal.signal(number, handler)      # the script may go on
    leave_threads_behind(app, status)
    if status != OK:
        raise SystemExit(status)


def leave_threads_behind(app: App, status: int) -> None:
    """End the process at once where a @blocking handler would hold it up for ever."""
    if app.blocking_pool.running:
        logger.warning("%d @blocking handlers still run; leaving them", app.blocking_pool.running)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Worker:
    """One run of one application on one loop."""

    def __init__(
        self,
        app: App,
        config: Config,
        listeners: list[Listener],
        certificates: Certificates | None = None,
        link: Link | None = None,
        *,
        deployment: Deployment | None = None,
    ) -> None:
        self.app = app
        self.config = config
        self.listeners = listeners
        self.certificates = certificates
        self.link = link
        self.board: Scoreboard | None = None
        self.deployment = deployment
        self.notifier = deployment.notifier if deployment is not None else Notifier()
        self.access_log = AccessLog.from_config(config)
        self.adopted: dict[int, list[socket.socket]] = {}   # slot -> its listeners
        self.drain_delay_s = config.drain_delay_s
        self.keep_idle_s = 0.0      # how long those who are here may still bring a last request
        self.signals = 0
        self.due_s = 0.0        # of the next tick, on the loop's clock
        self.started = False
        self.stopping = asyncio.Event()     # the first signal
        self.hurry = asyncio.Event()        # the second
        self.task: asyncio.Task[int] | None = None
        self.next_tick: asyncio.TimerHandle | None = None
        self.closing = contextlib.ExitStack()   # what only this run uses

    def run(self) -> int:
        loop = new_loop(self.config.loop)
        try:
            if self.link is not None:
                stacks.tell_when_asked(loop)
            with self._signals(loop):
                self.task = loop.create_task(self._serve(loop))
                try:
                    return loop.run_until_complete(self.task)
                except asyncio.CancelledError:
                    logger.info("stopped during start-up")
                    return OK
                except StartupError as error:
                    logger.error("start-up failed: %s", error)
                    return STARTUP_FAILED
                except ConfigError as error:
                    if self.link is None:
                        raise   # whoever started us says it
                    logger.error("%s", error)
                    return STARTUP_FAILED
        finally:
            close_loop(loop)

    def reload_certificates(self) -> None:
        """Use what the certificate files hold now for new connections, if it loads."""
        if self.certificates is not None:
            self.certificates.reload()

    def reopen_logs(self) -> None:
        """Write to the files that have the paths of the logs now."""
        log.reopen()
        if self.access_log is not None:
            self.access_log.reopen()
        logger.info("reopened the logs")

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> int:
        engine = self._engine(loop)
        entrance = Entrance(loop, engine, self.config, self.certificates)
        if self.config.ssl_sni:
            self.closing.enter_context(bad_names_unreported())
        if self.link is not None:
            loop.add_reader(self.link.orders.fileno(), self._obey, self.link, engine, entrance)
        try:
            stack = contextlib.AsyncExitStack()
            await self._start_up(stack)
            try:
                await outside_of_tasks(loop, self._listen, loop, engine, entrance)
                await self.stopping.wait()
                await self._drain(loop, engine, entrance)
            finally:
                status = await self._shut_down(stack)
        finally:
            engine.close()
            if self.access_log is not None:
                self.access_log.close(LAST_LINES_S)
                self._count_lost_lines()
            self.app.blocking_pool.close()
            self.closing.close()
        logger.info("stopped (%s)", self._name())
        return status

    def _name(self) -> str:
        """Which of several it is, for the log."""
        return f"pid {os.getpid()}" + ("" if self.link is None else f", slot {self.link.slot}")

    def _engine(self, loop: asyncio.AbstractEventLoop) -> Engine:
        self.app.blocking_pool.threads = self.config.blocking_threads
        self.board, fd = self._counting()
        return self.app.build_engine(
            loop,
            health_paths=self.config.health_paths,
            unlogged=self.config.unlogged_paths(),
            forwarded=ForwardedFields.from_config(self.config),
            max_connections=connections_allowed(
                self.config.max_connections, told=self.link is not None),
            board=self.board,
            journal=None if self.access_log is None else self.access_log.journal,
            pages=self._pages(fd),
            **self.config.engine_limits(),
        )

    def _counting(self) -> tuple[Scoreboard | None, int]:
        """Where to count, if anybody may ask, and the memory where all do."""
        if self.link is not None:
            return self.link.board, self.link.fd
        if self.config.metrics is None:
            return None, -1
        shared = SharedBoard(1)
        self.closing.callback(shared.close)
        return Scoreboard(shared.fd, shared.take()), shared.fd

    def _pages(self, fd: int) -> list[Page]:
        """What the server answers itself, besides its health."""
        if self.config.metrics is None:
            return []
        from fastserve.metrics import Metrics

        metrics = Metrics(self.config.metrics, lambda: read_board(fd))
        self.closing.callback(metrics.close)
        return [metrics]

    async def _start_up(self, stack: contextlib.AsyncExitStack) -> None:
        try:
            await stack.enter_async_context(self.app.lifespan_context())
        except Exception as error:
            logger.error("%s", user_traceback(error))
            raise StartupError(_reason(error)) from error

    async def _shut_down(self, stack: contextlib.AsyncExitStack) -> int:
        try:
            await stack.aclose()
        except Exception as error:
            logger.error("shutdown failed: %s\n%s", _reason(error), user_traceback(error))
            return FAILED
        return OK

    def _listen(
        self, loop: asyncio.AbstractEventLoop, engine: Engine, entrance: Entrance
    ) -> None:
        gc.collect()
        gc.freeze()     # what start-up made stays: no collection need look at it again
        self._tick(loop, engine)
        for listener in self.listeners:
            self._accept_from(listener.socket, listener.plain, engine, entrance)
        self.started = True
        if self.deployment is not None:
            self.deployment.take_over()
        where = ", ".join(
            listener.where(encrypted=self.certificates is not None)
            for listener in self.listeners)
        logger.info("listening on %s (%s)", where, self._name())
        if self.link is not None:
            self.link.orders.send({"event": "ready"})
        self.notifier.ready("serving")

    @staticmethod
    def _accept_from(
        sock: socket.socket, plain: bool, engine: Engine, entrance: Entrance
    ) -> None:
        accept = entrance.way_in(plain=plain)
        if accept is None:
            engine.listen(sock)
        else:
            engine.listen_for(sock, accept)

    def _obey(self, link: Link, engine: Engine, entrance: Entrance) -> None:
        """Read what the supervisor says; if it is gone, nobody needs us."""
        try:
            messages = link.orders.receive()
        except EOFError:
            asyncio.get_running_loop().remove_reader(link.orders.fileno())
            logger.error("the supervisor is gone: stopping")
            self._stop(at_once=False)
            return
        for message, sockets in messages:
            order = message["order"]
            if order == "stop":
                self.drain_delay_s = message["drain_delay_s"]
                self.keep_idle_s = message["keep_idle_s"]
                self._stop(at_once=message["at_once"])
            elif order == "drain":
                engine.draining = True
            elif order == "resume" and not self.stopping.is_set():
                engine.draining = False
            elif order == "park":
                for listener in self.listeners:
                    engine.leave(listener.socket)
            elif order == "unpark" and not self.stopping.is_set():
                for listener in self.listeners:
                    self._accept_from(listener.socket, listener.plain, engine, entrance)
            elif order == "reopen":
                self.reopen_logs()
            elif order == "adopt" and not self.stopping.is_set():
                self.adopted[message["slot"]] = sockets
                for sock, plain in zip(sockets, message["plain"], strict=True):
                    self._accept_from(sock, plain, engine, entrance)
            elif order == "release":
                for sock in self.adopted.pop(message["slot"], ()):
                    engine.leave(sock)
                    sock.close()

    def _tick(self, loop: asyncio.AbstractEventLoop, engine: Engine) -> None:
        now_s = loop.time()
        lag_s = max(now_s - self.due_s, 0.0) if self.due_s else 0.0
        # on the second too, so that the Date header is never a second late
        self.due_s = now_s + TICK_S - time.time() % TICK_S
        self.next_tick = loop.call_at(self.due_s, self._tick, loop, engine)
        if self.link is not None:
            self.link.beat()
        self.notifier.alive()
        engine.tick(lag_s, self._accept_queue())
        self._count_lost_lines()
        if self.certificates is not None:
            self.certificates.tick(now_s)

    def _count_lost_lines(self) -> None:
        if self.access_log is not None and self.board is not None:
            self.board.add(AT_LINES_DROPPED, self.access_log.newly_dropped())

    def _accept_queue(self) -> int:
        """Connections that the kernel holds for this worker."""
        return sum(listener.queued() or 0 for listener in self.listeners)

    async def _drain(
        self, loop: asyncio.AbstractEventLoop, engine: Engine, entrance: Entrance
    ) -> None:
        engine.draining = True
        self.notifier.stopping(self.drain_delay_s + self.config.graceful_timeout_s)
        if self.drain_delay_s:
            logger.info("still accepting for %g s", self.drain_delay_s)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.hurry.wait(), self.drain_delay_s)
        deadline = loop.time() + self.config.graceful_timeout_s
        await outside_of_tasks(loop, self._stop_accepting, engine)
        keep_until_s = min(loop.time() + self.keep_idle_s, deadline)
        while (engine.connections or entrance.waiting) and loop.time() < keep_until_s \
                and not self.hurry.is_set():
            await asyncio.sleep(DRAIN_POLL_S)
        await outside_of_tasks(loop, entrance.close)
        await outside_of_tasks(loop, engine.drain)
        while engine.connections or engine.requests_in_flight:
            if loop.time() >= deadline or self.hurry.is_set():
                logger.warning(
                    "dropping %d connections with %d requests in flight",
                    engine.connections, engine.requests_in_flight)
                await outside_of_tasks(loop, engine.abort)
                await asyncio.sleep(0)  # the cancelled handlers get their turn
                break
            await asyncio.sleep(DRAIN_POLL_S)
        if self.next_tick is not None:
            self.next_tick.cancel()

    @contextlib.contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """What each signal does; outside of the main thread they cannot reach us."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        actions: dict[int, Callable[[], None]] = {
            number: functools.partial(self._signal, loop, number)
            for number in (SIGNALS if self.link is None else (signal.SIGTERM,))}
        actions[signal.SIGUSR1] = self.reopen_logs
        if self.link is None:
            actions[signal.SIGHUP] = self._hang_up
        before = {number: signal.getsignal(number) for number in actions}
        for number, act in actions.items():
            loop.add_signal_handler(number, act)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                # Of several, which end now: whoever ends all processes may say so a little late.
                ends = self.link is not None and number == signal.SIGTERM
                signal.signal(number, signal.SIG_IGN if ends else handler)

    def _hang_up(self) -> None:
        logger.info("HUP: %s", "reading the certificates anew" if self.certificates is not None
                    else "there are no certificates to read anew, and new code takes workers")
        self.notifier.reloading()
        self.reload_certificates()
        self.notifier.ready("serving")

    def _signal(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self.signals += 1
        again = self.signals > 1
        logger.info("%s: %s", signal.Signals(number).name, "stopping now" if again else "stopping")
        if self.link is not None:
            self.link.orders.send({"event": "leaves"})
        self._stop(at_once=again)
        if again and self.started:
            for each in SIGNALS:   # a third one ends the process
                loop.remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)

    def _stop(self, *, at_once: bool) -> None:
        """Begin to stop; or, told again, stop at once."""
        self.stopping.set()
        if not self.started and self.task is not None:
            self.task.cancel()
        elif at_once:
            self.hurry.set()

    def _stop_accepting(self, engine: Engine) -> None:
        engine.stop_listening()
        if self.link is not None:
            # At once: who comes in between is reset, where nobody else holds the listener.
            for sock in self._listening_sockets():
                sock.close()

    def _listening_sockets(self) -> list[socket.socket]:
        mine = [listener.socket for listener in self.listeners]
        return mine + [sock for sockets in self.adopted.values() for sock in sockets]


async def outside_of_tasks(
    loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object
) -> None:
    """Call from a callback of the loop: the engine may step handlers, which are tasks too."""
    done = loop.create_future()

    def callback() -> None:
        if done.cancelled():    # told to stop before it came to that
            return
        try:
            call(*args)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    loop.call_soon(callback)
    await done


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """A new event loop: "uvloop" or "asyncio"."""
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left, let asynchronous generators end, close."""
    try:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=5.0))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _reason(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
