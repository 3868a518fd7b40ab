"""The benches of growth and of a million: they run, say what they measured, and add up right."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
from libraries import needs_library

from benchmarks.growth.axes import Load, Server, axes
from benchmarks.growth.limits import SPARE_FILES, addresses, within_files
from benchmarks.growth.run import add_arguments, lacks, make_files
from benchmarks.growth.slopes import FLOOR, Figures, Spread, cores_for, least_squares
from benchmarks.growth.turn import Bench, Settings, together
from benchmarks.million import check_head, judge, words
from benchmarks.process import ServerFailed

ROOT = Path(__file__).resolve().parents[1]
FEW_FILES = 256
DRAWN = "download"
CORES = len(os.sched_getaffinity(0))
PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24
two_cores = pytest.mark.skipif(
    CORES < 2, reason="a server and its client need a core each")


def bench(*arguments: str, few_files: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the command line; with few open files that nothing may raise again, not even root."""

    def prepare() -> None:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))

    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, text=True, timeout=110,
        capture_output=True, check=False, preexec_fn=prepare if few_files else None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the C programs are built, once for all tests."""
    return tmp_path_factory.mktemp("cache")


@dataclass
class Quick:
    """A quick run of one axis with few open files: what it printed, recorded, and wrote where."""

    stdout: str
    record: dict[str, Any]
    output: Path


@pytest.fixture(scope="module")
def quick(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Quick]:
    """The quick run of an axis, made when it is first asked for."""
    known: dict[str, Quick] = {}

    def run(axis: str) -> Quick:
        if axis not in known:
            output = tmp_path_factory.mktemp(axis)
            plot = [] if axis == DRAWN else ["--no-plot"]
            done = bench("growth", "--quick", "--of", axis, "--cache", str(cache),
                         "--output", str(output), *plot, few_files=True)
            assert done.returncode == 0, done.stderr
            record = json.loads((output / "growth.json").read_text())
            known[axis] = Quick(done.stdout, record, output)
        return known[axis]

    return run


@two_cores
@pytest.mark.parametrize("name", list(axes(CORES)))
def test_every_point_of_an_axis_is_measured_beside_the_floor_and_reported(
    quick: Callable[[str], Quick], name: str
) -> None:
    run = quick(name)
    axis, points = axes(CORES)[name], run.record["axes"][name]["points"]
    assert len(points) == len(axis.quick) > (name != "cores")
    assert not run.record["failures"]
    measured = {(turn["x"], turn["series"]) for turn in run.record["turns"]}
    assert measured == {
        (x, series) for x in points for series in (FLOOR, *(one.name for one in axis.series))}
    assert all(turn["answered"] > 0 and turn["cpu_us"] > 0 for turn in run.record["turns"])

    text = (run.output / "growth.md").read_text()
    assert text in run.stdout
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    assert {"64 KiB" if x == 65536 else f"{x:,}" for x in points} <= rows
    assert f"per {axis.law.step}" in text
    assert "A quick run: that it works is all that it shows" in text


@two_cores
def test_too_few_open_files_for_the_connections_are_said_and_the_most_are_measured(
    quick: Callable[[str], Quick],
) -> None:
    run = quick("connections")
    most = FEW_FILES - SPARE_FILES
    assert run.record["open_files"] == FEW_FILES
    assert run.record["axes"]["connections"]["points"] == [1, most]
    assert (f"500 connections wanted, {most} measured: the limit of open files of this machine "
            f"is {FEW_FILES}.") in run.stdout


@two_cores
def test_an_axis_is_drawn_and_all_of_them_together(quick: Callable[[str], Quick]) -> None:
    needs_library("matplotlib")
    for name in ("growth", f"growth-{DRAWN}"):
        assert (quick(DRAWN).output / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@two_cores
def test_million_says_that_it_pipelines_what_was_reached_and_exits_by_the_cpu(
    cache: Path, tmp_path: Path
) -> None:
    output = tmp_path / "million.json"
    done = bench("million", "--rounds", "1", "--seconds", "0.1", "--warmup", "0.02",
                 "--depth", "8", "--cache", str(cache), "--output", str(output))
    record = json.loads(output.read_text())
    assert "PIPELINED x 8" in done.stdout
    assert set(record["turns"]) == {
        f"{who}, {how}" for who in ("floor", "sync", "async")
        for how in ("pipelined x 8", "one at a time")}
    for name, found in record["verdict"].items():
        assert words(name, 8, found) in done.stdout
        calls = record["handler_calls"][name]
        assert calls["calls"] == calls["answers"] > 0
    reached = all(found["pipelined"]["cpu_us"] <= 1.0 for found in record["verdict"].values())
    assert done.returncode == (0 if reached else 1), done.stderr


def turns_of(pipelined: tuple[float, float], single: tuple[float, float]) -> Any:
    """Turns of one handler from (cpu_us, rps) of both ways."""
    return {
        "sync, pipelined x 16": [{"cpu_us": pipelined[0], "rps": pipelined[1]}],
        "sync, one at a time": [{"cpu_us": single[0], "rps": single[1]}],
        "async, pipelined x 16": [{"cpu_us": 99.0, "rps": 1.0}],
    }


@pytest.mark.parametrize(("cpu_us", "rps", "by_cpu", "by_clock", "said"), [
    (1.00, 900_000, True, False, "reached by CPU per request, not by the clock"),
    (0.80, 1_200_000, True, True, "reached by the clock and by CPU per request"),
    (1.01, 980_000, False, False, "was not reached"),
    (1.01, 1_000_000, False, True, "by the clock, though not within one core's time"),
])
def test_a_million_is_judged_by_cpu_and_by_the_clock_apart(
    cpu_us: float, rps: float, by_cpu: bool, by_clock: bool, said: str
) -> None:
    found = judge(turns_of((cpu_us, rps), (6.5, 150_000)), "sync")
    assert (found["by_cpu"], found["by_clock"]) == (by_cpu, by_clock)
    assert found["cores_one_at_a_time"] == pytest.approx(6.5)
    assert said in words("sync", 16, found)
    assert "6.5 cores" in words("sync", 16, found)


def test_cores_are_the_rate_times_the_cpu_of_a_request() -> None:
    assert cores_for(1_000_000, 7.25) == pytest.approx(7.25)
    assert cores_for(250_000, 8) == pytest.approx(2)


def test_an_answer_without_server_or_with_an_old_date_is_refused() -> None:
    with pytest.raises(ServerFailed, match="without Server or Date"):
        check_head(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n")
    with pytest.raises(ServerFailed, match="the Date of an answer"):
        check_head(b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n")


def test_a_line_through_points_of_a_line_is_that_line() -> None:
    assert least_squares([1, 2, 5], [7, 9, 15]) == pytest.approx((5, 2))
    with pytest.raises(ValueError, match="two different"):
        least_squares([3, 3], [1, 2])


def turn(series: str, x: int, number: int, cpu_us: float) -> dict[str, Any]:
    return {"series": series, "x": x, "round": number, "cpu_us": cpu_us}


def test_a_slope_is_the_median_of_the_rounds_and_above_the_floor_of_each_round() -> None:
    turns = [
        turn(series, x, number, base + slope * x)
        for number, (slope, floor) in enumerate([(1, 0.5), (3, 1), (10, 2)])
        for series, base, slope in (("ours", 4, slope), (FLOOR, 2, floor))
        for x in (2, 10, 50)]
    axis = {"start": 0, "basis": {"2": 2, "10": 10, "50": 50}}
    figures = Figures(turns, "cpu_us")
    assert astuple(figures.slope("ours", axis)) == pytest.approx((3, 1, 10))
    assert astuple(figures.slope("ours", axis, above=FLOOR)) == pytest.approx((2, 0.5, 8))
    assert astuple(figures.intercept("ours", axis)) == pytest.approx((4, 4, 4))
    assert figures.at("ours", 10) == Spread(34, 14, 104)
    assert figures.ratio("ours", 10) == pytest.approx(34 / 12)
    assert figures.last_step("ours", axis) == pytest.approx(3)
    assert figures.slope("ours", {**axis, "start": 50}) is None
    assert figures.at("nobody", 10) is None


def test_a_fit_starts_where_its_law_does() -> None:
    turns = [turn("ours", x, 0, 100.0 if x == 1 else x) for x in (1, 100, 200)]
    axis = {"start": 100, "basis": {"1": 1, "100": 100, "200": 200}}
    assert Figures(turns, "cpu_us").slope("ours", axis) == Spread(1, 1, 1)


def test_points_within_the_limit_stay_and_those_above_become_the_most_that_fit() -> None:
    axis = axes(2)["connections"]
    whole, cut = within_files(axis, 20_000 + SPARE_FILES)
    assert (whole, cut) == (axis, "")
    less, cut = within_files(axis, 8_000)
    assert less.points == (1, 10, 100, 1000, 5000, 8_000 - SPARE_FILES)
    assert cut.startswith("20,000 connections wanted, 7,872 measured")


def test_there_are_ports_for_all_connections_on_the_addresses_they_come_from() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert addresses(1) == 1
    assert addresses(20_000) * (high - low + 1) >= 2 * 20_000


def test_the_rates_of_clients_side_by_side_add_up() -> None:
    part = {"answered": 1000, "mismatched": 0, "wall_ns": 10**9, "cpu_ns": 5 * 10**8,
            "client_cpu_ns": 10**8, "total": 1200}
    both = together([part, {**part, "answered": 3000}])
    assert both["rps"] == pytest.approx(4000)
    assert both["cpu_us"] == pytest.approx(0.5 / 4000 * 1e6)
    with pytest.raises(ServerFailed, match="2 answers were not like the first"):
        together([part, {**part, "mismatched": 2}])


@pytest.fixture
def turns(cache: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Turns of an instant, or of the seconds that the test is given."""
    seconds = getattr(request, "param", 0.05)
    with Bench(Settings(seconds, 0.02, *sorted(os.sched_getaffinity(0))[:2]), cache) as found:
        yield found


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench.example\r\n\r\n".encode()


