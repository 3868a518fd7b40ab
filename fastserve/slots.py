"""The places for workers, and the processes in them, as the supervisor knows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastserve.beats import Beats
from fastserve.orders import Orders


@dataclass(eq=False)
class Child:
    """A worker process.

    cell:       of the Beats
    ready:      it has said that it serves
    stalled:    its loop does not turn; others accept for it
    dismissed:  it has been told to end
    deaf:       its end of the talk is closed, so it is about to end
    kill_at_s:  when it is killed if it has not ended, or become ready
    because:    what an end would be due to
    """

    pid: int
    slot: Slot
    orders: Orders
    cell: int
    born_s: float
    ready: bool = False
    stalled: bool = False
    dismissed: bool = False
    deaf: bool = False
    kill_at_s: float | None = None
    because: str = ""


@dataclass(eq=False)
class Slot:
    """A place for one worker, with a listener of its own for each address.

    child:        who serves, or will
    successor:    who will take over once it is ready
    cover:        the neighbour who accepts for it while nobody does
    failures:     starts that came to nothing, or to little, one after the other
    deaths:       of its workers that nobody had asked for, in all
    start_at_s:   not before then
    retiring:     it is the last one and too many
    retire_at_s:  when its workers are told so
    """

    index: int
    child: Child | None = None
    successor: Child | None = None
    cover: Child | None = None
    failures: int = 0
    start_at_s: float = 0.0
    deaths: int = 0
    retiring: bool = False
    retire_at_s: float | None = None

    def children(self) -> list[Child]:
        """Those who serve it, or will."""
        return [child for child in (self.child, self.successor) if child is not None]

    def serves(self) -> bool:
        """Whether somebody accepts from its listeners."""
        return self.child is not None and self.child.ready and not self.child.stalled

    def status(self, now_s: float, beats: Beats) -> dict[str, Any]:
        """What operators see of it."""
        child = self.child
        found: dict[str, Any] = {"slot": self.index, "deaths": self.deaths}
        if child is None:
            found["state"] = "missing"
        else:
            found["state"] = "starting" if not child.ready else \
                "stalled" if child.stalled else "serving"
            found["pid"] = child.pid
            found["age_s"] = round(now_s - child.born_s, 3)
            found["loop_turned_s_ago"] = round(beats.age_s(child.cell), 3)
        if self.successor is not None:
            found["successor"] = self.successor.pid
        if self.cover is not None:
            found["covered_by"] = self.cover.pid
        if self.retiring:
            found["state"] = "retiring"
        return found

    def forget(self, child: Child) -> None:
        """It is no longer in this place; a successor moves up."""
        if self.successor is child:
            self.successor = None
        elif self.child is child:
            self.child, self.successor = self.successor, None
