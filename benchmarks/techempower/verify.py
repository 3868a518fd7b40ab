"""The suite's own verification: what a server answers, and what reached the database for it.

A Problem is a `fail` where the suite would refuse the server, a `warn` where it would complain or
where only its written rules are broken (names in the wrong case, a path without its parameter).
Bodies and headers need a port and nothing more. Whether every row was read by a query of its own
and really written is counted in the database, which nobody else may use meanwhile.
"""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException
from json import loads
from typing import Any

from benchmarks.techempower.database import Database, Uncounted
from benchmarks.techempower.page import differences
from benchmarks.techempower.worlds import MOST, ROWS

CONCURRENCY = 512   # the suite's highest level
QUERIES = 20        # rows a request asks for when the database is counted
REQUEST_S = 15.0    # for an answer
LOAD_S = 20.0       # for all answers when the database is counted
DATE_S = 3.0        # within which a Date changes
DATE_FORMAT = "%a, %d %b %Y %H:%M:%S GMT"
ACCEPT = {
    "json": "application/json,text/html;q=0.9,application/xhtml+xml;q=0.9,*/*;q=0.7",
    "html": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "plain": "text/plain,text/html;q=0.9,application/xhtml+xml;q=0.9,*/*;q=0.7",
}
TYPES = {
    "json": re.compile(r"application/json(; ?charset=(UTF|utf)-8)?"),
    "html": re.compile(r"text/html; ?charset=(UTF|utf)-8"),
    "plain": re.compile(r"text/plain(; ?charset=(UTF|utf)-8)?"),
}
NOTHING = object()  # instead of a value; JSON has a null
# What stands behind the `=`, how many rows that means, and how grave an error is. None is a path
# that ends before its parameter.
COUNTS = (("2", 2, "fail"), ("0", 1, "fail"), ("foo", 1, "fail"), ("501", MOST, "warn"),
          ("", 1, "fail"), (None, 1, "warn"))


@dataclass(frozen=True)
class Problem:
    """One rule that a server breaks.

    level:   "fail" or "warn"
    test:    one of ALL
    path:    what was asked, "/queries?queries=foo"
    reason:  what was found and what is expected
    """

    level: str
    test: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.level}: {self.test}: {self.path}: {self.reason}"


