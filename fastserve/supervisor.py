"""One parent, a worker for each slot, and nothing lost between them.

The parent owns the listeners and the workers, and knows nothing of HTTP. It runs no event
loop and no thread, so that forking is safe at any time. A slot is a place for one worker,
with a listener of its own for each address, which the parent holds open for life: what waits
in its queue outlives the worker. A successor serves before its predecessor is told to go.

Signal handlers only wake the loop in run(); it alone acts. Each of its turns looks at
messages, signals, the dead, the silent, and then starts what is missing. Nothing in a turn waits.

  TERM, INT  stop: accept what is queued, answer, exit 0; a second one drops what is left
  QUIT       stop at once
  HUP        reload: a successor for each slot in turn, each ready before the next begins
  TTIN TTOU  one slot more, one less
  WINCH      stop the workers, keep the listeners; HUP starts them again
  USR1       open the log files anew
  USR2       start another supervisor from what is installed now, which takes over (upgrade.py)
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

from fastserve import cpus, log, machine
from fastserve.beats import Beats
from fastserve.births import CannotStart, become_worker
from fastserve.commands import perform
from fastserve.config import Config
from fastserve.control import Control
from fastserve.deaths import OomKills, explain, kind_of
from fastserve.deployment import Deployment
from fastserve.errors import ConfigError, FastserveError
from fastserve.forking import HEARD, STOPPING, fork
from fastserve.listeners import Listener
from fastserve.orders import Orders
from fastserve.place import Place
from fastserve.privileges import User
from fastserve.recorder import Recorder
from fastserve.renewal import Renewal
from fastserve.shm import SharedBoard
from fastserve.slots import KILL_AFTER_S, TURN_S, Child, Slot
from fastserve.status import complete, summary, tell
from fastserve.terminal import is_in_front
from fastserve.upgrade import Succession
from fastserve.watchdog import Watchdog

OK, STARTUP_FAILED = 0, 3
MOST_WORKERS = 512
RETIRE_AFTER_S = 1.0        # for the handshakes that began before the steering
KEEP_IDLE_S = 2.0           # a replaced worker, for the requests that are on their way to it
SETTLED_S = 1.0             # who served for so long has not failed to start
FIRST_DELAY_S, LAST_DELAY_S = 0.1, 30.0
NO_PROCESS_DELAY_S = 1.0    # at most, while nobody serves and the system gives us no process
STREAMS = ("-", "stderr")   # access_log_file is none

logger = logging.getLogger("fastserve")

# What a worker process does: (listeners, orders, place) -> exit status.
Work = Callable[[list[Listener], Orders, Place], int]


def supervise(
    work: Work,
    config: Config,
    *,
    reloads: bool = True,
    make: Callable[..., Supervisor] | None = None,
) -> int:
    """Serve with as many workers as the Config says until a signal; the exit status.

    Behind a signal to stop, those are ignored from here on.

    work:     called in each worker process
    reloads:  whether a new worker brings new code; if not, HUP is refused
    make:     another kind of Supervisor, from what that is made of
    Raises ConfigError when a listener cannot be opened.
    """
    make_logs(config)
    user = User.from_config(config)
    log.configure(
        config.log_level, config.log_format, config.log_file, None if user is None else user.give)
    workers = cpus.usable() if config.workers == "auto" else int(config.workers or 1)
    deployment = Deployment(config, os.environ)
    try:
        deployment.open()
        return (make or Supervisor)(work, config, deployment, workers, reloads=reloads).run()
    except ConfigError as error:
        if deployment.before is not None:
            deployment.before.tell_failed(str(error))
        raise
    finally:
        deployment.close()


def make_logs(config: Config) -> None:
    """Let workers of another user write to the logs, which root may have to make for them."""
    user = User.from_config(config)
    for path in (config.log_file, config.access_log_file):
        if user is not None and path not in (None, *STREAMS):
            user.give(str(path))


class Supervisor:
    """The state of one parent process."""

    def __init__(
        self, work: Work, config: Config, deployment: Deployment, workers: int, *, reloads: bool
    ) -> None:
        self.work = work
        self.config = config
        self.deployment = deployment
        self.groups = deployment.groups
        self.succession = Succession(self, deployment.before)
        self.reloads = reloads
        self.beats = Beats(4 * MOST_WORKERS)
        before = deployment.before
        self.board = SharedBoard(4 * MOST_WORKERS - 1, before.board if before else None)
        self.recorder = Recorder(self.board)
        self.renewal = Renewal(self, config)
        held = max((len(group.listeners) for group in self.groups if not group.shared), default=0)
        self.slots = [Slot(index) for index in range(held)]     # of a supervisor before this one
        self.leaving: set[Child] = set()    # they drain; their slot has another worker, or none
        self.draining = False               # clients are asked to go elsewhere
        self.wanted = workers
        self.resting = False                # WINCH: no workers until HUP
        self.stop_by_s: float | None = None
        self.signals = 0
        self.someone_served = False
        self.oom_kills = OomKills()
        self.steered: list[int] = []
        self.wake, self._waker = os.pipe()
        self.born_s = time.monotonic()
        self.watchdog = Watchdog(self)
        self.control = Control(config.control, partial(perform, self), deployment.heritage) \
            if config.control else None
        deployment.settle()

    # The loop.

    def run(self) -> int:
        """Until all has ended; the exit status."""
        with self._signals(), contextlib.ExitStack() as stack:
            if self.control is not None:
                stack.callback(self.deployment.close_group, self.control.group)
                stack.callback(self.control.close)
            machine.introduce(self.config, self.wanted, self.groups)
            if not self.succession.waits:
                self.deployment.take_over()
            self.deployment.notifier.starting(self.config.boot_timeout_s)
            while True:
                self.keep()
                tell(self)
                if self.control is not None:
                    self.control.turn()
                if self.stop_by_s is not None and not self.children() \
                        and not self.succession.starts:
                    return self.status
                self.turn()

    def turn(self) -> None:
        """Wait until something happens, and act on all that has."""
        poll = select.poll()
        talkers = {
            child.orders.fileno(): child for child in self.children() if not child.deaf}
        asking = self.control.numbers() \
            if self.control is not None and not self.succession.waits else []
        for number in (self.wake, *talkers, *asking, *self.succession.numbers()):
            poll.register(number, select.POLLIN)
        for number, _ in poll.poll(TURN_S * 1000):
            if number in talkers:
                self.listen_to(talkers[number])
            elif self.control is not None and number in asking:
                self.control.ready(number)
        ended = dict(_ended())
        for child in self.children():
            if child.pid in ended:
                self.listen_to(child)   # to its last words
        # Behind that: who ends of a signal that has reached us, too, must have no successor.
        self.obey_signals()
        self.let_leave()
        for pid, status in ended.items():
            self.reap(pid, status)
        self.watchdog.turn()

    def obey_signals(self) -> None:
        """Act on all that have come."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self.wake, 4096):
                self.on_signal(signal.Signals(number))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        os.set_blocking(self.wake, False)
        os.set_blocking(self._waker, False)
        before = {number: signal.signal(number, _heard) for number in HEARD}
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                # Whoever has stopped us may say so again until the process has gone.
                told = self.signals and number in STOPPING
                signal.signal(number, signal.SIG_IGN if told else handler)
            os.close(self.wake)
            os.close(self._waker)

    def on_signal(self, number: signal.Signals) -> None:
        """Do what a signal asks for; nothing here waits."""
        if number in STOPPING:
            self.signals += 1
            self.stop(at_once=self.signals > 1 or number == signal.SIGQUIT, why=number.name)
        elif number == signal.SIGHUP:
            reason = self.reload()
            if reason:
                logger.error("HUP: %s", reason)
                self.stay_as_it_is()
        elif number == signal.SIGTTIN:
            self.scale(self.wanted + 1)
        elif number == signal.SIGTTOU:
            self.scale(self.wanted - 1)
        elif number == signal.SIGWINCH:
            if not is_in_front():   # then it is of the terminal, whose window has another size
                self.rest()
        elif number == signal.SIGUSR1:
            self.reopen_logs()
        elif number == signal.SIGUSR2:
            reason = self.upgrade()
            if reason:
                logger.error("USR2: %s", reason)

    # What operators ask for.

    status = OK     # how run() will end

    def stop(self, *, at_once: bool, why: str) -> None:
        """Let the workers end what they do, or drop it."""
        logger.info("%s: %s", why, "stopping now" if at_once else "stopping")
        self.renewal.end_reload("the server stops")
        self.succession.stop()
        for group in self.groups:
            group.let_go()
        if self.stop_by_s is None or at_once:
            graceful_s = self.config.drain_delay_s + self.config.graceful_timeout_s
            self.stop_by_s = time.monotonic() + KILL_AFTER_S + (0 if at_once else graceful_s)
        self.deployment.notifier.stopping(self.stop_by_s - time.monotonic())
        for child in self.children():
            delay_s = 0 if child in self.leaving else self.config.drain_delay_s
            self.dismiss(child, self.stop_by_s, at_once=at_once, delay_s=delay_s)

    def reload(self, canary: int | None = None, canary_s: float | None = None) -> str:
        """Replace every worker, one at a time; why that cannot be, or nothing.

        canary, canary_s:  how many try the new code first, and for how long; None: as set
        """
        if self.stop_by_s is not None:
            return "the server stops"
        if self.succession.starts or self.succession.waits:
            return "an upgrade is under way"
        if not self.reloads:
            return ("the application was imported before the workers, which cannot bring new "
                    "code: start by `fastserve run MODULE:APP --workers N` without --preload")
        reason = self.renewal.begin_reload(canary, canary_s)
        if reason:
            return reason
        self.resting = False
        self.deployment.notifier.reloading(self.renewal.takes_at_most_s())
        return ""

    def stay_as_it_is(self) -> None:
        """A manager that asked for a reload waits until there was one (Type=notify-reload)."""
        notifier = self.deployment.notifier
        if notifier.is_ready and self.succession.steers and self.stop_by_s is None \
                and self.renewal.reloading is None:
            notifier.reloading()
            notifier.ready(summary(self))

    def on_reloaded(self) -> None:
        """A reload has come to its end."""
        self.deployment.notifier.ready(summary(self))

    def scale(self, workers: int) -> str:
        """Have so many workers; why that cannot be, or nothing."""
        reason = self.succession.problem()
        if self.stop_by_s is not None:
            reason = "the server stops"
        elif not 1 <= workers <= MOST_WORKERS:
            reason = f"from 1 to {MOST_WORKERS}"
        if reason:
            reason = f"{workers} workers cannot be: {reason}"
            logger.warning("%s", reason)
            return reason
        logger.info("scaling from %d to %d workers", self.wanted, workers)
        self.wanted = workers
        return ""

    def rest(self) -> None:
        """Stop the workers, keep the listeners: new connections wait."""
        logger.info("resting: the workers stop, the listeners stay")
        self.resting = True
        self.renewal.end_reload("the workers rest")
        for slot in self.slots:
            for child in slot.children():
                self.leave(slot, child)

    def drain(self) -> None:
        """Ask clients and load balancers to go elsewhere, and go on serving those that come."""
        logger.info("draining: still serving, not ready, and every answer closes its connection")
        self.draining = True
        for child in self.children():
            child.orders.send({"order": "drain"})

    def resume(self) -> str:
        """Have clients come again after drain(); why that cannot be, or nothing."""
        if self.stop_by_s is not None:
            return "the server stops"
        if self.resting:
            return "the workers rest: reload starts them"
        logger.info("resuming: ready, and connections are kept")
        self.draining = False
        for child in self.children():
            if not child.dismissed:
                child.orders.send({"order": "resume"})
        return ""

    def reopen_logs(self) -> None:
        """Open the log files anew, here and in every worker: somebody has moved them."""
        try:
            make_logs(self.config)
        except (FastserveError, OSError) as error:
            logger.error("the log files cannot be made: %s", error)
        log.reopen()
        logger.info("the log files are opened anew")
        for child in self.children():
            child.orders.send({"order": "reopen"})

    def upgrade(self) -> str:
        """Start a supervisor that takes over; why that cannot be, or nothing."""
        if self.stop_by_s is not None:
            return "the server stops"
        if self.renewal.reloading is not None:
            return "a reload is under way"
        return self.succession.begin()

    def end_behind_workers(self) -> None:
        """Another supervisor serves: the workers accept what still comes to them, and end."""
        self.stop_by_s = time.monotonic() + RETIRE_AFTER_S + self.config.graceful_timeout_s \
            + KILL_AFTER_S
        for child in self.children():
            delay_s = 0 if child in self.leaving else RETIRE_AFTER_S
            self.dismiss(child, self.stop_by_s, delay_s=delay_s, keep_idle_s=KEEP_IDLE_S)

    # Keeping the slots.

    def keep(self) -> None:
        """Start what is missing, retire what is too much, go on reloading; steer."""
        self.hurry_on()
        self.succession.turn(complete=complete(self))
        if self.stop_by_s is not None:
            return
        self.resize()
        if not self.resting:
            now = time.monotonic()
            for slot in self.slots:
                if slot.child is None and slot.successor is None and not slot.retiring \
                        and now >= slot.start_at_s:
                    self.start_anew(slot)
                    if self.stop_by_s is not None:
                        return
            self.renew()
        self.cover()
        self.steer()

    def renew(self) -> None:
        """Go on replacing workers that serve."""
        self.renewal.turn()

    def resize(self) -> None:
        """As many slots as are wanted; only the last can go."""
        while len(self.slots) < self.wanted and not any(slot.retiring for slot in self.slots):
            self.slots.append(Slot(len(self.slots)))
        for slot in self.slots:
            if slot.retire_at_s is None:
                slot.retiring = slot.index >= self.wanted
        if self.succession.before is not None:
            return      # whose workers may still serve what is too much for us
        if not self.live():
            return      # nobody else could have what comes, nor what waits
        now = time.monotonic()
        for slot in self.slots:
            if slot.retiring and slot.retire_at_s is None:
                slot.retire_at_s = now + RETIRE_AFTER_S
                for group in self.groups:
                    self.deployment.notifier.forget(slot.index, group.key)
            elif slot.is_over(now):
                self.uncover(slot)
                for child in slot.children():
                    self.leave(slot, child)
        while self.is_gone(self.slots[-1]):
            gone = self.slots.pop()
            self.uncover(gone)
            for group in self.groups:
                group.retire(gone.index)

    def is_gone(self, slot: Slot) -> bool:
        """Whether a slot is too many, and its workers have accepted and answered the rest."""
        return slot.is_over(time.monotonic()) and not slot.children() \
            and not any(child.slot is slot for child in self.leaving) \
            and self.deployment.notifier.is_settled()

    def cover(self) -> None:
        """Let a neighbour accept for each slot that nobody serves now.

        Not for one whose time is over: nothing comes to it any more, and who still held its
        listener would have the number of the next one in the group.
        """
        if self.succession.waits:
            return
        now = time.monotonic()
        for slot in self.slots:
            if slot.serves():
                self.uncover(slot)
            elif slot.cover is None and not slot.is_over(now):
                for other in self.serving_slots():
                    if other is not slot and other.serves() and other.child is not None:
                        slot.cover = other.child
                        theirs = [one for group in self.groups if not group.shared
                                  for one in group.made(slot.index)]
                        if theirs:
                            order = {"order": "adopt", "slot": slot.index,
                                     "plain": [listener.plain for listener in theirs]}
                            other.child.orders.send(order, [one.socket for one in theirs])
                        break

    def live(self) -> list[int]:
        """The slots that new connections go to."""
        return [slot.index for slot in self.slots if slot.serves() and not slot.retiring]

    def uncover(self, slot: Slot) -> None:
        """The slot has its own worker again."""
        if slot.cover is not None:
            slot.cover.orders.send({"order": "release", "slot": slot.index})
            slot.cover = None

    def stop_covering(self, child: Child) -> None:
        """It accepts no more: another neighbour is to."""
        for slot in self.slots:
            if slot.cover is child:
                self.uncover(slot)

    def steer(self) -> None:
        """New connections go to the slots that serve."""
        if not self.succession.steers:
            return      # the last one who does counts, and that is to be one of us
        live = self.live()
        if live and live != self.steered:
            self.steered = live
            for group in self.groups:
                if not group.steer(live):
                    logger.debug("the kernel chooses by itself who accepts")

    def hurry_on(self) -> None:
        """Kill who has not gone by the bound that it was given."""
        now = time.monotonic()
        for child in self.children():
            if child.kill_at_s is not None and now >= child.kill_at_s:
                child.kill_at_s = None
                child.because = child.because or "it did not end in time"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)

    # Workers.

    def children(self) -> list[Child]:
        """Every process that has not ended."""
        return [child for slot in self.slots for child in slot.children()] + list(self.leaving)

    def serving_slots(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.child is not None and slot.child.ready]

    def start(self, slot: Slot, reason: str) -> Child:
        """Fork a worker for a slot; reason: why another is replaced, one of readings.REASONS.

        Raises CannotStart, where the system gives no process or no listener.
        """
        with contextlib.ExitStack() as undo:
            try:
                listeners = [group.of(slot.index) for group in self.groups]
                ours, theirs = Orders.pair()
                undo.callback(ours.close)
                with contextlib.closing(theirs):
                    cell = self.beats.take()
                    undo.callback(self.beats.give_back, cell)
                    block = self.board.take()
                    undo.callback(self.board.retire, block)
                    place = Place(slot.index, self.board.fd, block,
                                  lambda: self.beats.beat(cell), os.getpid())
                    pid = fork(lambda: become_worker(self, listeners, ours, theirs, place))
            except (OSError, ConfigError, IndexError) as error:
                raise CannotStart(f"no worker can be started: {error}") from error
            undo.pop_all()
        child = Child(
            pid, slot, ours, cell, block, self.renewal.recycling.begin(), time.monotonic(), reason)
        child.kill_at_s = child.born_s + self.config.boot_timeout_s
        child.because = f"it was not ready within boot_timeout_s={self.config.boot_timeout_s:g}"
        if self.renewal.doubts(reason):
            child.doubtful = True
            logger.warning(
                "worker %d of slot %d takes the code that is on disk: a canary was refused, and "
                "no reload has gone well since", pid, slot.index)
        return child

    def start_anew(self, slot: Slot) -> None:
        """Give an empty slot a worker, or try again later."""
        try:
            slot.child = self.start(slot, slot.reason)
        except CannotStart as error:
            logger.error("slot %d: %s; trying again", slot.index, error)
            slot.failures += 1
            self.wait_to_start(slot, LAST_DELAY_S if self.serving_slots() else NO_PROCESS_DELAY_S)
            if self.has_no_hope():
                self.no_worker_starts()

    def close_in_child(self) -> None:
        """In a forked process: let go of what only the parent talks through."""
        os.close(self.wake)
        os.close(self._waker)
        for child in self.children():
            child.orders.close()
        if self.control is not None:
            self.control.close_in_child()
        self.succession.close_in_child()
        self.deployment.close_in_child()

    def listen_to(self, child: Child) -> None:
        """Read what a worker says."""
        try:
            messages = child.orders.receive()
        except EOFError:
            child.deaf = True   # it ends; waitpid() will tell
            messages = []
        for message, _ in messages:
            if message.get("event") == "ready":
                self.on_ready(child)
            elif message.get("event") == "leaves":
                child.leaves = True     # which may be our own doing: see keep()

    def on_ready(self, child: Child) -> None:
        """A worker serves: it takes its slot, and its predecessor may go."""
        if child.dismissed:
            return
        child.ready = True
        child.kill_at_s = None
        child.because = ""
        self.someone_served = True
        self.beats.beat(child.cell)
        self.renewal.recycling.ready(child.term, child.pid, time.monotonic() - child.born_s)
        slot = child.slot
        if slot.successor is child:
            slot.successor = None
            slot.failures = 0
            before, slot.child = slot.child, child
            if before is not None:
                self.renewal.follow(slot, before)
        if child.reason:
            slot.restarts[child.reason] += 1
            self.board.count_restart(child.reason)
        if self.draining:
            child.orders.send({"order": "drain"})

    def leave(self, slot: Slot, child: Child) -> None:
        """A worker drains, and its slot forgets it."""
        slot.forget(child)
        self.retire_child(child)

    def retire_child(self, child: Child) -> None:
        """Others serve in its place: it need not go on accepting."""
        self.leaving.add(child)
        self.stop_covering(child)
        delay_s = self.config.drain_delay_s if child.leaves else 0.0    # it has begun with that
        kill_at_s = time.monotonic() + delay_s + self.config.graceful_timeout_s + KILL_AFTER_S
        self.dismiss(child, kill_at_s, delay_s=delay_s, keep_idle_s=KEEP_IDLE_S)

    def dismiss(
        self, child: Child, kill_at_s: float, *, at_once: bool = False, delay_s: float = 0,
        keep_idle_s: float = 0,
    ) -> None:
        """Tell a worker to end, how long it accepts until then, and when it must have."""
        child.dismissed = True
        child.kill_at_s = kill_at_s if child.kill_at_s is None else min(child.kill_at_s, kill_at_s)
        child.orders.send({"order": "stop", "at_once": at_once, "drain_delay_s": delay_s,
                           "keep_idle_s": keep_idle_s})

    def let_leave(self) -> None:
        """Replace who serves and has begun to end without our word.

        Who only starts has not come to serve, as if it had failed: reap() will tell.
        """
        for child in self.children():
            if not child.leaves or not child.ready or child.dismissed or self.stop_by_s is not None:
                continue
            slot = child.slot
            logger.warning("worker %d of slot %d was told to end by somebody else, and is replaced",
                           child.pid, slot.index)
            if self.renewal.tries(child):
                self.renewal.fail_reload("the canary was told to end")
            if not child.dismissed:
                self.leave(slot, child)
                slot.reason = "other"
                if slot.child is None:
                    self.plan_start(slot, child)

    def reap(self, pid: int, status: int) -> None:
        """Learn that a process has ended, a worker or another."""
        self.succession.bury(pid)
        for child in self.children():
            if child.pid == pid:
                self.on_death(child, status)

    def on_death(self, child: Child, status: int) -> None:
        """A worker has ended: say why, and plan what follows."""
        slot = child.slot
        unasked = self.stop_by_s is None and not child.dismissed
        if child.dismissed and os.WIFEXITED(status) and os.WEXITSTATUS(status) == OK:
            logger.debug("worker %d of slot %d ended", child.pid, slot.index)
            how = ""
        else:
            out_of_memory = self.oom_kills.more()
            how = explain(status, child.because, out_of_memory)
            if unasked:
                slot.reason = kind_of(status, child.because, out_of_memory) \
                    if child.ready else "boot"
            logger.log(
                logging.WARNING if child.dismissed else logging.ERROR,
                "worker %d of slot %d %s%s", child.pid, slot.index, how,
                "" if child.told else self.recorder.account(child.block))
        self.beats.give_back(child.cell)
        self.board.retire(child.block)
        child.orders.close()
        self.leaving.discard(child)
        for other in self.slots:
            if other.cover is child:
                other.cover = None
        served, followed = slot.child is child, slot.successor is child
        slot.forget(child)
        if unasked and served:
            self.on_loss(slot, child, how)
        elif unasked and followed:
            self.renewal.on_failed_successor(slot, child, how)

    def on_loss(self, slot: Slot, child: Child, how: str) -> None:
        """Nobody asked the worker of a slot to end: plan when the next one is started."""
        slot.deaths += 1
        if self.renewal.takes_back(child, f"the canary {how}", f"the new worker {how}"):
            return
        self.plan_start(slot, child)
        if self.has_no_hope() or (self.succession.waits and not child.ready):
            self.no_worker_starts()

    def plan_start(self, slot: Slot, child: Child) -> None:
        """The slot has lost its worker: when it has another."""
        if child.ready and time.monotonic() - child.born_s >= SETTLED_S:
            slot.failures = 0
        slot.failures += 1
        slot.start_at_s = 0.0   # whatever a successor had to wait for
        if self.renewal.was_before(child) and not child.ready:
            slot.failures = 0   # the next one has other code
        elif slot.failures > 1 or not child.ready:
            # Somebody must serve; but what does not even start has no hurry.
            hurry = child.ready and not self.serving_slots()
            self.wait_to_start(slot, FIRST_DELAY_S if hurry else LAST_DELAY_S)

    def has_no_hope(self) -> bool:
        """Whether nobody ever served, and each has failed."""
        return not self.someone_served and all(
            slot.failures for slot in self.slots if not slot.retiring)

    def no_worker_starts(self) -> None:
        """Give up."""
        logger.error("no worker could start")
        self.status = STARTUP_FAILED
        self.stop(at_once=True, why="start-up failed")

    @staticmethod
    def wait_to_start(slot: Slot, most_s: float = LAST_DELAY_S) -> None:
        """Try again later, and later each time."""
        delay_s = min(most_s, FIRST_DELAY_S * 2.0 ** min(slot.failures - 1, 10))
        slot.start_at_s = time.monotonic() + delay_s * random.uniform(0.75, 1.25)  # noqa: S311


def _ended() -> Iterator[tuple[int, int]]:
    """Each child that has ended, and its status; as PID 1, orphans that were inherited too."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def _heard(number: int, frame: object) -> None:
    """The wake-up pipe has the number; that is all a handler may do."""
