"""The page of the fortunes: one template for every entry, compiled once, everything escaped."""

from operator import itemgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from worlds import EXTRA

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True)
_page = _templates.get_template("fortunes.html")
_by_message = itemgetter(1)


def page(rows: list[Any]) -> str:
    """The rows (id, message) with the one that is added for each request, sorted by message."""
    rows.append(EXTRA)
    rows.sort(key=_by_message)
    return _page.render(fortunes=rows)