@dataclass(frozen=True)
class Answer:
    """An answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Verification:
    """One server under verification, and what was found wrong with it so far.

    port:         where it listens, on 127.0.0.1
    database:     where its queries are counted, or None
    concurrency:  connections at once when they are
    """

    def __init__(self, port: int, database: Database | None, concurrency: int) -> None:
        self.port = port
        self.database = database
        self.concurrency = concurrency
        self.problems: list[Problem] = []
        self._dates: dict[str, tuple[str, str, str]] = {}   # test: its first path, kind, Date

    def found(self, level: str, test: str, path: str, reason: str) -> None:
        """Write a problem down."""
        self.problems.append(Problem(level, test, path, reason))

    def ask(self, path: str, kind: str) -> Answer:
        """The answer to GET `path`. Raises OSError or HTTPException where there is none."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_S)
        try:
            connection.request(
                "GET", path, headers={"Accept": ACCEPT[kind], "Accept-Encoding": "gzip, deflate"})
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        finally:
            connection.close()

    def body(self, test: str, path: str, kind: str, level: str = "fail") -> bytes | None:
        """The body of the answer to `path`, whose status and headers are checked.

        None where there is none to look at.
        """
        found = partial(self.found, level, test, path)
        try:
            answer = self.ask(path, kind)
        except (OSError, HTTPException) as error:
            found(f"no response: {error or type(error).__name__}")
            return None
        if answer.status != 200:
            found(f"status {answer.status}, expected 200")
        for name in ("server", "date", "content-type"):
            if name not in answer.headers:
                found(f"header {name.title()} is missing")
        if not {"content-length", "transfer-encoding"} & set(answer.headers):
            found("neither Content-Length nor Transfer-Encoding")
        if "content-encoding" in answer.headers:
            found(f"Content-Encoding {answer.headers['content-encoding']!r}: compression is"
                  " not permitted")
        content_type = answer.headers.get("content-type")
        if content_type is not None and not TYPES[kind].fullmatch(content_type):
            found(f"Content-Type {content_type!r}, expected {TYPES[kind].pattern!r}")
        if "date" in answer.headers:
            self._check_date(test, path, kind, answer.headers["date"])
        if not answer.body:
            found("empty response")
            return None
        return answer.body

    def _check_date(self, test: str, path: str, kind: str, date: str) -> None:
        self._dates.setdefault(test, (path, kind, date))
        try:
            time.strptime(date, DATE_FORMAT)
        except ValueError:
            self.found("warn", test, path, f"Date {date!r} is not of the form {DATE_FORMAT!r}")

    def check_dates_change(self) -> None:
        """Ask each test's first path again until its Date is another, for three seconds in all."""
        deadline = time.monotonic() + DATE_S
        same = dict(self._dates)
        while same and time.monotonic() < deadline:
            time.sleep(0.25)
            for test, (path, kind, date) in list(same.items()):
                try:
                    changed = self.ask(path, kind).headers.get("date") != date
                except (OSError, HTTPException):
                    continue
                if changed:
                    del same[test]
        for test, (path, _, date) in same.items():
            self.found("fail", test, path, f"Date {date!r} did not change within {DATE_S:g} s")

    def decoded(self, test: str, path: str, level: str = "fail") -> Any:
        """The JSON that answers `path`, or NOTHING where there is none."""
        body = self.body(test, path, "json", level)
        if body is None:
            return NOTHING
        try:
            return loads(body)
        except ValueError as error:
            self.found(level, test, path, f"invalid JSON: {error}")
            return NOTHING

    def check_counts(
        self, test: str, path: str, table: str, *, per_request: int, updates: bool = False
    ) -> None:
        """Ask `path` on many connections at once, and count what reaches `table` of the database.

        per_request:  rows that each request reads
        """
        if self.database is None:
            return
        expected = self.concurrency * per_request
        statements = self.concurrency * (per_request if table == "world" else 1)
        before = self.database.counts(table)
        if reason := self._load(path):
            self.found("fail", test, path, reason)
        counts = self.database.counts_since(before, table, statements, expected, updates)
        if updates:
            # One statement may write all rows of a request; or each row has its own.
            bulk = statements + self.concurrency
            together = 0.999 * bulk < counts.statements < 1.001 * bulk
            statements = bulk if together else 2 * statements
            self._compare(test, path, "rows updated", counts.updated * (1.05 if together else 1),
                          expected)
        self._compare(test, path, "queries", counts.statements, statements)
        self._compare(test, path, "rows read", counts.read, expected)

    def _compare(self, test: str, path: str, what: str, count: float, expected: int) -> None:
        where = f"reached the database for {self.concurrency} requests, expected {expected}"
        if count < expected:
            self.found("fail", test, path, f"only {count:g} {what} {where}")
        elif self.database is not None and self.database.exact and count > 1.05 * expected:
            self.found("warn", test, path, f"{count:g} {what} {where}")

    def _load(self, path: str) -> str | None:
        """Ask `path` once on each of many connections; what is wrong with the answers."""
        def fails(_: int) -> bool:
            try:
                return self.ask(path, "json").status != 200
            except (OSError, HTTPException):
                return True

        started = time.monotonic()
        with ThreadPoolExecutor(self.concurrency) as clients:
            failed = sum(clients.map(fails, range(self.concurrency)))
        took_s = time.monotonic() - started
        if failed:
            return f"{failed} of {self.concurrency} requests at once failed"
        if took_s > LOAD_S:
            return f"{self.concurrency} requests at once took {took_s:.0f} s, at most {LOAD_S:g}"
        return None


def check_plaintext(run: Verification) -> None:
    """`Hello, World!` and nothing else."""
    body = run.body("plaintext", "/plaintext", "plain")
    if body is None:
        return
    found = partial(run.found, test="plaintext", path="/plaintext")
    if b"hello, world!" not in body.lower():
        found("fail", reason=f"{body[:40]!r}, expected b'Hello, World!'")
    elif body != b"Hello, World!":
        found("warn", reason=f"{body[:40]!r} is not exactly b'Hello, World!'")


def check_json(run: Verification) -> None:
    """An object whose message greets the world, made for each request."""
    value = run.decoded("json", "/json")
    if value is NOTHING:
        return
    found = partial(run.found, test="json", path="/json")
    if not isinstance(value, dict):
        found("fail", reason=f"{value!r:.40}, expected an object")
        return
    lower = {key.lower(): value for key, value in value.items()}
    message = lower.get("message")
    if not isinstance(message, str) or message.lower() != "hello, world!":
        found("fail", reason=f"message {message!r:.40}, expected 'Hello, World!'")
    elif value != {"message": "Hello, World!"}:
        found("warn", reason=f"{value!r:.60} is not exactly {{'message': 'Hello, World!'}}")


def check_db(run: Verification) -> None:
    """One row as an object, read by one query."""
    value = run.decoded("db", "/db")
    if value is NOTHING:
        return
    count = len(run.problems)
    if isinstance(value, list) and value:
        run.found("warn", "db", "/db", "an array, expected an object")
        value = value[0]
    check_world(run, "db", "/db", value)
    if len(run.problems) == count:
        run.check_counts("db", "/db", "world", per_request=1)