@two_cores
def test_the_files_that_are_sent_have_the_tag_that_they_keep(
    turns: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of this second has a weak one, which is longer: its answers change their size."""
    monkeypatch.setenv("GROWTH_FILES", str(tmp_path))
    make_files(tmp_path, (0, 65536))
    for size in (0, 65536):
        answer = turns.answer(Server(), Load(get(f"/file/{size}"), "x" * size))
        assert b'\r\nETag: "' in answer[:500]


@two_cores
@pytest.mark.parametrize("turns", [1.1], indirect=True)     # long enough for a new Date
def test_answers_may_differ_in_their_date_and_in_nothing_else(
    turns: Bench, tmp_path: Path
) -> None:
    app = tmp_path / "changing_app.py"
    app.write_text(
        "from fastserve import App\n"
        "app = App()\n"
        "count = 0\n"
        "@app.get('/same')\n"
        "def same():\n"
        "    return 'same'\n"
        "@app.get('/changing')\n"
        "def changing():\n"
        "    global count\n"
        "    count += 1\n"
        "    return 'a' if count < 50 else 'b'\n")
    server = Server(str(app))
    assert turns.turn(server, Load(get("/same"), "same", depth=4))["answered"] > 0
    with pytest.raises(ServerFailed, match="answers were not like the first"):
        turns.turn(server, Load(get("/changing"), "a", depth=4))


@two_cores
def test_the_floor_takes_and_sends_bodies_larger_than_any_buffer(turns: Bench) -> None:
    size = 6 * 1024 * 1024
    found = turns.floor_turn(Server(), Load(get(f"/bytes/{size}"), "x" * size, connections=2))
    assert found["answered"] > 0
    head = f"POST /pieces HTTP/1.1\r\nHost: bench.example\r\nContent-Length: {size}\r\n\r\n"
    upload = Load(head.encode() + b"x" * size, str(size), connections=2)
    assert turns.floor_turn(Server(), upload)["answered"] > 0


def test_what_cannot_be_is_one_line_and_status_2() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert lacks(parser.parse_args(["--rounds", "0"])) == "--rounds 0: at least one"
    assert "there are the cores" in lacks(parser.parse_args(["--server-core", "4096"]))
    assert "give it another one" in lacks(
        parser.parse_args(["--server-core", "0", "--client-core", "0"]))
    for arguments in (("growth", "--of", "nothing"), ("million", "--depth", "1")):
        done = bench(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
