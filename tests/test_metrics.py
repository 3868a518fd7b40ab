"""/metrics: right from any worker, never going down, and nothing in it of a stranger's choosing."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from boards import add_row, block_of, bucket_of
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from server_process import serve_in_process

import fastserve
from fastserve import App, Response
from fastserve._speedups import scoreboard as layout
from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.metrics import EDGES_S, OPENMETRICS, PLAIN, Metrics, preferred, render
from fastserve.readings import LIMITS_S, total
from fastserve.shm import BoardError
from fastserve.testing import TestClient

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent)}
PARSERS = {PLAIN: parse_plain, OPENMETRICS: parse_openmetrics}
APP = """
import asyncio
from fastserve import App, HTTPError

app = App()

@app.get("/")
def home():
    return "home"

@app.get("/users/{id}")
def user(id):
    raise HTTPError(418)

@app.post("/things")
async def things():
    await asyncio.sleep(0)
    return "made"

@app.get("/boom")
def boom():
    raise HTTPError(500)
"""


def samples_of(text, kind=PLAIN, types=("counter", "histogram", "gauge", "info")):
    """{(name, sorted labels): value} of a page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in PARSERS[kind](text) if family.type in types for sample in family.samples}


def sample(samples, name, **labels):
    return samples[f"fastserve_{name}", tuple(sorted(labels.items()))]


# The page.


@pytest.mark.parametrize("kind", [PLAIN, OPENMETRICS])
def test_both_formats_say_what_was_counted(board, kind):
    """As prometheus_client's own parsers read them; the type of content is the format's."""
    for slot in (0, 1):
        block, writer = block_of(board, slot=slot)
        add_row(board, block, b"GET /users/{id}", {200: 3, 404: 1}, seconds=0.0015, body_bytes=5)
        writer.add(layout.AT_BYTES_IN, 100)
        writer.add(layout.AT_EXPIRED + 3)
        writer.tick(0.5, {layout.AT_CONNECTIONS: 4 + slot})
    board.count_restart("killed")
    board.retire(block)

    content_type, body = render(board.read(), kind)
    assert content_type.startswith(f"{kind}; version=")
    samples = samples_of(body.decode(), kind)
    route = {"method": "GET", "route": "/users/{id}"}
    assert sample(samples, "requests_total", status="200", **route) == 6
    assert sample(samples, "requests_total", status="404", **route) == 2
    assert sample(samples, "response_body_bytes_total", **route) == 40
    assert sample(samples, "request_duration_seconds_count", **route) == 8
    assert sample(samples, "request_duration_seconds_sum", **route) == pytest.approx(0.012)
    buckets = {
        float(dict(labels)["le"]): value for (name, labels), value in samples.items()
        if name == "fastserve_request_duration_seconds_bucket"}
    assert buckets == {edge: 8 if edge > 0.0015 else 0 for edge in (*EDGES_S, float("inf"))}
    assert sample(samples, "received_bytes_total") == 200
    assert sample(samples, "deadlines_expired_total", deadline="head") == 2
    assert sample(samples, "loop_lag_seconds_count") == 2
    assert sample(samples, "connections_open", slot="0") == 4
    assert ("fastserve_connections_open", (("slot", "1"),)) not in samples  # it has ended
    assert sample(samples, "worker_restarts_total", reason="killed") == 1
    assert sample(samples, "worker_restarts_total", reason="reload") == 0
    assert sample(samples, "workers") == 1
    assert abs(sample(samples, "start_time_seconds") - time.time()) < 60
    assert sample(samples, "worker_resident_memory_bytes", slot="0") > 2**20


def test_the_edges_are_edges_of_what_is_counted():
    """So that no count is split; and a duration lies below the next of them."""
    assert set(EDGES_S) <= set(LIMITS_S)
    assert sorted(EDGES_S) == list(EDGES_S)
    for edge_s in EDGES_S:
        assert LIMITS_S[bucket_of(edge_s - 1e-9)] == edge_s


@pytest.mark.parametrize("kind", [PLAIN, OPENMETRICS])
@pytest.mark.parametrize("route", ['/a"b', "/a\\b", "/ü/{x}", "/a\\n", "/{x}{y}", "/a b"])
def test_labels_are_escaped(board, kind, route):
    """A route may have any character that a path may."""
    block, _ = block_of(board)
    add_row(board, block, f"GET {route}".encode(), {200: 1})

    samples = samples_of(render(board.read(), kind)[1].decode(), kind)
    assert sample(samples, "requests_total", method="GET", route=route, status="200") == 1


