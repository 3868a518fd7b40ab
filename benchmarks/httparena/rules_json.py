"""Rules of json, json-comp and json-tls: items with a total that depends on what was asked."""

import json as standard
import ssl
from typing import Any

from benchmarks.httparena.report import Report, dice
from benchmarks.httparena.wire import ENCRYPTED, PLAIN, Connection, NoAnswer, ask, request

NAMES = {"id", "name", "category", "price", "quantity", "active", "tags", "rating", "total"}
BOTH = {"Accept-Encoding": "gzip, br"}


def totals_are_computed(report: Report) -> None:
    """For known numbers and others; the same path with another factor has other totals."""
    count = dice.randint(2, 50)
    for pair in ((12, 3), (22, 7), (31, 2), (50, 5), (count, 3), (count, dice.randint(4, 99))):
        _items(report, *pair)


def compressed_when_asked(report: Report) -> None:
    """With gzip or br, whole and right, for each client as it asks."""
    for pair in ((25, 3), (40, 7), (50, 2), (dice.randint(20, 50), dice.randint(8, 99))):
        coding = _items(report, *pair, headers=BOTH)
        report.check(coding in ("gzip", "br"), f"GET /json/{pair[0]}?m={pair[1]}",
                     f"Content-Encoding: expected gzip or br, found {coding!r}")
    for coding in ("gzip", "br"):
        found = _items(report, 50, 4, headers={"Accept-Encoding": coding})
        report.check(found in (coding, ""), "GET /json/50?m=4",
                     f"Accept-Encoding: {coding} was answered with {found!r}")


def plain_when_not_asked(report: Report) -> None:
    """No client gets a coding that it did not name."""
    for headers in ({}, {"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip;q=0, br;q=0"}):
        coding = _items(report, 50, 1, headers=headers)
        report.same(coding, "", "GET /json/50?m=1",
                    f"Content-Encoding for {headers.get('Accept-Encoding')!r}")


def tls_speaks_http_1(report: Report) -> None:
    """ALPN chooses http/1.1 beside h2, and a modern TLS; plain HTTP is not spoken there."""
    with Connection(report.target, ENCRYPTED, ("h2", "http/1.1")) as connection:
        assert isinstance(connection.socket, ssl.SSLSocket)
        report.check(connection.socket.selected_alpn_protocol() == "http/1.1", "ALPN",
                     f"expected http/1.1, found {connection.socket.selected_alpn_protocol()}")
        report.check(connection.socket.version() in ("TLSv1.2", "TLSv1.3"), "TLS",
                     f"found {connection.socket.version()}")
    for pair in ((7, 2), (23, 11), (50, 1), (dice.randint(1, 50), dice.randint(2, 99))):
        coding = _items(report, *pair, encrypted=ENCRYPTED)
        report.same(coding, "", f"GET /json/{pair[0]}, TLS", "Content-Encoding")


def tls_only_on_its_port(report: Report) -> None:
    """What is sent in the clear there is not answered as if it were encrypted."""
    plain = type(report.target)(report.target.tls_port, report.target.tls_port)
    try:
        status = ask(plain, request("/json/1?m=1")).status
    except NoAnswer:
        return
    report.check(status >= 400, "plain HTTP on the port of TLS", f"answered with {status}")


def _items(
    report: Report, count: int, factor: int, *,
    headers: dict[str, str] | None = None, encrypted: bool = PLAIN,
) -> str:
    """Check one answer; its coding."""
    what = f"GET /json/{count}?m={factor}"
    answer = ask(report.target, request(f"/json/{count}?m={factor}", headers=headers), encrypted)
    value = report.as_json(answer, what)
    items = value.get("items")
    if not report.check(isinstance(items, list), what, "no list of items"):
        return answer.coding
    report.same((value.get("count"), len(items)), (count, count), what, "count and items")
    wrong = [item for item in items if not _is_right(item, factor)]
    report.check(not wrong, what, f"wrong items, the first: {wrong[:1]}")
    if report.target.data is not None:
        known = standard.loads((report.target.data / "dataset.json").read_bytes())[:count]
        bare = [{name: item[name] for name in item if name != "total"} for item in items]
        report.check(bare == known, what, "they are not the first items of dataset.json")
    return answer.coding


def _is_right(item: Any, factor: int) -> bool:
    return (
        isinstance(item, dict) and set(item) >= NAMES
        and type(item["total"]) is int
        and item["total"] == item["price"] * item["quantity"] * factor
        and isinstance(item["tags"], list) and isinstance(item["rating"], dict)
    )


json = (totals_are_computed,)
json_comp = (compressed_when_asked, plain_when_not_asked)
json_tls = (tls_speaks_http_1, tls_only_on_its_port)
