"""Our entries pass the suite's verification on a real PostgreSQL, and wrong servers do not."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from server_process import ServerProcess, interrupt_without_database, serve_in_process, wait_for
from wrong_suite import PAGE, Handler, Reply, as_json, clamped, rows, serving

from fastserve.testing import TestClient

pytest.importorskip("asyncpg")
psycopg = pytest.importorskip("psycopg")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.techempower import cli, database, serve, verify, worlds  # noqa: E402
from benchmarks.techempower.verify import ALL, Problem  # noqa: E402

FOLDER = ROOT / "benchmarks" / "techempower"
ENTRIES = ("app.py", "app_pipelined.py", "app_orm.py")
AT_ONCE = 8
STOP_S = 60


@contextmanager
def entry(app: str, directory: Path, url: str) -> Iterator[ServerProcess]:
    """One of our entries as a server of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        with serve_in_process(directory, target=str(FOLDER / app)) as server:
            yield server


@pytest.mark.parametrize("app", ENTRIES)
def test_our_entries_break_no_rule(app: str, tmp_path: Path, postgres_url: str) -> None:
    """Neither failure nor warning: headers, bodies, clamping, escaping, counts in the database."""
    with entry(app, tmp_path, postgres_url) as server:
        assert verify.verify(server.port, database_url=postgres_url, concurrency=AT_ONCE) == []


@pytest.mark.parametrize("app", ENTRIES)
def test_updates_that_meet_do_not_lock_each_other(
    app: str, tmp_path: Path, postgres_url: str
) -> None:
    """Requests for few and for all rows at once are all answered, and nothing is deadlocked."""
    def ask(count: int) -> int:
        answer = urlopen(f"{server.url}/updates?queries={count}", timeout=60)
        return len(json.load(answer))

    counts = [1, 20, 500, 100] * 8 if app != "app_orm.py" else [1, 20, 50, 10] * 4
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        before = connection.execute(deadlocks).fetchone()
        with entry(app, tmp_path, postgres_url) as server, ThreadPoolExecutor(16) as clients:
            assert list(clients.map(ask, counts)) == counts
        assert connection.execute(deadlocks).fetchone() == before