def test_every_metric_is_documented(board):
    """With its type and its labels, and nothing that is none."""
    block, _ = block_of(board)
    add_row(board, block, b"GET /", {200: 1})
    page = Path(__file__).parent.parent / "docs" / "metrics.md"
    told = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(
            r"^\| `(fastserve_\w+)` \| (\w+) \|([^|]*)\|", page.read_text(), re.MULTILINE)}

    found = {}
    for family in parse_plain(render(board.read(), PLAIN)[1].decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        kind = "info" if name.endswith("_info") else family.type
        labels = set().union(*(each.labels for each in family.samples))
        found[name] = kind, labels - {"le"}
    assert found == told


@pytest.mark.parametrize(("accept", "kind"), [
    ("", PLAIN), ("*/*", PLAIN), ("text/html", PLAIN), ("application/json", PLAIN),
    ("application/openmetrics-text", OPENMETRICS),
    ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", OPENMETRICS),
    ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
     OPENMETRICS),
    ("application/openmetrics-text;q=0.2,text/plain;q=0.9", PLAIN),
    ("application/openmetrics-text;q=0", PLAIN), ("application/openmetrics-text;q=x", PLAIN),
    (",;,;=", PLAIN), ("application/openmetrics-text;version=../../../etc", OPENMETRICS),
])
def test_accept_chooses_the_format(accept, kind):
    """OpenMetrics for who asks by name; what makes no sense is no error."""
    assert preferred(accept) == kind


# The route.


def metrics_of(board, path="/metrics"):
    return Metrics(path, board.read)


def test_it_is_outside_of_the_middleware_and_no_route_of_the_application(board):
    """A login in front of everything does not keep Prometheus out; HEAD is answered too."""
    app = App()

    @app.middleware
    async def refuse(request, call_next):
        return Response(b"", 401)

    with TestClient(app, pages=[metrics_of(board)]) as client:
        reply = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("application/openmetrics-text")
        assert reply.headers["cache-control"] == "no-store"
        assert reply.body.endswith(b"# EOF\n")
        head = client.request("HEAD", "/metrics")
        assert (head.status, head.body) == (200, b"")
        assert client.get("/metrics/").status == 401
    assert app.routes == ()
    assert [plan.exempt for _, plan in metrics_of(board).plans(())] == [True]


def test_a_path_that_is_taken_is_refused(board):
    """By a route, whatever its method, or by a health check; a wildcard takes nothing."""
    app = App()
    app.post("/metrics")(lambda: "mine")
    with pytest.raises(ConfigError, match=r"metrics='/metrics'.*'POST /metrics'.*another path"):
        app.build_router(pages=[metrics_of(board)])
    with pytest.raises(ConfigError, match="metrics='/-/live'"), \
            TestClient(App(), pages=[metrics_of(board, "/-/live")]):
        pass
    app = App()
    app.get("/{rest:path}")(lambda rest: "rest")
    with TestClient(app, pages=[metrics_of(board)]) as client:
        assert b"fastserve_workers" in client.get("/metrics").body
        assert client.get("/other").body == b"rest"


def test_who_asks_while_a_page_is_made_shares_the_next_one(board):
    """Never the one under way: what was counted before they asked is in what they get."""
    pages, begun, go_on = [], threading.Event(), threading.Event()

    def read():
        pages.append(None)
        begun.set()
        assert go_on.wait(20)
        return board.read()

    class Request:
        headers = {"accept": ""}    # noqa: RUF012

    async def ask():
        metrics = Metrics("/metrics", read)
        first = asyncio.ensure_future(metrics.answer(Request()))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, 20)
        others = [asyncio.ensure_future(metrics.answer(Request())) for _ in range(20)]
        await asyncio.sleep(0)
        others[0].cancel()      # one of them has left
        go_on.set()
        await first
        answers = await asyncio.gather(*others, return_exceptions=True)
        metrics.close()
        return answers

    answers = asyncio.run(ask())
    assert len(pages) == 2
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.status for answer in answers[1:]] == [200] * 19


