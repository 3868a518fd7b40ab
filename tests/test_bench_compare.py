"""A comparison says what was measured: who is best, which bar is missed, what became worse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from libraries import needs_library

from benchmarks.comparison import history
from benchmarks.comparison.figures import is_usual, kind_of, ratio, rows
from benchmarks.comparison.markdown import document
from benchmarks.comparison.page import write_page
from benchmarks.comparison.run import Comparison
from benchmarks.comparison.suite import TESTS, SuiteTest
from benchmarks.comparison.turn import LONGEST, Settings, window_s
from benchmarks.comparison.verdicts import Verdict, verdicts
from benchmarks.probe import Answer, WrongAnswer
from benchmarks.servers import Server
from benchmarks.venvs import Unavailable, Venvs

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = ("fastserve", "uvicorn-careful", "uvicorn-usual", "granian-rsgi", "fastpysgi")
Costs = Mapping[str, Sequence[float]]


def paced(p99_us: float, requests: int = 2000) -> dict[str, Any]:
    phase = {"due": requests, "late": 0, "dropped": 0, "faults": 0, "rate_per_s": 500.0,
             "cpu_us": 300.0, "p50_us": p99_us / 3, "p99_us": p99_us, "p999_us": 2 * p99_us}
    return {"equal": phase, "half": phase, "most": phase}


def turn(test: str, entry: str, number: int, cpu_us: float, p99_us: float = 900) -> dict[str, Any]:
    found = {"test": test, "entry": entry, "round": number, "cpu_us": cpu_us,
             "user_us": 0.7 * cpu_us, "system_us": 0.3 * cpu_us, "rps": 1e6 / cpu_us,
             "server_busy": 0.99, "client_busy": 0.4, "database_us": 30.0, "base_bytes": 3e7,
             "peak_bytes": 4e7, "faults": 0}
    if entry != "floor" and TESTS[test].depth == 1:
        found["paced"] = paced(p99_us)
    return found


def made(costs: Mapping[str, Costs], **more: Any) -> dict[str, Any]:
    """A record: by test and entry the CPU per request of each round."""
    about = {"title": "", "note": "", "command": "-m it", "version": "1.2", "python": "3.11.7",
             "pgo": "no", "lto": "no", "shared": "yes"}
    names = dict.fromkeys(entry for by_entry in costs.values() for entry in by_entry)
    settings = Settings()
    return {
        "schema": 1, "kind": "compare", "started": "2026-01-05T10:00:00+00:00", "commit": "abc",
        "command": "python -m benchmarks compare", "database": "PostgreSQL 15",
        "machine": {"cpu": "Made & Co", "cores": 2, "kernel": "6", "virtual": "no",
                    "load_before": "0.0"},
        "settings": {**vars(settings), "rounds": 3},
        "tests": {test: {"title": TESTS[test].title, "path": TESTS[test].path,
                         "depth": TESTS[test].depth} for test in costs},
        "entries": {name: {**about, "title": name} for name in names},
        "turns": [turn(test, entry, number, cpu) for test, by_entry in costs.items()
                  for entry, values in by_entry.items() for number, cpu in enumerate(values)],
        "failures": [], **more}


def alike(*cpu_us: float) -> dict[str, Sequence[float]]:
    """The same for all."""
    return dict.fromkeys(ENTRIES, cpu_us)


def bars(record: dict[str, Any], test: str) -> dict[str, Verdict]:
    return {verdict.bar: verdict for verdict in verdicts(record) if verdict.test == test}


def test_a_ratio_is_taken_within_each_round() -> None:
    """The host is twice as slow in the second round; the ratio is not."""
    record = made({"db": {"fastserve": [50, 100, 52], "uvicorn-careful": [100, 200, 130]}})
    found = ratio(record, "db", "fastserve", "uvicorn-careful")
    assert found is not None
    assert (found.median, found.low, found.high) == (0.5, 0.4, 0.5)
    assert ratio(record, "db", "fastserve", "nobody") is None


def test_the_ratio_to_several_turns_of_the_floor_is_that_to_their_mean() -> None:
    record = made({"json": {"fastserve": [8.0], "floor": [3.0]}})
    record["turns"].append(turn("json", "floor", 0, 5.0))
    found = ratio(record, "json", "fastserve", "floor")
    assert found is not None
    assert found.values == (2.0,)


def test_the_best_is_on_top_whoever_it_is() -> None:
    record = made({"db": {"fastserve": [50, 51, 52], "granian-rsgi": [40, 41, 42]}})
    assert [row.entry for row in rows(record, "db")] == ["granian-rsgi", "fastserve"]
    text = "\n".join(document(record))
    assert text.index("| **granian-rsgi 1.2** |") < text.index("| fastserve 1.2 |")
    assert "| 0.80 (0.80-0.81) |" in text   # a peer that is cheaper is shown being it


def test_a_missed_bar_is_shown_as_missed() -> None:
    record = made({
        "db": {"fastserve": [50, 51, 52], "uvicorn-careful": [60, 61, 62],
               "uvicorn-usual": [80, 81, 82], "fastpysgi": [60, 60, 60]},
        "json": {"fastserve": [9, 9, 9], "fastpysgi": [8, 8, 8]}})
    db, json_ = bars(record, "db"), bars(record, "json")
    careful = db["CPU at most 0.85 of uvicorn's with the same careful pool"]
    assert (careful.met, careful.headline) == (True, True)
    usual = db["CPU at most 0.6 of uvicorn's as usual"]
    assert (usual.met, usual.word, usual.result) == (False, "missed", "0.63 (0.62-0.63)")
    assert db["CPU below fastpysgi's with an equal pool"].met is True
    assert db["CPU below granian's with an equal pool"].met is None
    assert json_["CPU below every peer's"].met is False
    assert "fastpysgi" in json_["CPU below every peer's"].result
    assert "| **missed** | 0.63 (0.62-0.63) |" in "\n".join(document(record))


def test_what_was_not_measured_is_not_met() -> None:
    found = verdicts(made({"db": {"fastserve": [50]}}))
    assert {verdict.met for verdict in found} == {None}


@pytest.mark.parametrize(("theirs", "met"), [
    ([700, 750, 800], False),   # even our best round is above their worst one
    ([700, 750, 950], True),    # inside the spread
    ([2000, 2000, 2000], True),
])
def test_a_latency_is_above_a_peers_only_outside_the_spread(
    theirs: list[float], met: bool
) -> None:
    record = made({"db": {"fastserve": [50, 50, 50], "granian-rsgi": [60, 60, 60]}})
    for number, p99_us in enumerate(theirs):
        record["turns"][3 + number]["paced"] = paced(p99_us)
    verdict = bars(record, "db")[
        "p99 and p99.9 at the equal rate not above any peer's"]
    assert verdict.met is met
    assert ("above granian-rsgi" in verdict.result) is not met
    assert ("inside the spread" in verdict.result) is (met and theirs[0] < 900)


def test_who_polls_is_judged_by_itself_and_shown_to_take_a_core() -> None:
    """That our polling row is as soon as theirs meets no bar for the one that sleeps."""
    record = made({"db": {
        "fastserve": [50, 50], "fastserve-polling": [50, 50], "fastpysgi": [60, 60]}})
    for turn_ in record["turns"][2:]:
        turn_["paced"] = paced(300)
        turn_["paced"]["equal"]["cpu_us"] = 2000.0
    bar = "p99 and p99.9 at the equal rate not above any peer's"
    assert bars(record, "db")[bar].met is False
    assert bars(record, "db")[f"Busy polling: {bar}"].met is True
    assert {row.entry: row.latency["equal"].busy for row in rows(record, "db")} == {
        "fastserve": 0.15, "fastserve-polling": 1.0, "fastpysgi": 1.0}
    text = "\n".join(document(record))
    assert "| 600 (600-600) | 100% |" in text
    assert "| 1,800 (1,800-1,800) | 15% |" in text


def test_p999_of_few_requests_decides_nothing() -> None:
    record = made({"db": {"fastserve": [50, 50], "granian-rsgi": [60, 60]}})
    for turn_ in record["turns"][2:]:
        turn_["paced"] = paced(900, requests=200)
    verdict = bars(record, "db")["p99 and p99.9 at the equal rate not above any peer's"]
    assert verdict.result.endswith("too few requests for p99.9")
    assert "400 requests: p99.9 is the slowest" in "\n".join(document(record))


def test_one_round_has_no_spread_to_judge_a_latency_by() -> None:
    record = made({"db": {"fastserve": [50], "granian-rsgi": [60]}})
    assert bars(record, "db")["p99 and p99.9 at the equal rate not above any peer's"].met is None


def test_a_row_says_whether_it_is_the_usual_one() -> None:
    record = made({"db": {
        name: [1] for name in ("uvicorn", "uvicorn-careful", "sanic-usual", "sanic")}})
    assert [is_usual(record, name) for name in record["entries"]] == [True, False, True, False]


class Page(HTMLParser):
    """What a page refers to and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs
                           if name in ("href", "src", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    needs_library("matplotlib")
    record = made({
        "json": {**alike(9, 8, 9), "floor": [4, 4, 4]}, "pipelined-16": alike(1)},
        failures=[{"entry": "sanic", "test": "db", "reason": "<died>"}])
    lines = [history.line_of({**record, "started": f"2026-01-0{day}T00:00:00"}) for day in (1, 2)]
    write_page(record, lines, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert "script" not in page.tags
    assert not [address for address in page.addresses if not address.startswith("#")]
    assert "url(http" not in (tmp_path / "page.html").read_text()
    assert page.tags.count("svg") == 2 + 1 + 3   # costs, latencies, a trend for each scale
    for said in ("Made & Co", "<died>", "missed", "16 requests at once", "granian-rsgi"):
        assert said in page.text


def line(day: int, ratios: Sequence[float], **more: Any) -> dict[str, Any]:
    figures = {"db": {"fastserve": {"cpu_us": 50, "to_uvicorn-careful": list(ratios)}}}
    return {"date": f"2026-01-{day:02}", "commit": "c", "machine": "m", "python": "p",
            "rounds": 3, "figures": figures, **more}


def test_a_regression_is_named() -> None:
    past = [line(day, [0.59, 0.60, 0.61]) for day in (1, 2, 3)]
    assert history.regressions([*past, line(4, [0.61, 0.605, 0.6])]) == []
    found = history.regressions([*past, line(4, [0.69, 0.70, 0.71])])
    assert [(r.entry, r.test, r.scale, r.now, r.before) for r in found] == [
        ("fastserve", "db", "uvicorn-careful", 0.7, 0.6)]
    assert "0.700 of uvicorn-careful's CPU; it was 0.600" in str(found[0])


def test_a_difference_inside_the_spread_is_no_regression() -> None:
    noisy = [line(1, [0.5, 0.6, 0.7]), line(2, [0.6, 0.6, 0.6])]
    assert history.regressions([*noisy, line(3, [0.69, 0.69, 0.69])]) == []
    assert history.regressions([*noisy, line(3, [0.71, 0.71, 0.71])])
    moving = [line(1, [0.5]), line(2, [0.6])]
    assert history.regressions([*moving, line(3, [0.64])]) == []
    assert history.regressions([*moving, line(3, [0.66])])


def test_other_machines_and_pythons_tell_nothing() -> None:
    past = [line(1, [0.3], machine="other"), line(2, [0.3], python="other"), line(3, [0.6])]
    assert history.regressions([*past, line(4, [0.6])]) == []
    assert history.regressions([line(4, [0.6])]) == []
    assert history.regressions([]) == []


def test_only_the_last_runs_count() -> None:
    long_ago = [line(day, [0.9]) for day in range(1, 4)]
    lately = [line(day, [0.6]) for day in range(4, 9)]
    assert history.regressions([*long_ago, *lately, line(9, [0.7])])
    assert not history.regressions([*long_ago, *lately, line(9, [0.7])], last=8)


def test_a_run_is_kept_as_a_line(tmp_path: Path) -> None:
    file = tmp_path / "results" / "history.jsonl"
    record = made({"json": {"fastserve": [6, 6], "uvicorn-usual": [60, 30], "floor": [3, 3]}})
    history.append(record, file)
    history.append({**record, "started": "2026-01-06"}, file)
    first, second = history.read(file)
    assert second["date"] == "2026-01-06"
    assert first["figures"]["json"]["fastserve"] == {
        "cpu_us": 6, "to_floor": [2.0, 2.0], "to_uvicorn-usual": [0.1, 0.2]}
    file.write_text("{}\noops\n")
    with pytest.raises(ValueError, match="line 2"):
        history.read(file)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, check=False, timeout=230)


def test_the_history_is_shown_and_its_status_tells_a_regression(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text("".join(json.dumps(line(day, [0.6])) + "\n" for day in (1, 2)))
    shown = command("history", file)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "2026-01-01 0.600  2026-01-02 0.600" in shown.stdout
    with file.open("a") as more:
        more.write(json.dumps(line(3, [0.8])) + "\n")
    shown = command("history", file)
    assert shown.returncode == 1
    assert "WORSE  fastserve on db: 0.800 of uvicorn-careful's CPU" in shown.stdout


@pytest.mark.parametrize(("arguments", "said"), [
    (("compare", "--entries", "nobody"), "compare: no such entry: nobody; there are: fastserve"),
    (("compare", "--tests", "db,dbx"), "compare: no such test: dbx; there are: plaintext"),
    (("compare", "--rate", "db=fast"), "compare: --rate db=fast: want TEST=N"),
    (("compare", "--server-core", "999"), "compare: --server-core 999 is not ours to use"),
    (("compare", "--seconds", "-1"), "compare: seconds, connections and the pool's size must be"),
    (("history", "/no/such/file"), "history: [Errno 2]"),
])
def test_a_wrong_use_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


class Stage:
    """Entries that need no process: what the run makes of what they do."""

    def __init__(self, broken: Callable[[str, str], str | None]) -> None:
        self.settings = Settings()
        self.venvs = self
        self.broken = broken
        self.responses: dict[str, bytes] = {}
        self.order: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.say = self.said.append
        self.port = 0

    def interpreter(self, entry: Server) -> str:
        if reason := self.broken(entry.name, "install"):
            raise Unavailable(reason)
        return sys.executable

    def running(self, entry: Server, test: SuiteTest) -> Stage:
        self.entry = entry.name
        return self

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_answer(self, request: bytes, judge: Callable[[Answer], None]) -> Answer:
        return Answer(f"raw of {self.entry}".encode(), 200, b"")

    def saturate(self, running: Stage, test: SuiteTest, *seconds: float) -> dict[str, float]:
        return {"rps": 1000.0 if self.entry == "fastserve" else 400.0}

    def turn(self, entry: Server, test: SuiteTest, rate_per_s: float) -> dict[str, Any]:
        self.order.append((entry.name, test.name))
        if reason := self.broken(entry.name, test.name):
            raise OSError(reason)
        found = turn(test.name, entry.name, 0, 10.0)
        del found["test"], found["entry"], found["round"]
        return found


def run(stage: Stage, tmp_path: Path, *names: str, **more: Any) -> dict[str, Any]:
    entries = [Server(name, name, command="-m it") for name in names]
    options = {"verify": lambda port, tests: [], "equal_rates": {}, **more}
    comparison = Comparison(stage, entries, [TESTS["json"], TESTS["db"]],  # type: ignore[arg-type]
                            output=tmp_path / "record.json", **options)
    comparison.execute(2)
    return dict(json.loads((tmp_path / "record.json").read_text()))


def test_every_other_round_is_run_backwards(tmp_path: Path) -> None:
    stage = Stage(lambda entry, test: None)
    record = run(stage, tmp_path, "fastserve", "peer")
    on_db = [entry for entry, test in stage.order if test == "db"]
    assert on_db == ["fastserve", "peer", "peer", "fastserve"]
    on_json = [entry for entry, test in stage.order if test == "json"]
    assert on_json == ["floor", "fastserve", "peer", "floor", "floor", "peer", "fastserve", "floor"]
    assert stage.responses == {"json": b"raw of fastserve"}
    assert record["equal_rates_per_s"] == {"json": 200.0, "db": 200.0}   # half of the slowest's
    assert record["finished"]


def test_an_entry_that_fails_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    broken = {("gone", "install"): "cannot be installed: no reason", ("ill", "db"): "died"}
    stage = Stage(lambda entry, test: broken.get((entry, test)))
    record = run(stage, tmp_path, "fastserve", "gone", "ill", equal_rates={"db": 77.0})
    assert record["failures"] == [
        {"entry": "gone", "test": "every test", "reason": "cannot be installed: no reason"},
        {"entry": "ill", "test": "db", "reason": "died"}]
    measured = {(t["entry"], t["test"]) for t in record["turns"]}
    assert measured == {("fastserve", "json"), ("fastserve", "db"), ("ill", "json"),
                        ("floor", "json")}
    assert stage.order.count(("ill", "db")) == 1
    assert record["equal_rates_per_s"]["db"] == 77.0


def test_what_breaks_the_suites_rules_is_not_measured(tmp_path: Path) -> None:
    stage = Stage(lambda entry, test: None)
    record = run(stage, tmp_path, "fastserve", "peer", verify=lambda port, tests: [
        ("db", "/db: 7 where a number is due")] if stage.entry == "peer" else [])
    assert record["failures"] == [
        {"entry": "peer", "test": "db", "reason": "/db: 7 where a number is due"}]
    assert ("peer", "db") not in stage.order
    assert ("peer", "json") in stage.order


def test_a_rate_that_an_entry_cannot_keep_is_left_out() -> None:
    record = made({"db": {"fastserve": [50, 50], "sanic": [60, 60]}})
    del record["turns"][2]["paced"]["equal"], record["turns"][3]["paced"]["equal"]
    assert [list(row.latency) for row in rows(record, "db")] == [
        ["equal", "half", "most"], ["half", "most"]]
    text = "\n".join(document(record))
    assert text.count("| sanic 1.2 | 500 |") == 2
    assert text.count("| fastserve 1.2 | 500 |") == 3


def test_the_equal_rate_is_not_that_of_our_orm(tmp_path: Path) -> None:
    record = run(Stage(lambda entry, test: None), tmp_path, "fastserve", "fastserve-orm")
    assert record["equal_rates_per_s"]["db"] == 500.0


def test_another_way_to_the_database_is_not_measured_without_one(tmp_path: Path) -> None:
    stage = Stage(lambda entry, test: None)
    run(stage, tmp_path, "fastserve", "fastserve-pipelined")
    assert ("fastserve-pipelined", "db") in stage.order
    assert ("fastserve-pipelined", "json") not in stage.order


def test_two_benches_make_an_environment_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that find it missing, the second waits and takes what the first has made."""
    made_by: list[Venvs] = []

    def install(self: Venvs, server: Server, python: str) -> None:
        made_by.append(self)
        time.sleep(0.2)
        self.path(server).mkdir()
        (self.path(server) / "installed.json").write_text(json.dumps(list(server.requires)))

    monkeypatch.setattr(Venvs, "_install", install)
    peer = Server("peer", "peer", requires=("h11",), command="-m it")
    with ThreadPoolExecutor() as benches:
        found = list(benches.map(
            lambda _: Venvs(tmp_path, sys.executable).interpreter(peer), range(3)))
    assert len(made_by) == 1
    assert len(set(found)) == 1


def test_a_slow_rate_is_kept_longer_for_enough_requests() -> None:
    assert window_s(1.0, 5000) == 1.0
    assert window_s(1.0, 400) == 2.5
    assert window_s(1.0, 10) == LONGEST


def test_our_own_other_row_is_no_peer() -> None:
    record = made({"json": {
        "fastserve": [9, 9], "fastserve-orm": [8, 8], "sanic": [20, 20],
        "fastserve-polling": [9, 9]}})
    record["turns"][2]["paced"] = record["turns"][3]["paced"] = paced(100)
    assert {verdict.met for verdict in bars(record, "json").values()} == {True}


def test_rows_that_pipeline_queries_are_compared_with_their_like() -> None:
    """Our pipelined row may not win a bar for the other one, nor lose one to a peer's."""
    record = made({"db": {
        "fastserve": [50, 50], "fastserve-pipelined": [30, 30], "uvicorn-careful": [70, 70],
        "uvicorn-pipelined": [32, 32], "uvicorn-usual": [100, 100], "granian-rsgi": [60, 60],
        "granian-rsgi-pipelined": [29, 29]}})
    found = {bar: (verdict.met, verdict.result) for bar, verdict in bars(record, "db").items()}
    assert found["CPU at most 0.85 of uvicorn's with the same careful pool"] == (
        True, "0.71 (0.71-0.71)")
    assert found["Pipelined: CPU at most 0.85 of uvicorn's with the same pool"] == (
        False, "0.94 (0.94-0.94)")
    assert found["Pipelined: CPU at most 0.6 of uvicorn's as usual"][0] is True
    assert found["CPU below granian's with an equal pool"] == (
        True, "0.83 (0.83-0.83) of granian-rsgi")
    assert found["Pipelined: CPU below granian's with an equal pool"] == (
        False, "1.03 (1.03-1.03) of granian-rsgi-pipelined")
    assert [kind_of(record, name) for name in record["entries"]] == [
        "careful", "pipelined", "careful", "pipelined", "usual", "careful", "pipelined"]


@pytest.mark.parametrize(("test", "body", "right"), [
    ("plaintext", b"Hello, World!", True), ("plaintext", b"Hello", False),
    ("json", b'{ "message": "Hello, World!" }', True), ("json", b'{"message":"Hello"}', False),
    ("json", b"{", False), ("db", b'{"id":1,"randomNumber":2}\n', True), ("db", b'{"id":1}', False),
    ("queries-5", b"[" + b",".join([b'{"randomNumber":1}'] * 5) + b"]", True),
    ("queries-5", b'[{"randomNumber":1}]', False),
    ("fortunes", b"<!DOCTYPE html>" + b"<tr>" * 14 + b"</html>", True),
])
def test_an_answer_is_judged_before_the_load(test: str, body: bytes, right: bool) -> None:
    if right:
        TESTS[test].judge(Answer(b"", 200, body))
    else:
        with pytest.raises(WrongAnswer):
            TESTS[test].judge(Answer(b"", 200, body))
    with pytest.raises(WrongAnswer, match="status 500"):
        TESTS[test].judge(Answer(b"", 500, body))


@pytest.mark.timeout(240)
def test_the_quick_form_measures_on_a_postgresql_of_its_own(tmp_path: Path) -> None:
    """From nothing: database, tables, verification, both loops, and the three reports."""
    for name in ("asyncpg", "matplotlib"):
        needs_library(name)
    cores = sorted(os.sched_getaffinity(0))
    output = tmp_path / "now.json"
    done = command("compare", "--quick", "--entries", "fastserve", "--rounds", 1, "--seconds", 0.2,
                   "--output", output, "--record", "--history", tmp_path / "history.jsonl",
                   "--cache", tmp_path / "cache",
                   "--server-core", cores[0], "--client-core", cores[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(output.read_text())
    assert record["failures"] == []
    assert record["database"].startswith("PostgreSQL ")
    by_test = {t["test"]: t for t in record["turns"] if t["entry"] == "fastserve"}
    assert list(by_test) == ["json", "db"]
    for one in by_test.values():
        assert one["cpu_us"] > 0
        assert one["peak_bytes"] >= one["base_bytes"] > 1e6
        assert {"half", "most"} <= one["paced"].keys()
        for phase in (one, *one["paced"].values()):
            assert (phase["errors"], phase["bad_status"], phase["mismatched"]) == (0, 0, 0)
    assert by_test["db"]["database_us"] > 1
    assert by_test["json"]["database_us"] == 0
    assert "## Single query" in output.with_suffix(".md").read_text()
    assert re.search(r"<h2 id=\"db\">Single query", output.with_suffix(".html").read_text())
    assert len(history.read(tmp_path / "history.jsonl")) == 1
