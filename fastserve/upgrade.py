"""One supervisor after another, on the same sockets: USR2 and `fastserve ctl upgrade`.

The old one runs its own command line again: the code, the settings and the version of fastserve
that are there now. The new process inherits every listener by its descriptor, which a private
variable names, and one end of a talk. Both accept from the same queues while the new workers start.
Only when all of them serve does the new one say so; from then on the old one steers nothing, owns
no file, lets its workers accept for RETIRE_AFTER_S more, so that no handshake that began before is
lost, and ends behind them.

Until then the new one steers nothing and owns no file either. If it fails, at whatever point, the
old one says why and serves on. If the old one is killed, the new one takes over at once. Once the
old one has read that the new one serves, there is no way back: its workers are told to end.

Between the two there is a process that only waits for the new one, and ends when that serves: then
the new one is a child of whoever adopts orphans. systemd waits for the end of no main process
that it does not find to be its child when it is told of it: it would kill where it should stop.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from fastserve.control import Answer, refused
from fastserve.deaths import explain
from fastserve.errors import ConfigError
from fastserve.forking import fork, hear_again, let_go_of_signals
from fastserve.listeners import ACTIVATED, Group, Heritage
from fastserve.orders import Message, Orders

if TYPE_CHECKING:
    from fastserve.supervisor import Supervisor

VARIABLE = "_FASTSERVE_HANDOVER"
FAILED = 1
START_S = 10.0      # for the new supervisor itself, beside its workers' boot_timeout_s
END_S = 5.0         # from TERM to KILL for one that did not come up
_NUMBER = struct.Struct("=i")

logger = logging.getLogger("fastserve")


class Before:
    """The supervisor that this one follows.

    heritage:  its listeners
    board:     a descriptor of what its workers count into (shm.py); None: it gave none
    hands_on:  it still serves, steers and owns the files
    """

    def __init__(
        self, pid: int, talk: Orders, heritage: Heritage, board: int | None = None
    ) -> None:
        self.pid = pid
        self.board = board
        self.talk = talk
        self.heritage = heritage
        self.keys = set(heritage.sockets)
        self.hands_on = True
        self.told = False

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Before | None:
        """Who started this process as its successor, if somebody did; the variable is taken."""
        text = environ.pop(VARIABLE, None)
        told = json.loads(text) if text is not None else {}
        if told.get("for") != os.getpid():
            return None
        named, activated = [], []
        for key, numbers in told["groups"].items():
            sockets = [_inherited(number) for number in numbers]
            if key.partition("#")[0] == ACTIVATED:
                activated += sockets
            else:
                named.append((key, sockets))
        board = told.get("board")
        if board is not None:
            os.set_inheritable(board, False)
        return cls(
            told["from"], Orders(_inherited(told["talk"])), Heritage(named, activated), board)

    def tell_ready(self, keys: Sequence[str]) -> None:
        """All our workers serve, at these addresses."""
        if not self.told:
            self.told = True
            self.talk.send({"event": "ready", "keys": list(keys)})

    def tell_failed(self, reason: str) -> None:
        """We cannot follow."""
        self.talk.send({"event": "failed", "reason": reason})

    def refuse(self, reason: str) -> ConfigError:
        """Say that we cannot follow; what to raise."""
        self.tell_failed(reason)
        return ConfigError(reason)

    def has_left_it_to_us(self) -> bool:
        """Whether the other has just stopped steering, or has died before that."""
        with contextlib.suppress(EOFError):
            left = any(message["order"] == "take" for message, _ in self.talk.receive())
            self.hands_on = self.hands_on and not left
            return left
        left, self.hands_on = self.hands_on, False
        return left

    def is_gone(self) -> bool:
        """Whether its process has ended: nobody else holds the listeners."""
        if self.hands_on:
            return False
        with contextlib.suppress(EOFError):
            self.talk.receive()
            return False
        self.talk.close()
        return True


class After:
    """The supervisor that is to follow this one.

    waiter:       the process between us
    over, error:  how the upgrade came out
    """

    def __init__(self, waiter: Waiter, talk: Orders, boot_timeout_s: float) -> None:
        self.waiter = waiter
        self.pid = waiter.pid
        self.talk = talk
        self.ready_within_s = boot_timeout_s + START_S
        self.give_up_at_s = time.monotonic() + self.ready_within_s
        self.over = False
        self.error = ""
        self.keys: set[str] = set()     # the addresses that it serves

    def listen(self) -> bool:
        """Read what it says; whether it has just become ready."""
        try:
            messages: list[Message] = [message for message, _ in self.talk.receive()]
        except EOFError:    # it ends; waitpid() will tell
            return False
        for message in messages:
            if message["event"] == "failed":
                self.error = self.error or message["reason"]
            elif message["event"] == "ready" and not self.over and not self.error \
                    and self._is_there():
                self.over = True
                self.keys = set(message["keys"])
                return True
        return False

    def _is_there(self) -> bool:
        """Whether its end of the talk is open: behind its last word there may be its death."""
        with contextlib.suppress(EOFError):
            self.talk.receive()
            return True
        return False

    def watch(self) -> None:
        """End it when it has taken too long."""
        now = time.monotonic()
        if not self.over and now >= self.give_up_at_s:
            self.end(f"it was not ready within {self.ready_within_s:g} s")

    def end(self, reason: str) -> None:
        """Tell it to end; and if it was told before, make it."""
        number = signal.SIGKILL if self.error else signal.SIGTERM
        self.error = self.error or reason
        self.give_up_at_s = time.monotonic() + END_S
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def outcome(self) -> Answer | None:
        """The answer to who asked for it."""
        if not self.over:
            return None
        return refused(self.error) if self.error else {"ok": True}

    def ended(self) -> None:
        """Who waits for it has, before it was ready."""
        status = self.waiter.status()
        if status is None:
            self.error = self.error or (
                "who waited for the new supervisor was killed" if self.pid
                else "no process could be started for the new supervisor")
            self.end("")    # by KILL, before it can take our silence for our death
        else:
            self.error = self.error or f"the new supervisor {explain(status, '', False)}"
        self.over = True
        self.talk.close()


class Waiter:
    """A process of ours that waits for a child of its own, and writes down how that ended.

    number:  of this process
    pid:     of its child; 0 where it could start none
    """

    def __init__(self, number: int, reading: int) -> None:
        self.number = number
        self._reading = reading
        self.pid = self._read() or 0

    @classmethod
    def start(cls, become: Callable[[], NoReturn]) -> Waiter:
        """Fork it; its child calls `become`. Raises OSError."""
        reading, writing = os.pipe()
        try:
            number = fork(lambda: _wait(become, writing))
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return cls(number, reading)

    def status(self) -> int | None:
        """That of waitpid(); None when it was killed before it knew. To be asked once."""
        status = self._read()
        os.close(self._reading)
        return status

    def dismiss(self) -> None:
        """Let the child be an orphan, which this process is no parent of."""
        os.kill(self.number, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.number, 0)
        os.close(self._reading)

    def _read(self) -> int | None:
        data = os.read(self._reading, _NUMBER.size)
        return int(_NUMBER.unpack(data)[0]) if len(data) == _NUMBER.size else None


def _wait(become: Callable[[], NoReturn], writing: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)    # it is the parent's
        pid = os.fork()
        if pid == 0:
            hear_again()
            become()
        let_go_of_signals()
        os.closerange(3, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        os.write(writing, _NUMBER.pack(pid))
        os.write(writing, _NUMBER.pack(os.waitpid(pid, 0)[1]))
    finally:
        os._exit(0)


def obstacle() -> str:
    """Why this process cannot be started a second time; nothing if it can."""
    if os.getpid() == 1:
        return ("this is process 1, with which its container ends: reload by HUP, or start another "
                "container")
    if not sys.executable or sys.argv[:1] in ([], [""], ["-"]):
        return "this program was read from its input and cannot be run again: put it into a file"
    return ""


def starting_directory() -> str:
    """The current directory by the name that it was entered by.

    It may be a link, which leads to the new code by now: what the shell called it is kept.
    """
    named = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if named and os.path.samefile(named, os.curdir):
            return named
    return os.getcwd()


@dataclass(frozen=True)
class Legacy:
    """What a successor inherits.

    board:      a descriptor of what all workers count into
    directory:  where it starts
    """

    groups: Sequence[Group]
    board: int
    directory: str
    environ: Mapping[str, str]


def start_successor(legacy: Legacy, boot_timeout_s: float) -> After:
    """Run this process's command line again. Raises OSError."""
    ours, theirs = Orders.pair()
    parent = os.getpid()
    try:
        with contextlib.closing(theirs):
            waiter = Waiter.start(lambda: _become_successor(legacy, parent, theirs))
    except OSError:
        ours.close()
        raise
    return After(waiter, ours, boot_timeout_s)


