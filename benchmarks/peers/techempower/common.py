"""What all entries have in common: fastserve's own statements, dice and page of the fortunes."""

import sys
from pathlib import Path
from urllib.parse import parse_qs

SUITE = Path(__file__).resolve().parents[2] / "techempower"
if str(SUITE) not in sys.path:  # some servers make a path of their own
    sys.path.append(str(SUITE))

import worlds  # noqa: E402 - both are found there
from fortunes import page  # noqa: E402

Row = dict[str, int]

__all__ = ["SUITE", "Row", "page", "parameter", "worlds"]


def parameter(query: str, name: str) -> str | None:
    """The value of a name in a query string, for servers that do not take it apart."""
    if "%" in query or "&" in query:
        return parse_qs(query).get(name, [None])[0]
    key, _, value = query.partition("=")
    return value if key == name else None
