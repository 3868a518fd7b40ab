"""Rules of async-db and crud: a range of items, and items that are read, made and changed."""

import json
import time
from typing import Any
from urllib.parse import urlencode

from benchmarks.httparena.report import Report, dice
from benchmarks.httparena.wire import Answer, ask, request

KINDS = {"id": int, "name": str, "category": str, "price": int, "quantity": int, "active": bool,
         "tags": list, "rating": dict}
KEPT_S = 0.2        # how long an item may be kept
ATTEMPTS = 5        # at what must happen within that time
NEW, MISSING = 200_001, 999_999


def ranges_are_what_was_asked_for(report: Report) -> None:
    """As many as the limit says, all within the prices."""
    other = dice.randint(1, 200)
    for least, most, limit in (
            (5, 80, 7), (20, 150, 18), (100, 400, 33), (10, 50, 50),
            (other, other + 250, dice.randint(1, 50))):
        _range(report, {"min": least, "max": most, "limit": limit}, least, most, limit)


def ranges_have_defaults_and_bounds(report: Report) -> None:
    """10 to 50, at most 50 items; a limit is moved to the nearest that may be."""
    _range(report, {}, 10, 50, 50)
    _range(report, {"min": 1, "max": 500, "limit": 500}, 1, 500, 50)
    _range(report, {"min": 1, "max": 500, "limit": 0}, 1, 500, 1)


def a_range_may_be_empty(report: Report) -> None:
    """Nothing costs that much."""
    _range(report, {"min": 9999, "max": 9999, "limit": 50}, 9999, 9999, 0)


def pages_are_of_one_category(report: Report) -> None:
    """As long as asked for, one behind the other, at most 50 items."""
    pages = []
    for number in (1, 2):
        what = f"/crud/items?category=electronics&page={number}&limit=5"
        value = report.as_json(ask(report.target, request(what)), f"GET {what}")
        items = value.get("items") or []
        report.same((len(items), value.get("total"), value.get("page"), value.get("limit")),
                    (5, 5, number, 5), f"GET {what}", "items, total, page, limit")
        report.check(all(_is_item(item) and item["category"] == "electronics" for item in items),
                     f"GET {what}", "not all are items of the category")
        pages.append([item.get("id") for item in items])
    report.check(pages[0] + pages[1] == sorted({*pages[0], *pages[1]}), "GET /crud/items",
                 f"the pages are not in the order of ids: {pages}")
    what = "/crud/items?category=office&limit=1000"
    value = report.as_json(ask(report.target, request(what)), f"GET {what}")
    report.same(len(value.get("items") or []), 50, f"GET {what}", "items")


def items_are_read_through_a_cache(report: Report) -> None:
    """MISS, then HIT with the same content, and MISS again when its time is over."""
    known = report.as_json(ask(report.target, request("/crud/items/1")), "GET /crud/items/1")
    report.check(_is_item(known) and known["id"] == 1, "GET /crud/items/1", "not that item")
    seen = []
    for id in (42, *dice.sample(range(2, 1000), ATTEMPTS - 1)):
        first = _item(report, id)
        kept = time.monotonic()
        second = _item(report, id)
        seen = [_cached(first), _cached(second)]
        if seen == ["MISS", "HIT"]:
            report.check(json.loads(first.body) == json.loads(second.body),
                         f"GET /crud/items/{id}", "another item on a HIT")
            time.sleep(max(0.0, kept + KEPT_S * 1.5 - time.monotonic()))
            report.same(_cached(_item(report, id)), "MISS", f"GET /crud/items/{id}",
                        "X-Cache when the 200 ms are over")
            return
    report.fail("GET /crud/items/{id}", f"X-Cache: expected MISS, then HIT; found {seen}")


def what_is_not_there_is_a_404(report: Report) -> None:
    """To be read and to be changed."""
    body = json.dumps({"name": "x", "price": 1, "quantity": 1}).encode()
    path = f"/crud/items/{MISSING}"
    report.same(ask(report.target, request(path)).status, 404, f"GET {path}", "status")
    report.same(ask(report.target, request(path, body, "PUT")).status, 404, f"PUT {path}", "status")


def items_are_made_and_changed(report: Report) -> None:
    """A 201, and another one that replaces it; what was kept is forgotten with each change."""
    for name in ("Made", "Made again"):
        price = dice.randint(1, 400)
        made = {"id": NEW, "name": name, "category": "test", "price": price, "quantity": 7}
        answer = ask(report.target, request("/crud/items", json.dumps(made).encode()))
        report.same(answer.status, 201, "POST /crud/items", "status")
        time.sleep(KEPT_S * 1.5)    # only a PUT must have it forgotten
        _shows(report, made, "POST")
    for price in dice.sample(range(1, 400), 3):
        changed = {"name": f"Changed {price}", "price": price, "quantity": price + 1}
        _item(report, NEW)      # now it is kept
        path = f"/crud/items/{NEW}"
        answer = ask(report.target, request(path, json.dumps(changed).encode(), "PUT"))
        value = report.as_json(answer, f"PUT {path}")
        report.check(changed.items() <= value.items(), f"PUT {path}", f"answered with {value}")
        _shows(report, changed, "PUT")


def _shows(report: Report, expected: dict[str, Any], behind: str) -> None:
    what = f"GET /crud/items/{NEW} behind {behind}"
    answer = _item(report, NEW)
    value = report.as_json(answer, what)
    report.check(_is_item(value) and expected.items() <= value.items(), what,
                 f"expected {expected}, found {value}")
    report.same(_cached(answer), "MISS", what, "X-Cache")


def _range(report: Report, query: dict[str, int], least: int, most: int, count: int) -> None:
    path = f"/async-db?{urlencode(query)}" if query else "/async-db"
    value = report.as_json(ask(report.target, request(path)), f"GET {path}")
    items = value.get("items")
    if not isinstance(items, list):
        report.fail(f"GET {path}", "no list of items")
        return
    report.same((value.get("count"), len(items)), (count, count), f"GET {path}", "count and items")
    wrong = [item for item in items if not _is_item(item) or not least <= item["price"] <= most]
    report.check(not wrong, f"GET {path}", f"wrong items, the first: {wrong[:1]}")


def _is_item(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and all(type(item.get(name)) is kind for name, kind in KINDS.items())
        and all(type(item["rating"].get(name)) is int for name in ("score", "count"))
    )


def _item(report: Report, id: int) -> Answer:
    return ask(report.target, request(f"/crud/items/{id}"))


def _cached(answer: Answer) -> str:
    return answer.headers.get("x-cache", "")


async_db = (ranges_are_what_was_asked_for, ranges_have_defaults_and_bounds, a_range_may_be_empty)
crud = (pages_are_of_one_category, items_are_read_through_a_cache, what_is_not_there_is_a_404,
        items_are_made_and_changed)