def check_queries(run: Verification) -> None:
    """As many rows as asked for, within 1 to 500, each read by a query of its own."""
    check_lists(run, "queries", "/queries", "queries")
    run.check_counts(
        "queries", f"/queries?queries={QUERIES}", "world", per_request=QUERIES)


def check_cached(run: Verification) -> None:
    """As many rows as asked for, within 1 to 500; whether a cache has them is not asked."""
    check_lists(run, "cached-queries", "/cached-queries", "count")


def check_updates(run: Verification) -> None:
    """The same rows, written with new numbers before they are answered."""
    before = run.database.worlds() if run.database else {}
    check_lists(run, "updates", "/updates", "queries")
    if run.database:
        changed = sum(before[id] != number for id, number in run.database.worlds().items())
        path = f"/updates?queries={MOST + 1}"
        if changed <= 0.90 * MOST:
            run.found("fail", "updates", path, f"{changed} rows changed, expected about {MOST}")
        elif changed <= 0.95 * MOST:
            run.found("warn", "updates", path, f"{changed} rows changed, expected about {MOST}")
    run.check_counts(
        "updates", f"/updates?queries={QUERIES}", "world", per_request=QUERIES, updates=True)


def check_fortunes(run: Verification) -> None:
    """The page with all fortunes and the added one, in order and escaped."""
    body = run.body("fortunes", "/fortunes", "html")
    if body is None:
        return
    try:
        wrong = differences(body.decode())
    except UnicodeDecodeError as error:
        wrong = [f"no UTF-8: {error}"]
    for reason in wrong:
        run.found("fail", "fortunes", "/fortunes", reason)
    if not wrong:
        run.check_counts("fortunes", "/fortunes", "fortune", per_request=12)


def check_lists(run: Verification, test: str, path: str, parameter: str) -> None:
    """Check that `parameter` is brought between 1 and 500, and the rows of each answer."""
    for text, expected, level in COUNTS:
        asked = path if text is None else f"{path}?{parameter}={text}"
        value = run.decoded(test, asked, level)
        if value is NOTHING:
            continue
        if not isinstance(value, list):
            run.found(level, test, asked, "the JSON is no array")
            check_world(run, test, asked, value, level)
            continue
        if len(value) != expected:
            run.found(level, test, asked, f"an array of {len(value)}, expected {expected}")
        wrong = 0
        for item in value:
            wrong += check_world(run, test, asked, item, level)
            if wrong == 5:    # enough to know
                break


def check_world(
    run: Verification, test: str, path: str, value: Any, level: str = "fail"
) -> bool:
    """Check that `value` is a row as an object; whether anything is wrong with it."""
    count = len(run.problems)
    found = partial(run.found, test=test, path=path)
    if not isinstance(value, dict):
        found(level, reason=f"{value!r:.40}, expected an object")
        return True
    lower = {key.lower(): number for key, number in value.items()}
    for key, most in (("id", ROWS), ("randomNumber", ROWS)):
        number = lower.get(key.lower())
        if key.lower() not in lower:
            found(level, reason=f"key {key!r} is missing")
        elif not isinstance(number, int) or isinstance(number, bool):
            found(level, reason=f"{key} is {number!r:.40}, expected an integer")
        elif not 1 <= number <= most:
            found("warn", reason=f"{key} is {number}, expected 1 to {most}")
    if extra := set(lower) - {"id", "randomnumber"}:
        found("warn", reason=f"keys too many: {', '.join(sorted(extra))}")
    elif len(run.problems) == count and set(value) != {"id", "randomNumber"}:
        found("warn", reason=f"keys {', '.join(value)}, expected id, randomNumber in this case")
    return len(run.problems) > count


CHECKS: dict[str, Callable[[Verification], None]] = {
    "plaintext": check_plaintext,
    "json": check_json,
    "db": check_db,
    "queries": check_queries,
    "cached-queries": check_cached,
    "fortunes": check_fortunes,
    "updates": check_updates,
}
ALL = tuple(CHECKS)


def verify(
    port: int,
    tests: Sequence[str] = ALL,
    database_url: str | None = None,
    *,
    concurrency: int = CONCURRENCY,
) -> list[Problem]:
    """Verify the server on `port` of 127.0.0.1; what is wrong with it, in the order found.

    tests:         which of ALL
    database_url:  postgresql://... of the database it uses; without, nothing is counted there
    concurrency:   connections at once where the database is counted; the suite's is 512

    Raises Uncounted where the database cannot be asked, and KeyError for a test that is none.
    """
    checks = [CHECKS[test] for test in tests]
    database = Database(database_url) if database_url else None
    try:
        run = Verification(port, database, concurrency)
        for check in checks:
            check(run)
        run.check_dates_change()
        return run.problems
    finally:
        if database:
            database.close()


__all__ = ["ALL", "Answer", "Problem", "Uncounted", "verify"]