def test_a_board_that_cannot_be_read_is_503():
    """Its supervisor died over it; the page after that is tried anew."""
    def read():
        raise BoardError("is it alive?")

    with TestClient(App(), pages=[Metrics("/metrics", read)]) as client:
        for _ in range(2):
            reply = client.get("/metrics")
            assert (reply.status, reply.body) == (503, b"is it alive?")


# The setting.


@pytest.mark.parametrize("path", ["metrics", "/", "", "/a b", "/{x}", "/a/", "/ü", "/a?b", True])
def test_a_path_is_a_plain_one(path):
    """Without parameters, and nothing that would need quoting."""
    with pytest.raises(ConfigError, match=r"metrics=.*must be a path.*/metrics"):
        Config(metrics=path)


def test_a_missing_extra_is_named(monkeypatch):
    """Before anything is served."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape('pip install "fastserve[metrics]"')):
        Config(metrics="/metrics")
    assert Config().metrics is None


@pytest.mark.parametrize(("words", "path"), [
    (["--metrics", "main:app"], "/metrics"), (["main:app", "--metrics"], "/metrics"),
    (["main:app", "--metrics", "--workers", "2"], "/metrics"),
    (["--metrics", "/m", "main:app"], "/m"), (["--metrics=/m", "main:app"], "/m"),
    (["--metrics", "/srv/main.py"], "/metrics"), (["main:app"], None),
])
def test_the_flag_needs_no_value(words, path):
    """And does not take the application for one."""
    from fastserve.cli import run

    parsed = run.make_context("run", words).params
    assert parsed["metrics"] == path
    assert parsed["target"] in ("main:app", "/srv/main.py")


@pytest.mark.parametrize(("flags", "status"), [((), 1), (("--workers", "2"), 3)])
def test_a_clash_ends_the_start(tmp_path, flags, status):
    """With one line for each process that found it, and no traceback."""
    (tmp_path / "main.py").write_text(APP.replace('"/boom"', '"/metrics"'))
    done = subprocess.run(
        [sys.executable, "-m", "fastserve", "run", "main.py", "--port", "0", "--metrics", *flags],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status
    assert "there is a route 'GET /metrics' already: give another path" in done.stderr
    assert "Traceback" not in done.stderr


# Real servers.


def ask(port, method="GET", path="/", accept=""):
    """One request on a connection of its own: (status, body)."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        client.request(method, path, headers={"accept": accept} if accept else {})
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def scrape(port, kind=PLAIN, types=("counter", "histogram", "gauge", "info")):
    status, body = ask(port, path="/metrics", accept=kind)
    assert status == 200, body
    return samples_of(body.decode(), kind, types)


@contextlib.contextmanager
def serving(directory, *flags):
    (directory / "main.py").write_text(APP)
    with serve_in_process(directory, "--metrics", *flags, target="main.py") as server:
        workers = int(flags[flags.index("--workers") + 1]) if "--workers" in flags else 1
        deadline = time.monotonic() + 30
        while server.log.count("listening on") < workers:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield server


def counted(samples):
    """{(method, route, status): count} of a scrape, but for scrapes."""
    found = {}
    for (name, labels), value in samples.items():
        names = dict(labels)
        if name == "fastserve_requests_total" and names["route"] != "/metrics":
            found[names["method"], names["route"], names["status"]] = value
    return found


WANTED = {
    ("GET", "/", 200): ("GET", "/", "200"),
    ("HEAD", "/", 200): ("HEAD", "/", "200"),
    ("POST", "/things", 200): ("POST", "/things", "200"),
    ("GET", "/users/%d", 418): ("GET", "/users/{id}", "418"),
    ("GET", "/boom", 500): ("GET", "/boom", "500"),
    ("GET", "/nothing/%d", 404): ("other", "(no route)", "404"),
    ("BREW%d", "/", 405): ("other", "(no route)", "405"),
}


def client_of(port, counts, requests, seed):
    """Ask for things at random, and count the answers by what the server should call them."""
    choose = random.Random(seed)
    mine = {}
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for number in range(requests):
        (method, path, wanted), name = choose.choice(list(WANTED.items()))
        if number % 10 == 0:
            client.close()      # the next one may be another worker's
        client.request(method.replace("%d", "X" * (number % 9)), path.replace("%d", str(number)))
        answer = client.getresponse()
        answer.read()
        assert answer.status == wanted, (method, path)
        mine[name] = mine.get(name, 0) + 1
    client.close()
    counts.append(mine)


@pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")
def test_the_sums_are_what_clients_counted(tmp_path):
    """Of four workers, by whichever answers, in both formats; paths and methods make no rows."""
    with serving(tmp_path, "--workers", "4") as server:
        counts = []
        threads = [
            threading.Thread(target=client_of, args=(server.port, counts, 150, seed))
            for seed in range(6)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            scrape(server.port)
        for thread in threads:
            thread.join()
        assert len(counts) == 6
        wanted = {}
        for mine in counts:
            for name, count in mine.items():
                wanted[name] = wanted.get(name, 0) + count
        for kind in (PLAIN, OPENMETRICS) * 5:
            samples = scrape(server.port, kind)
            assert counted(samples) == wanted
            for name in {name[:2] for name in wanted}:
                route = {"method": name[0], "route": name[1]}
                assert sample(samples, "request_duration_seconds_count", **route) == sum(
                    count for each, count in wanted.items() if each[:2] == name)
        assert sample(samples, "workers") == 4
        open_by_slot = [labels for name, labels in samples if name == "fastserve_connections_open"]
        assert open_by_slot == [(("slot", str(slot)),) for slot in range(4)]


def workers_of(server):
    """The processes that a supervisor has started and that have not ended."""
    path = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def killed_of(samples):
    return sample(samples, "worker_restarts_total", reason="killed")


def kill_one(server):
    with contextlib.suppress(ProcessLookupError, IndexError):
        os.kill(random.choice(workers_of(server)), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="slots are Linux's")
def test_no_counter_goes_down_whatever_happens_to_workers(tmp_path):
    """Killed, reloaded, scaled up and down under load, and scraped without a pause."""
    over, scraped, answered = threading.Event(), [], []

    def load():
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                answered.append(ask(server.port, path="/users/7")[0])

    def look():
        while not over.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                scraped.append(scrape(server.port, types=("counter", "histogram")))

    with serving(tmp_path, "--workers", "3", "--graceful-timeout-s", "5") as server:
        threads = [threading.Thread(target=each) for each in (load, load, look)]
        for thread in threads:
            thread.start()
        try:
            for round_ in range(6):
                looks = len(scraped)
                if round_ % 3 == 0:
                    server.process.send_signal(signal.SIGHUP)
                elif round_ == 4:
                    server.process.send_signal(signal.SIGTTIN)
                kill_one(server)
                deadline = time.monotonic() + 30
                while len(scraped) < looks + 4 or len(workers_of(server)) < 3:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            while not killed_of(scraped[-1]):   # one that served, not one that was still starting
                assert time.monotonic() < deadline + 30
                kill_one(server)
                time.sleep(1)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        last = scrape(server.port)

    assert len(scraped) > 20
    assert killed_of(last) >= killed_of(scraped[-1]) > 0
    for before, after in itertools.pairwise(scraped):
        for key, value in before.items():
            assert after[key] >= value, key
    # what was answered was counted, but for a request between the two when a kill came
    assert counted(last)["GET", "/users/{id}", "418"] >= len(answered) - 10 > 100


def test_a_server_without_workers_has_them_too(tmp_path):
    """It is its own only worker."""
    with serving(tmp_path) as server:
        for _ in range(3):
            assert ask(server.port)[0] == 200
        samples = scrape(server.port)
        assert sample(samples, "requests_total", method="GET", route="/", status="200") == 3
        assert sample(samples, "workers") == 1
        assert sample(samples, "connections_open", slot="0") >= 0
        scrapes = scrape(server.port)
        assert sample(scrapes, "requests_total", method="GET", route="/metrics", status="200") == 1


def test_without_the_setting_there_is_no_such_path(tmp_path):
    """It tells a stranger much."""
    (tmp_path / "main.py").write_text(APP)
    with serve_in_process(tmp_path, target="main.py") as server:
        assert ask(server.port, path="/metrics")[0] == 404


def test_readings_add_up_as_their_series_do(board):
    """The page and the other tools tell the same."""
    block, _ = block_of(board)
    add_row(board, block, b"GET /", {200: 3})
    add_row(board, block, b"GET /b", {500: 2})
    reading = board.read()
    samples = samples_of(render(reading, PLAIN)[1].decode())
    shown = sum(value for (name, _), value in samples.items() if name == "fastserve_requests_total")
    assert shown == total(reading.series().values()).count == 5
