"""Whether a page of fortunes is the one that the suite expects, however it is written.

Both are read by an HTML parser, so that `&#39;`, `&apos;` and a bare apostrophe are the same, as
are letters' cases of tags, attributes, and white space between tags. `meta`, `link`, `thead`,
`tbody` and whole scripts are passed over, as the suite does.
"""

from html.parser import HTMLParser
from itertools import chain

from benchmarks.techempower.tables import FORTUNES
from benchmarks.techempower.worlds import EXTRA

PASSED_OVER = frozenset(("meta", "link", "script", "thead", "tbody"))
Event = tuple[str, str]    # what it is, and its name or text


class _Reader(HTMLParser):
    """What a page consists of, in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.events: list[Event] = []
        self._in_script = False

    def handle_decl(self, decl: str) -> None:
        self.events.append(("declaration", " ".join(decl.lower().split())))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        if tag not in PASSED_OVER:
            self.events.append(("start", tag))

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False
        if tag not in PASSED_OVER:
            self.events.append(("end", tag))

    def handle_data(self, data: str) -> None:
        if self._in_script or not data.strip():
            return
        if self.events and self.events[-1][0] == "text":
            data = self.events.pop()[1] + data
        self.events.append(("text", data))


def read(page: str) -> list[Event]:
    """The declaration, tags and texts of a page, without what does not count."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.events


def expected() -> list[Event]:
    """The page of the twelve fortunes and the added one, sorted by message."""
    def element(tag: str, *inside: list[Event]) -> list[Event]:
        return [("start", tag), *chain.from_iterable(inside), ("end", tag)]

    def text(words: object) -> list[Event]:
        return [("text", str(words))]

    rows = sorted([*enumerate(FORTUNES, 1), EXTRA], key=lambda row: row[1])
    return [
        ("declaration", "doctype html"),
        *element(
            "html",
            element("head", element("title", text("Fortunes"))),
            element("body", element(
                "table",
                element("tr", element("th", text("id")), element("th", text("message"))),
                *(element("tr", element("td", text(id)), element("td", text(message)))
                  for id, message in rows)))),
    ]


def differences(page: str) -> list[str]:
    """Where `page` leaves the expected one for the first time; empty where it does not."""
    found, wanted = read(page), expected()
    for index, (one, other) in enumerate(zip(found, wanted, strict=False)):
        if one != other:
            return [f"part {index + 1} of the page is {_shown(one)}, expected {_shown(other)}"]
    if len(found) != len(wanted):
        return [f"{len(found)} parts (tags and texts) of the page, expected {len(wanted)}"]
    return []


def _shown(event: Event) -> str:
    kind, name = event
    return {"text": repr(name), "start": f"<{name}>", "end": f"</{name}>",
            "declaration": f"<!{name}>"}[kind]
