"""What a worker was doing when it ended or hung, for the log: the last requests of its ring.

All that a stranger sent is shown as printable ASCII, with the rest escaped: nothing in it can end
a line. A listing has LINES lines of each kind at most, and there are LISTINGS in PER_S seconds at
most; behind those, one line must do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from fastserve.readings import NO_ROUTE, RequestRecord
from fastserve.shm import SharedBoard

LINES = 20
LISTINGS, PER_S = 6, 60.0

_UNPRINTABLE = re.compile(r"[^ -~]")


class Recorder:
    """Reads the rings of a board, and bounds how much of them goes to the log."""

    def __init__(self, board: SharedBoard) -> None:
        self._board = board
        self._listed_s: list[float] = []

    def account(self, block: int) -> str:
        """What its worker was doing: lines, each behind a line feed; or nothing."""
        records = self._board.requests(block)
        lines = [f"its loop was in {asked(record)}" for record in records if record.holds_loop]
        if records and self._may_list():
            lines += under_way(records) + the_last(records)
        return "".join(f"\n  {line}" for line in lines)

    def _may_list(self) -> bool:
        now_s = time.monotonic()
        self._listed_s = [then_s for then_s in self._listed_s if now_s < then_s + PER_S]
        if len(self._listed_s) >= LISTINGS:
            return False
        self._listed_s.append(now_s)
        return True


def under_way(records: Sequence[RequestRecord]) -> list[str]:
    """The requests that had not been answered, the oldest first."""
    found = [record for record in records if record.under_way]
    lines = [f"requests under way: {len(found)}"]
    lines += [f"  {asked(record)}" for record in found[:LINES]]
    if len(found) > LINES:
        lines.append(f"  and {len(found) - LINES} more")
    return lines


def the_last(records: Sequence[RequestRecord]) -> list[str]:
    """The requests that had been answered, the last one first."""
    found = sorted(
        (record for record in records if not record.under_way),
        key=lambda record: record.age_s - record.duration_s)
    lines = ["the last that were answered:"] if found else []
    return lines + [f"  {answered(record)}" for record in found[:LINES]]


def asked(record: RequestRecord) -> str:
    """A request under way, on one line."""
    text = f"{_request(record)}, for {_span(record.age_s)}"
    return text if record.handler_s is None else \
        f"{text}, {record.status} begun after {_span(record.wait_s + record.handler_s)}"


def answered(record: RequestRecord) -> str:
    """A request that has ended, on one line, with its phases."""
    return (f"{_span(record.age_s - record.duration_s)} before: {_request(record)}, "
            f"{record.status} after {_span(record.wait_s + (record.handler_s or 0))}, sent in "
            f"{_span(record.send_s or 0)}, {record.body_bytes:,} bytes")


def _request(record: RequestRecord) -> str:
    parts = [shown(record.line) or "what was no request"]
    if (record.method, record.route) != NO_ROUTE:
        parts.append(f"route {shown(record.route)}")
    if record.id:
        parts.append(f"id {shown(record.id)}")
    if record.client:
        parts.append(f"from {shown(record.client)}")
    return ", ".join(parts)


def shown(text: str) -> str:
    """What a stranger sent, as printable ASCII on one line."""
    return _UNPRINTABLE.sub(lambda match: ascii(match.group())[1:-1], text)


def _span(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1000:,.1f} ms"
