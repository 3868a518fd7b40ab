"""What a supervisor does for who asks by its control socket, and how that comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve.control import DESCRIPTOR, Answer, Outcome, refused
from fastserve.reloading import order_of
from fastserve.status import status_of

if TYPE_CHECKING:
    from fastserve.supervisor import Supervisor


def perform(supervisor: Supervisor, request: dict[str, Any]) -> Outcome:
    """Begin what a request asks for; how it comes out. ValueError: it makes no sense."""
    command = request.get("command")
    if command == "status":
        return lambda: status_of(supervisor)
    if command == "board":
        return lambda: {"ok": True, DESCRIPTOR: supervisor.board.reading_fd}
    if command == "reload":
        return _reload(supervisor, request.get("canary"), request.get("canary_s"))
    if command == "upgrade":
        return _upgrade(supervisor)
    if command == "scale":
        return _scale(supervisor, request.get("workers"))
    if command == "resume":
        reason = supervisor.resume()
        return lambda: refused(reason) if reason else {"ok": True}
    if command == "drain":
        supervisor.drain()
    elif command == "stop":
        supervisor.stop(at_once=bool(request.get("at_once")), why="control socket")
    else:
        raise ValueError(f"there is no command {command!r}")
    return lambda: {"ok": True}


def _reload(supervisor: Supervisor, canary: object, canary_s: object) -> Outcome:
    reason = supervisor.reload(*order_of(canary, canary_s))
    reloading = supervisor.renewal.reloading
    if reason or reloading is None:
        return lambda: refused(reason)
    return reloading.outcome


def _upgrade(supervisor: Supervisor) -> Outcome:
    reason = supervisor.upgrade()
    after = supervisor.succession.after
    if reason or after is None:
        return lambda: refused(reason)
    return after.outcome


def _scale(supervisor: Supervisor, workers: object) -> Outcome:
    if not isinstance(workers, int):
        raise ValueError(f"{workers!r} is no number of workers")
    reason = supervisor.scale(workers)
    if reason:
        raise ValueError(reason)

    def outcome() -> Answer | None:
        if supervisor.wanted != workers or supervisor.stop_by_s is not None:
            return refused("another order came")
        slots = supervisor.slots
        done = len(slots) == workers and all(slot.serves() for slot in slots)
        return {"ok": True} if done else None

    return outcome