def _become_successor(legacy: Legacy, parent: int, talk: Orders) -> NoReturn:
    try:
        numbers = {
            group.key: [listener.socket.fileno() for listener in group.listeners]
            for group in legacy.groups}
        listening = (number for some in numbers.values() for number in some)
        for number in [talk.fileno(), legacy.board, *listening]:
            os.set_inheritable(number, True)
        told = {"for": os.getpid(), "from": parent, "talk": talk.fileno(), "groups": numbers,
                "board": legacy.board}
        os.chdir(legacy.directory)
        os.execve(  # noqa: S606  (our own command line)
            sys.executable, [sys.executable, *sys.orig_argv[1:]],
            {**legacy.environ, VARIABLE: json.dumps(told)})
    except OSError as error:
        talk.send({"event": "failed", "reason": f"cannot run {sys.executable} in "
                   f"{legacy.directory} again: {error.strerror}"})
    finally:
        os._exit(FAILED)


def _inherited(number: int) -> socket.socket:
    os.set_inheritable(number, False)
    return socket.socket(fileno=number)


class Succession:
    """Whom a supervisor follows, and who follows it."""

    def __init__(self, supervisor: Supervisor, before: Before | None) -> None:
        self.supervisor = supervisor
        self.before = before
        self.after: After | None = None
        self.directory = starting_directory()

    @property
    def waits(self) -> bool:
        """Whether the one before still steers and owns the files."""
        return self.before is not None and self.before.hands_on

    @property
    def steers(self) -> bool:
        """Whether it is us who do."""
        return not self.waits and not self.handed_on

    @property
    def handed_on(self) -> bool:
        """Whether the one behind does."""
        return self.after is not None and self.after.over and not self.after.error

    @property
    def starts(self) -> bool:
        """Whether one is being started, or ended again."""
        return self.after is not None and not self.after.over

    def problem(self) -> str:
        """Why nothing can be changed now; nothing if it can."""
        if self.starts:
            return "an upgrade is under way"
        self.forget_who_is_gone()
        if self.before is not None:
            return "the supervisor before this one has not ended yet"
        return ""

    def numbers(self) -> list[int]:
        """The descriptors to wait for."""
        talks = [self.before.talk] if self.before is not None else []
        talks += [self.after.talk] if self.after is not None and self.starts else []
        return [talk.fileno() for talk in talks]

    def groups(self) -> list[Group]:
        """All that this process listens on."""
        control = self.supervisor.control
        return [*self.supervisor.groups, *([control.group] if control is not None else [])]

    def begin(self) -> str:
        """Start a successor; why that cannot be, or nothing."""
        reason = self.problem() or obstacle()
        if not reason:
            owner = self.supervisor
            environ = {**os.environ, **owner.deployment.notifier.environment()}
            legacy = Legacy(self.groups(), owner.board.fd, self.directory, environ)
            try:
                self.after = start_successor(legacy, owner.config.boot_timeout_s)
            except OSError as error:
                return f"no process can be started: {error}"
            logger.info("upgrading: supervisor %d starts", self.after.pid)
        return reason

    def stop(self) -> None:
        """The server stops, with all that belongs to it."""
        if self.after is not None and self.starts:
            self.after.end("the server stops")

    def turn(self, *, complete: bool) -> None:
        """Act on what the others have said.

        complete:  all our workers serve
        """
        before, after = self.before, self.after
        if before is not None and before.hands_on:
            if complete:
                before.tell_ready([group.key for group in self.groups()])
            if before.has_left_it_to_us():
                self.take_over()
        else:
            self.forget_who_is_gone()
        if after is not None and not after.over:
            if after.listen():
                self.hand_on(after)
            after.watch()

    def forget_who_is_gone(self) -> None:
        """Nobody else has our listeners, once the supervisor before us has ended."""
        if self.before is not None and self.before.is_gone():
            self.before = None

    def take_over(self) -> None:
        """The supervisor before this one has left steering and files to us."""
        if self.supervisor.stop_by_s is not None:
            return
        logger.info("supervisor %d serves from now on", os.getpid())
        try:
            self.supervisor.deployment.take_over()
        except ConfigError as error:
            logger.error("%s", error)

    def hand_on(self, after: After) -> None:
        """Another supervisor serves: leave it everything, and end behind the workers."""
        logger.info("supervisor %d serves; this one ends behind its workers", after.pid)
        for group in self.groups():
            if group.key in after.keys:
                group.leave_file()
        if self.supervisor.control is not None:
            self.supervisor.control.leave()
        after.waiter.dismiss()
        self.supervisor.deployment.notifier.main_process(after.pid)
        after.talk.send({"order": "take"})
        self.supervisor.end_behind_workers()

    def close_in_child(self) -> None:
        """In a forked process: the talks are the parent's."""
        for one in (self.before, self.after):
            if one is not None:
                one.talk.close()

    def bury(self, pid: int) -> None:
        """A process of ours has ended."""
        after = self.after
        if after is not None and after.waiter.number == pid:
            after.listen()      # why
            after.ended()
            logger.error("the upgrade failed: %s; this supervisor serves on", after.error)