def test_the_orm_writes_rows_that_keep_their_number(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that draws the number it has is written like any other: the suite counts it."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    flat = ("app_orm", "fortunes", "worlds")
    for name in flat:
        monkeypatch.delitem(sys.modules, name, raising=False)
    app_orm = importlib.import_module("app_orm")
    base = database.Database(postgres_url)
    try:
        numbers = base.worlds()
        monkeypatch.setattr(app_orm.worlds, "some_ids", lambda count: [4, 5, 6])
        monkeypatch.setattr(app_orm.worlds, "some_numbers", lambda count: [
            numbers[id] for id in (4, 5, 6)])
        before = base.counts("world")
        with TestClient(app_orm.app) as client:
            assert len(client.get("/updates?queries=3").json()) == 3
        assert (base.counts("world") - before).updated == 3
    finally:
        base.close()
        for name in flat:
            sys.modules.pop(name, None)


def test_the_bulk_update_walks_through_its_arrays(postgres_url: str) -> None:
    """The plan finds each row by its key in the order given, for 500 rows as for one."""
    ids = worlds.some_ids(500)
    with psycopg.connect(worlds.generic(postgres_url)) as connection:
        connection.execute(f"PREPARE renew (int[], int[]) AS {worlds.UPDATE}")
        plan = "\n".join(row[0] for row in connection.execute(
            f"EXPLAIN EXECUTE renew (ARRAY{ids}, ARRAY{ids})"))
    assert re.search(r"Nested Loop.*\n.*Function Scan on fresh.*\n.*Index Scan .* on world", plan)


@pytest.mark.parametrize(("text", "expected"), [
    (None, 1), ("", 1), ("foo", 1), ("0", 1), ("-3", 1), ("1", 1), ("20", 20), ("500", 500),
    ("501", 500), ("9" * 30, 500), ("2.5", 1), (" 7 ", 7),
])
def test_a_count_is_between_1_and_500(text: str | None, expected: int) -> None:
    """What is missing, no integer or less than one is one, and more than 500 is 500."""
    assert worlds.count_of(text) == expected


def test_drawn_rows_are_distinct_in_order_and_anywhere() -> None:
    """Ids ascend from 1 to 10,000 without a repetition; numbers are distinct, too."""
    for count in (1, 20, 500):
        ids, numbers = worlds.some_ids(count), worlds.some_numbers(count)
        assert ids == sorted(set(ids))
        assert len(set(numbers)) == len(ids) == count
        assert min(ids + numbers) >= 1
        assert max(ids + numbers) <= 10_000
    drawn = {worlds.some_id() for _ in range(200_000)}
    assert (min(drawn), max(drawn)) == (1, 10_000)


def found(problems: list[Problem]) -> list[str]:
    """Each problem in a line."""
    return [str(problem) for problem in problems]


def test_a_right_server_has_no_problem() -> None:
    """The server that the wrong ones are made from passes, whatever its page looks like."""
    with serving() as port:
        assert found(verify.verify(port)) == []


PLAIN = "text/plain"
HTML = "text/html; charset=utf-8"
GREETING: dict[str, Any] = {"message": "Hello, World!"}


def html(page: bytes) -> Handler:
    return lambda _: Reply(page, HTML)


WRONG: list[tuple[str, Handler, str]] = [
    # the headers
    ("plaintext", lambda _: Reply(b"Hello, World!", PLAIN, headers={"Server": None}),
     "fail: plaintext: /plaintext: header Server is missing"),
    ("plaintext", lambda _: Reply(b"Hello, World!", PLAIN, headers={"Date": None}),
     "fail: plaintext: /plaintext: header Date is missing"),
    ("plaintext", lambda _: Reply(b"Hello, World!", None),
     "fail: plaintext: /plaintext: header Content-Type is missing"),
    ("plaintext", lambda _: Reply(b"Hello, World!", PLAIN, headers={"Content-Length": None}),
     "fail: plaintext: /plaintext: neither Content-Length nor Transfer-Encoding"),
    ("plaintext", lambda _: Reply(b"Hello, World!", PLAIN, headers={"Date": "yesterday"}),
     "warn: plaintext: /plaintext: Date 'yesterday' is not of the form"),
    ("json", lambda _: as_json(GREETING, headers={"Content-Encoding": "gzip"}),
     "fail: json: /json: Content-Encoding 'gzip': compression is not permitted"),
    ("plaintext", lambda _: Reply(b"Hello, World!", "text/html"),
     "fail: plaintext: /plaintext: Content-Type 'text/html'"),
    ("json", lambda _: as_json(GREETING, content_type="application/json; v=1"),
     "fail: json: /json: Content-Type 'application/json; v=1'"),
    ("fortunes", lambda _: Reply(PAGE, "text/html"),
     "fail: fortunes: /fortunes: Content-Type 'text/html'"),
    ("json", lambda _: as_json(GREETING, status=203), "fail: json: /json: status 203"),
    ("json", lambda _: Reply(b""), "fail: json: /json: empty response"),
    # plaintext and JSON
    ("plaintext", lambda _: Reply(b"Hello", PLAIN), "fail: plaintext: /plaintext: b'Hello'"),
    ("plaintext", lambda _: Reply(b"Hello, World!\n", PLAIN), "warn: plaintext: /plaintext: b'H"),
    ("json", lambda _: Reply(b"{'message'}"), "fail: json: /json: invalid JSON"),
    ("json", lambda _: as_json(None), "fail: json: /json: None, expected an object"),
    ("queries", lambda _: as_json(None), "fail: queries: /queries?queries=2: the JSON is no array"),
    ("json", lambda _: as_json([GREETING]), "fail: json: /json: [{'message'"),
    ("json", lambda _: as_json({"message": "Hello"}), "fail: json: /json: message 'Hello'"),
    ("json", lambda _: as_json({**GREETING, "id": 1}), "warn: json: /json: {'message'"),
    ("json", lambda _: as_json({"Message": "Hello, World!"}), "warn: json: /json: {'Message'"),
    # rows
    ("db", lambda _: as_json(rows(1)), "warn: db: /db: an array, expected an object"),
    ("db", lambda _: as_json([7]), "fail: db: /db: 7, expected an object"),
    ("db", lambda _: as_json({"id": 1}), "fail: db: /db: key 'randomNumber' is missing"),
    ("db", lambda _: as_json({"id": "1", "randomNumber": 1}), "fail: db: /db: id is '1'"),
    ("db", lambda _: as_json({"id": True, "randomNumber": 1}), "fail: db: /db: id is True"),
    ("db", lambda _: as_json({"id": 10_001, "randomNumber": 1}), "warn: db: /db: id is 10001"),
    ("db", lambda _: as_json({"id": 1, "randomNumber": 0}), "warn: db: /db: randomNumber is 0"),
    ("db", lambda _: as_json({"id": 1, "randomNumber": 1, "x": 1}), "warn: db: /db: keys too many"),
    ("db", lambda _: as_json({"id": 1, "randomnumber": 1}), "warn: db: /db: keys id, randomnumber"),
    # lists of them
    ("queries", lambda query: as_json(rows(min(max(int(query["queries"]), 1), 500))),
     "fail: queries: /queries?queries=foo: no response"),
    ("queries", lambda query: as_json(rows(clamped(query["queries"]))),
     "warn: queries: /queries: no response"),
    ("queries", lambda query: as_json(rows(0 if query.get("queries") == "0" else 2)),
     "fail: queries: /queries?queries=0: an array of 0, expected 1"),
    ("queries", lambda query: as_json(rows(501 if query.get("queries") == "501" else 2)),
     "warn: queries: /queries?queries=501: an array of 501, expected 500"),
    ("queries", lambda _: as_json(rows(1)[0]),
     "fail: queries: /queries?queries=2: the JSON is no array"),
    ("queries", lambda _: as_json(list(range(500))),
     "fail: queries: /queries?queries=2: 4, expected an object"),
    ("cached-queries", lambda query: as_json(rows(1)),
     "fail: cached-queries: /cached-queries?count=2: an array of 1, expected 2"),
    ("updates", lambda query: as_json(rows(1)),
     "fail: updates: /updates?queries=2: an array of 1, expected 2"),
    # the page
    ("fortunes", html(PAGE.replace(b"&lt;", b"<").replace(b"&gt;", b">")),
     "page is </td>, expected '<script>alert"),
    ("fortunes", html(PAGE.replace(b"&lt;", b"&amp;lt;")), "page is '&lt;script"),
    ("fortunes", html(re.sub(rb"<tr><td>0<.*?</tr>", b"", PAGE)), "page is '3', expected '0'"),
    ("fortunes", html(re.sub(rb"(?s)(<tr><td>11<.*?</tr>)(.*)(</table>)", rb"\2\1\3", PAGE)),
     "page is '4', expected '11'"),
    ("fortunes", html(PAGE.replace(b"</table>", b"</table><p>more</p>")), "expected </body>"),
    ("fortunes", html(PAGE.replace(b"</html>", b"")), "parts (tags and texts) of the page"),
    ("fortunes", html(PAGE.replace(b"<!DOCTYPE html>", b"")), "expected <!doctype html>"),
    ("fortunes", html(PAGE.decode().encode("shift-jis")), "fail: fortunes: /fortunes: no UTF-8"),
]


@pytest.mark.parametrize(("test", "wrong", "expected"), WRONG, ids=[
    f"{test}-{number}" for number, (test, _, _) in enumerate(WRONG)])
def test_every_rule_finds_the_server_that_breaks_it(
    test: str, wrong: Handler, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thing is wrong with the answer, and the verification says which."""
    monkeypatch.setattr(verify, "DATE_S", 0.1)
    with serving(**{test.replace("-", "_"): wrong}) as port:
        problems = found(verify.verify(port, [test]))
    assert any(expected in problem for problem in problems), problems


def test_a_date_that_stands_still_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same Date for as long as the suite waits fails, for each path."""
    monkeypatch.setattr(verify, "DATE_S", 0.5)
    stale = {"Date": "Wed, 17 Apr 2013 12:00:00 GMT"}
    with serving(json=lambda _: as_json(GREETING, headers=stale)) as port:
        problems = found(verify.verify(port, ["json", "plaintext"]))
    assert problems == ["fail: json: /json: Date 'Wed, 17 Apr 2013 12:00:00 GMT' did not change"
                        " within 0.5 s"]


def test_nobody_there_is_a_failure_of_each_test() -> None:
    """A port on which nothing listens fails every test and raises nothing."""
    with serving() as port:
        pass
    problems = verify.verify(port)
    assert {problem.test for problem in problems} == set(ALL)
    assert all(problem.reason.startswith("no response") for problem in problems)


def asking(url: str, *statements: tuple[str, Callable[[dict[str, str]], tuple[Any, ...]]]) -> Any:
    """A handler's part that sends statements to the database."""
    def ask(query: dict[str, str]) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for text, values in statements:
                connection.execute(text, values(query))
    return ask


def listed(url: str, ask: Callable[[Any, list[int], list[int]], None]) -> Handler:
    """A handler of /queries or /updates that does `ask(connection, ids, numbers)`."""
    def handle(query: dict[str, str]) -> Reply:
        count = clamped(query.get("queries"))
        ids, numbers = worlds.some_ids(count), worlds.some_numbers(count)
        with psycopg.connect(url, autocommit=True) as connection:
            ask(connection, ids, numbers)
        return as_json([{"id": id, "randomNumber": number}
                        for id, number in zip(ids, numbers, strict=True)])
    return handle


def one_by_one(connection: Any, ids: list[int], numbers: list[int]) -> None:
    for id in ids:
        connection.execute("SELECT id, randomnumber FROM world WHERE id = %s", [id])


def together(connection: Any, ids: list[int], numbers: list[int]) -> None:
    connection.execute("SELECT id, randomnumber FROM world WHERE id = ANY(%s)", [ids])


def write(connection: Any, ids: list[int], numbers: list[int]) -> None:
    with connection.transaction():
        for id, number in zip(ids, numbers, strict=True):
            connection.execute("UPDATE world SET randomnumber = %s WHERE id = %s", [number, id])


def read_and_write(connection: Any, ids: list[int], numbers: list[int]) -> None:
    one_by_one(connection, ids, numbers)
    write(connection, ids, numbers)


def read_and_write_half(connection: Any, ids: list[int], numbers: list[int]) -> None:
    one_by_one(connection, ids, numbers)
    write(connection, ids[::2], numbers[::2])


def twice(connection: Any, ids: list[int], numbers: list[int]) -> None:
    one_by_one(connection, ids, numbers)
    one_by_one(connection, ids, numbers)


def nothing(connection: Any, ids: list[int], numbers: list[int]) -> None:
    pass


COUNTED: list[tuple[str, Callable[[Any, list[int], list[int]], None], list[str]]] = [
    ("queries", one_by_one, []),
    ("queries", nothing, ["only 0 queries", "only 0 rows read"]),
    ("queries", together, ["only 4 queries"]),
    ("queries", twice, ["warn: queries: /queries?queries=20: 160 queries", "160 rows read"]),
    ("updates", read_and_write, []),
    ("updates", one_by_one, ["0 rows changed, expected about 500", "only 0 rows updated"]),
    ("updates", write, ["only 80 queries", "only 0 rows read"]),
    ("updates", read_and_write_half, ["250 rows changed", "only 40 rows updated"]),
]


def matches(problems: list[str], expected: list[str]) -> bool:
    """Whether every expected piece is in a problem, and where none is, there are none."""
    inside = all(any(part in problem for problem in problems) for part in expected)
    return inside and bool(problems) == bool(expected)


@pytest.mark.parametrize(("test", "ask", "expected"), COUNTED, ids=[
    f"{test}-{ask.__name__}" for test, ask, _ in COUNTED])
def test_what_reaches_the_database_is_counted(
    test: str, ask: Callable[[Any, list[int], list[int]], None], expected: list[str],
    postgres_url: str,
) -> None:
    """Rows of a cache, rows read together, and rows not written are found."""
    with serving(**{test: listed(postgres_url, ask)}) as port:
        problems = found(
            verify.verify(port, [test], postgres_url, concurrency=4))
    # Of the rows that are written some get the number they had, and other requests wrote, too.
    problems = [re.sub(r"\b2\d\d rows changed", "250 rows changed", line) for line in problems]
    assert matches(problems, expected), problems


def test_the_single_query_and_the_fortunes_are_counted_too(postgres_url: str) -> None:
    """Answers that no query was made for fail."""
    with serving() as port:
        problems = found(verify.verify(port, ["db", "fortunes"], postgres_url, concurrency=4))
    assert matches(problems, ["db: /db: only 0 queries", "fortunes: /fortunes: only 0 rows read"])


def test_requests_that_fail_under_load_are_found(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers 503 to some of the requests at once fails; one that is slow, too."""
    number = itertools.count()

    def sometimes(query: dict[str, str]) -> Reply:
        right = listed(postgres_url, one_by_one)(query)
        busy = query.get("queries") == "20" and next(number) % 2
        return Reply(b"", status=503) if busy else right

    with serving(queries=sometimes) as port:
        problems = found(verify.verify(port, ["queries"], postgres_url, concurrency=4))
        assert matches(problems, ["2 of 4 requests at once failed"]), problems
    monkeypatch.setattr(verify, "LOAD_S", 0.0)
    with serving(queries=listed(postgres_url, one_by_one)) as port:
        problems = found(verify.verify(port, ["queries"], postgres_url, concurrency=4))
        assert matches(problems, ["4 requests at once took"]), problems


def wait_for_counts(postgres_url: str) -> None:
    """Until every other connection has ended, and handed in what it counted."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        deadline = time.monotonic() + 20
        while connection.execute(
                "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND pid <> pg_backend_pid()").fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_database_that_counts_no_statements_is_asked_for_its_tables(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pg_stat_statements too few queries and rows are still found."""
    monkeypatch.setattr(database, "_STATEMENTS", "SELECT 1 FROM no_such_view WHERE $1 = ''")
    with serving(queries=listed(postgres_url, one_by_one),
                 updates=listed(postgres_url, read_and_write)) as port:
        assert found(verify.verify(
            port, ["queries", "updates"], postgres_url, concurrency=4)) == []
    wait_for_counts(postgres_url)
    monkeypatch.setattr(database, "LATE_S", 0.3)
    with serving(queries=listed(postgres_url, nothing),
                 updates=listed(postgres_url, one_by_one)) as port:
        problems = found(verify.verify(
            port, ["queries", "updates"], postgres_url, concurrency=4))
    assert matches(problems, ["only 0 queries", "only 0 rows read", "only 0 rows updated"])


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False, env={**os.environ, **environment})


@contextmanager
def served(tmp_path: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """`python -m benchmarks techempower` on a free port: its process, port and log."""
    log_path = tmp_path / "techempower.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "techempower", "--port", "0", *arguments],
            cwd=ROOT, stderr=log)
    try:
        listening = wait_for(log_path, r"listening on http://127.0.0.1:(\d+) \(pid", process)
        yield process, int(listening[1]), log_path
    finally:
        process.kill()
        process.wait()


def wait_refused(port: int) -> None:
    """Until nothing listens on the port any more."""
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        try:
            urlopen(f"http://127.0.0.1:{port}/json", timeout=5).close()
        except (URLError, ConnectionError):
            return
        time.sleep(0.02)
    raise AssertionError(f"port {port} is still served")


def test_one_command_serves_the_suite_with_a_database_of_its_own(
    tmp_path: Path, postgres_url: str
) -> None:
    """It makes tables and rows, serves with workers, and ends with its database when told to."""
    with served(tmp_path, "--workers", "1") as (process, port, log_path):
        own = re.search(r"database: (\S+)", log_path.read_text())
        assert own is not None
        assert found(verify.verify(port, ["db", "fortunes", "updates"], own[1],
                                   concurrency=4)) == []
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_S) == 0, log_path.read_text()
        assert "Traceback" not in log_path.read_text()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(own[1])
        wait_refused(port)


def test_a_command_that_is_stopped_while_it_starts_leaves_nothing() -> None:
    """SIGTERM before there is a server ends it without a word, and its database with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "techempower", "--port", "0"], cwd=ROOT,
        stderr=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + STOP_S
    while not (started := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.01)
    child = Path(f"/proc/{started[0]}")
    process.terminate()     # often while it forks, when what a handler raises would be lost
    _, said = process.communicate(timeout=STOP_S)
    assert (process.returncode, said) == (128 + signal.SIGTERM, b"")
    deadline = time.monotonic() + STOP_S
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.exists()


def test_a_database_that_does_not_answer_can_be_interrupted() -> None:
    """SIGINT ends the wait for a connection at once, with the status of that signal."""
    assert interrupt_without_database("techempower") == (128 + signal.SIGINT, b"")


@pytest.mark.parametrize("flag", ["--orm", "--pipelined"])
def test_a_killed_command_leaves_no_server_behind(
    flag: str, tmp_path: Path, postgres_url: str
) -> None:
    """Its server serves by way of the entry asked for, and ends even after SIGKILL."""
    with served(tmp_path, "--database", postgres_url, flag) as (process, port, log_path):
        assert len(json.load(urlopen(f"http://127.0.0.1:{port}/queries?queries=3"))) == 3
        assert "database:" not in log_path.read_text()
        process.kill()
        process.wait()
        wait_refused(port)


def test_a_port_in_use_ends_the_command(tmp_path: Path, postgres_url: str) -> None:
    """The server says so, and its status is the command's."""
    with serving() as port:
        done = bench("techempower", "--database", postgres_url, "--port", str(port))
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "expected"), [
    (("techempower", "--database", "mysql://x"), "'mysql://x' is no URL"),
    (("techempower", "--port", "http"), "'http' is no port"),
    (("techempower", "--workers", "many"), "'many' is no number"),
    (("techempower", "--orm", "--pipelined"), "not allowed with"),
    (("verify",), "--port"),
    (("verify", "--port", "1", "--tests", "db,nosuch"), "nosuch unknown; there are: plaintext"),
    (("verify", "--port", "1", "--concurrency", "0"), "'0' is no number from 1"),
])
def test_mistakes_of_usage_are_one_line_and_status_2(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is wrong is said with its value."""
    from benchmarks import __main__ as command

    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def run_cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """The status of the command in this process, and what it said."""
    from benchmarks import __main__ as command

    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    status = command.main()
    said = capsys.readouterr()
    return status, said.out + said.err


def test_what_is_missing_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused URL (without its password), no PostgreSQL, no package of the extra."""
    from benchmarks import postgres

    refused = "postgresql://someone:secret@127.0.0.1:1/nowhere"
    status, said = run_cli(monkeypatch, capsys, "techempower", "--database", refused)
    assert (status, said.count("\n")) == (1, 1)
    assert "--database postgresql://someone:***@127.0.0.1:1/nowhere: " in said

    status, said = run_cli(monkeypatch, capsys, "verify", "--port", "1", "--database", refused)
    assert (status, said.count("\n")) == (1, 1)
    assert "postgresql://someone:***@127.0.0.1:1/nowhere: " in said

    def none(core: int | None = None) -> Any:
        raise postgres.NoPostgres("no PostgreSQL server here: apt-get install postgresql")

    monkeypatch.setattr(postgres, "Postgres", none)
    status, said = run_cli(monkeypatch, capsys, "techempower")
    assert (status, said) == (
        1, "python -m benchmarks: no PostgreSQL server here: apt-get install postgresql\n")

    monkeypatch.setitem(serve.NEEDS, "app.py", ("asyncpg", "no_such_package"))
    status, said = run_cli(monkeypatch, capsys, "techempower")
    assert (status, said) == (
        1, "python -m benchmarks: no_such_package not installed: pip install -e '.[bench]'\n")


def test_the_command_verify_says_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0 for warnings, 1 for a failure; each problem in a line, the sum in the last."""
    def greeting(body: bytes) -> Handler:
        return lambda _: Reply(body, PLAIN)

    for body, status, sums in ((b"Hello, World!", 0, "0 failures, 0 warnings"),
                               (b"Hello, World!\n", 0, "0 failures, 1 warnings"),
                               (b"Hello", 1, "1 failures, 0 warnings")):
        with serving(plaintext=greeting(body)) as port:
            got = run_cli(monkeypatch, capsys, "verify", "--port", str(port),
                          "--tests", "plaintext")
        assert got[0] == status
        assert sums in got[1].splitlines()[-1]
        assert len(got[1].splitlines()) == 2 - (sums == "0 failures, 0 warnings")
    assert tuple(ALL) == cli.TESTS


def test_a_wrong_path_is_answered_404(tmp_path: Path, postgres_url: str) -> None:
    """The entries answer what the suite asks and nothing else."""
    with (entry("app.py", tmp_path, postgres_url) as server,
          pytest.raises(HTTPError, match="404")):
        urlopen(f"{server.url}/nothing")


CONFIG = json.loads((FOLDER / "benchmark_config.json").read_text())
URLS = {
    "json_url": "/json", "plaintext_url": "/plaintext", "db_url": "/db",
    "query_url": "/queries?queries=", "cached_query_url": "/cached-queries?count=",
    "fortune_url": "/fortunes", "update_url": "/updates?queries=",
}
ALLOWED = {
    "approach": {"Realistic"}, "classification": {"Micro"}, "database": {"Postgres"},
    "language": {"Python"}, "orm": {"Raw", "Full"}, "os": {"Linux"}, "database_os": {"Linux"},
    "port": {8080}, "framework": {"fastserve"}, "webserver": {"fastserve"},
}


@pytest.mark.parametrize("name", [name for tests in CONFIG["tests"] for name in tests])
def test_the_suite_finds_what_its_files_name(name: str) -> None:
    """A Dockerfile for each test, which installs what the entry imports, and starts it."""
    [test] = [tests[name] for tests in CONFIG["tests"] if name in tests]
    assert {(key, url) for key, url in test.items() if key.endswith("_url")} <= set(URLS.items())
    for key, values in ALLOWED.items():
        assert test[key] in values, key
    title = CONFIG["framework"] + ("" if name == "default" else f"-{name}")
    dockerfile = (FOLDER / f"{title}.dockerfile").read_text()
    requirements = re.search(r"-r (\S+)", dockerfile)
    command = re.search(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert requirements is not None
    assert command is not None
    words = json.loads(command[1])
    assert words[:2] == ["fastserve", "run"]
    assert set(words[3::2]) == {"--host", "--port", "--workers"}, "flags beyond the default"
    assert words[words.index("--port") + 1] == str(test["port"])
    installed = {re.split(r"[\[=]", line)[0]
                 for line in (FOLDER / requirements[1]).read_text().split()}
    assert installed >= {"fastserve", *serve.NEEDS[words[2]]} - SHIPPED[words[2]]


# What the command needs besides, or what comes with another package.
SHIPPED = {"app.py": set(), "app_pipelined.py": {"asyncpg"}, "app_orm.py": {"greenlet"}}


def test_the_extra_brings_what_the_benches_need() -> None:
    """pip install -e ".[bench]" installs every package that an entry imports."""
    from wire_cases import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[>]", line)[0] for line in extras["optional-dependencies"]["bench"]}
    assert {name for needs in serve.NEEDS.values() for name in needs} - {"greenlet"} <= names
