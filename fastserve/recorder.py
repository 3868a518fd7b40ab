r"""What a worker was doing when it ended or hung, for the log: the last requests of its ring.

All that a stranger sent is shown as printable ASCII, with the rest as \xNN: nothing in it can
end a line. A listing has LINES lines of each kind at most, and there are LISTINGS a minute at
most; behind those, one line must do.
"""

from __future__ import annotations

import re
import time

from fastserve._speedups.scoreboard import AT_CURRENT
from fastserve.board import Board, Record

LINES = 20
LISTINGS, PER_S = 6, 60.0

_UNPRINTABLE = re.compile(r"[^ -~]")


class Recorder:
    """Reads the rings of a board, and bounds how much of them goes to the log."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._shown_s: list[float] = []     # when listings were made

    def account(self, block: int) -> str:
        """What its worker was doing: lines, each behind a line feed; or nothing."""
        now_ns = time.monotonic_ns()
        records = self._board.records(block)
        current = self._board.word(block, AT_CURRENT)
        lines = [f"the loop was in {asked(record, now_ns)}"
                 for record in records if record.number == current]
        if records and self._may_list(now_ns / 1e9):
            lines += under_way(records, now_ns) + the_last(records, now_ns)
        return "".join(f"\n  {line}" for line in lines)

    def _may_list(self, now_s: float) -> bool:
        self._shown_s = [then for then in self._shown_s if now_s < then + PER_S]
        if len(self._shown_s) >= LISTINGS:
            return False
        self._shown_s.append(now_s)
        return True


def under_way(records: list[Record], now_ns: int) -> list[str]:
    """The requests that had not been answered, the oldest first."""
    found = [record for record in records if not record.ended_ns]
    if not found:
        return ["no requests were under way"]
    lines = [f"{len(found)} requests were under way:"]
    lines += [f"  {asked(record, now_ns)}" for record in found[:LINES]]
    if len(found) > LINES:
        lines.append(f"  and {len(found) - LINES} more")
    return lines


def the_last(records: list[Record], now_ns: int) -> list[str]:
    """The requests that had been answered, the last one first."""
    found = sorted(
        (record for record in records if record.ended_ns),
        key=lambda record: record.ended_ns, reverse=True)
    lines = ["the last that were answered:"] if found else []
    return lines + [f"  {answered(record, now_ns)}" for record in found[:LINES]]


def asked(record: Record, now_ns: int) -> str:
    """A request under way, on one line."""
    return f"{_request(record)}, for {_ms(now_ns - record.begun_ns)}" + (
        f", {record.status} begun after {_ms(record.answered_ns - record.begun_ns)}"
        if record.answered_ns else "")


def answered(record: Record, now_ns: int) -> str:
    """A request that has ended, on one line, with its phases."""
    return (f"{_ms(now_ns - record.ended_ns)} ago: {_request(record)}, {record.status} begun "
            f"after {_ms(record.answered_ns - record.begun_ns)}, ended after "
            f"{_ms(record.ended_ns - record.begun_ns)}, {record.body_bytes:,} bytes")


def _request(record: Record) -> str:
    parts = [shown(record.line) or "a request that was refused"]
    for name, value in (("route", record.route), ("id", record.id), ("from", record.client)):
        if value:
            parts.append(f"{name} {shown(value)}")
    return ", ".join(parts)


def shown(text: bytes) -> str:
    r"""What a stranger sent, as printable ASCII on one line."""
    return _UNPRINTABLE.sub(
        lambda match: f"\\x{ord(match.group()):02x}", text.decode("latin-1"))


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:,.1f} ms" if duration_ns < 1e9 else f"{duration_ns / 1e9:,.1f} s"
