"""What all entries have in common: fastserve's own statements and dice, the template, the page."""

import sys
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader

SUITE = Path(__file__).resolve().parents[2] / "techempower"
if str(SUITE) not in sys.path:  # some servers make a path of their own
    sys.path.append(str(SUITE))

import worlds  # noqa: E402 - it is found there

TEMPLATES = SUITE / "templates"
Row = dict[str, int]

by_message = itemgetter(1)
page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template(
    "fortunes.html")


def with_extra(rows: list[Any]) -> list[Any]:
    """The fortunes (pairs of id and message) with the one that is added, in their order."""
    rows.append(worlds.EXTRA)
    rows.sort(key=by_message)
    return rows


def render(rows: list[Any]) -> str:
    """The page of the fortunes as the database gave them."""
    return page.render(fortunes=with_extra(rows))


def parameter(query: str, name: str) -> str | None:
    """The value of a name in a query string, for servers that do not take it apart."""
    if "%" in query or "&" in query:
        return parse_qs(query).get(name, [None])[0]
    key, _, value = query.partition("=")
    return value if key == name else None
