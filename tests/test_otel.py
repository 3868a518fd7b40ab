"""otel.py by the SDK's own eyes: the spans and the figures that it would export."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys

import pytest
from libraries import needs_library
from support import Bench, running_loop

needs_library("opentelemetry.sdk")

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402
    InMemorySpanExporter,
)
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from fastserve import (  # noqa: E402
    App,
    FileResponse,
    HTTPError,
    Request,
    Response,
    StreamingResponse,
    blocking,
)
from fastserve.errors import FastserveError  # noqa: E402
from fastserve.otel import BUCKETS_S, instrument, route_of  # noqa: E402
from fastserve.testing import TestClient  # noqa: E402

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Seen:
    """What the SDK has exported so far."""

    def __init__(self, sampler=None):
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(**({"sampler": sampler} if sampler else {}))
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def spans(self):
        return self.exporter.get_finished_spans()

    @property
    def span(self):
        (span,) = self.spans()
        return span

    def points(self, name):
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def app(seen, tmp_path):
    """An application with a handler of each kind."""
    app = App()
    inner = seen.tracers.get_tracer("inner")
    (tmp_path / "file.txt").write_text("0123456789")

    def child():
        with inner.start_as_current_span("child"):
            pass

    @app.get("/users/{id:int}")
    async def user(id: int):
        await asyncio.sleep(0)
        child()
        return {"id": id}

    @app.get("/sync")
    def sync():
        child()
        return "sync"

    @app.get("/blocking")
    @blocking
    def waits():
        child()
        return "blocking"

    @app.get("/bug")
    async def bug():
        raise LookupError("nothing there")

    @app.get("/refused/{status:int}")
    def refused(status: int):
        raise HTTPError(status)

    @app.get("/pieces")
    async def pieces():
        child()
        yield "a"
        await asyncio.sleep(0)
        child()
        yield "b"

    @app.get("/rows")
    def rows():
        yield "a"
        child()
        yield "b"

    @app.get("/broken/{after:int}")
    async def broken(after: int):
        for _ in range(after):
            yield "a"
        raise LookupError("no more")

    @app.get("/broken-sync/{after:int}")
    def broken_sync(after: int):
        for _ in range(after):
            yield "a"
        raise LookupError("no more")

    @app.get("/known")
    def known():
        return StreamingResponse(iter([b"ab"]), length=2)

    @app.get("/file")
    def file():
        return FileResponse(str(tmp_path / "file.txt"))

    @app.get("/-/live")
    def live():
        return "live"

    @app.route("/any", methods=["*"])
    def anything():
        return "any"

    instrument(app, seen.tracers, seen.meters)
    return app


@pytest.fixture
def client(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


# --- spans -------------------------------------------------------------------------------


def test_a_request_is_a_span_with_the_stable_attributes(client, seen):
    """By their names in the semantic conventions, with the route and not the path in its own."""
    reply = client.get(
        "/users/7?page=2&sig=secret", headers={"host": "example.org:8080", "user-agent": "probe"})

    assert reply.json() == {"id": 7}
    span = seen.spans()[-1]
    assert (span.name, span.kind) == ("GET /users/{id}", SpanKind.SERVER)
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/users/7",
        "url.query": "page=2&sig=REDACTED",
        "http.route": "/users/{id}",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": "example.org",
        "server.port": 8080,
        "client.address": "127.0.0.1",
        "user_agent.original": "probe",
    }
    assert span.status.status_code is StatusCode.UNSET


def test_the_trace_of_the_client_goes_on(client, seen):
    """Its traceparent is the parent, with its tracestate."""
    client.get("/any", headers={**SENT, "tracestate": "vendor=1"})

    span = seen.span
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.context.trace_state.get("vendor") == "1"


@pytest.mark.parametrize(
    "value",
    ["", "00", f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
     f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[:-1]}x-{PARENT}-01", "x" * 1000,
     f"00-{TRACE}-{PARENT}-01-extra"])
def test_a_malformed_trace_begins_a_new_one(client, seen, value):
    """Nobody is refused for it."""
    assert client.get("/any", headers={"traceparent": value}).status == 200
    assert seen.span.parent is None


@pytest.mark.parametrize("path", ["/users/1", "/sync", "/blocking", "/rows"])
def test_what_a_handler_begins_is_inside(client, seen, path):
    """Async, sync, on a thread, and while a body is made."""
    client.get(path)

    child, span = seen.spans()
    assert child.name == "child"
    assert child.parent.span_id == span.context.span_id


def test_requests_do_not_share_a_context(client, seen):
    """The second one's child is in the second one's span, and nothing is left behind."""
    for _ in range(2):
        client.get("/users/1")
    one, first, two, second = seen.spans()
    assert one.parent.span_id == first.context.span_id
    assert two.parent.span_id == second.context.span_id
    assert first.context.trace_id != second.context.trace_id
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize(
    "case",
    [
        ("GET", "/nowhere", "GET", 404), ("POST", "/sync", "POST", 405),
        ("OPTIONS", "/sync", "OPTIONS", 204), ("GET", "/refused/404", "GET /refused/{status}", 404),
        ("BREW", "/any", "HTTP /any", 200), ("HEAD", "/sync", "HEAD /sync", 200),
        ("HEAD", "/file", "HEAD /file", 200), ("HEAD", "/rows", "HEAD /rows", 200),
    ])
def test_every_answer_of_the_application_is_a_span(client, seen, case):
    """Of no route, too; a 4xx is the client's mistake, and no error of ours."""
    method, path, name, status = case
    client.request(method, path)

    span = seen.spans()[-1]
    assert (span.name, span.attributes["http.response.status_code"]) == (name, status)
    assert ("http.route" in span.attributes) == (" " in name)
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["http.request.method"] == ("_OTHER" if method == "BREW" else method)
    assert span.attributes.get("http.request.method_original") == (
        "BREW" if method == "BREW" else None)


def test_an_unexpected_exception_is_recorded(client, seen):
    """With its type; the server answers 500."""
    assert client.get("/bug").status == 500

    span = seen.span
    assert span.attributes["http.response.status_code"] == 500
    assert span.attributes["error.type"] == "LookupError"
    assert span.status.status_code is StatusCode.ERROR
    (event,) = span.events
    assert event.attributes["exception.message"] == "nothing there"


def test_a_5xx_that_was_meant_is_an_error_without_an_exception(client, seen):
    """Its status is the type of the error."""
    client.get("/refused/503")
    assert seen.span.attributes["error.type"] == "503"
    assert seen.span.status.status_code is StatusCode.ERROR
    assert not seen.span.events


@pytest.mark.parametrize("path", ["/broken", "/broken-sync"])
@pytest.mark.parametrize(("after", "status"), [(0, 500), (2, 200)])
def test_an_exception_inside_of_a_body_is_recorded(client, seen, path, after, status):
    """Before the head has been sent it is a 500; after that the status stays."""
    try:
        assert client.get(f"{path}/{after}").status == status
    except Exception:
        assert after    # cut off
    assert seen.span.attributes["http.response.status_code"] == status
    assert seen.span.attributes["error.type"] == "LookupError"
    assert seen.span.status.status_code is StatusCode.ERROR


def test_the_status_of_a_file_is_the_one_that_is_sent(client, seen):
    """Which its conditions decide."""
    etag = client.get("/file").headers["etag"]
    assert client.get("/file", headers={"if-none-match": etag}).status == 304
    assert client.get("/file", headers={"range": "bytes=0-1"}).body == b"01"
    statuses = [span.attributes["http.response.status_code"] for span in seen.spans()]
    assert statuses == [200, 304, 206]


def test_a_body_is_inside_of_its_span(client, seen):
    """The span ends when the body does: what the body begins has ended before."""
    assert client.get("/pieces").body == b"ab"
    first, second, span = seen.spans()
    assert {first.parent.span_id, second.parent.span_id} == {span.context.span_id}
    assert span.end_time >= second.end_time
    client.get("/known")
    assert len(seen.spans()) == 4


@pytest.mark.parametrize("kept", [
    StreamingResponse([b"a", b"b"]),
    StreamingResponse([b"a", b"b"], 201, {"x-kind": "kept"}, content_type="text/x", length=2),
    StreamingResponse([b"a", b"b"], headers=[("x-a", "1"), ("x-a", "2")], trailers={"x-sum": "3"}),
])
def test_a_response_that_a_handler_keeps_is_whole_each_time(seen, kept):
    """As without a span, and each has its own."""
    def answers(app):
        @app.get("/kept")
        async def give():
            return kept

        with TestClient(app) as client:
            replies = [client.get("/kept") for _ in range(3)]
        return [(reply.status, reply.body, {**reply.headers, "date": ""}) for reply in replies]

    plain, traced = App(), App()
    instrument(traced, seen.tracers, seen.meters)

    expected = answers(plain)
    assert expected[2][1] == b"ab"
    assert answers(traced) == expected
    assert len(seen.spans()) == 3


def test_paths_that_are_excluded_are_not_there(client, seen):
    """By default those of health checks, also where the application has its own."""
    client.get("/-/live")
    assert not seen.spans()
    assert not seen.points("http.server.request.duration")


def test_it_is_around_all_middleware(seen):
    """Wherever it is called, so that what a middleware answers is seen."""
    app = App()

    @app.middleware
    async def refuse(request: Request, call_next):
        assert trace.get_current_span().get_span_context().is_valid
        return Response.text("no", 418)

    instrument(app, seen.tracers, seen.meters)
    with TestClient(app) as client:
        client.get("/")
    assert seen.span.attributes["http.response.status_code"] == 418


def test_a_middleware_around_it_is_outside_of_its_span(seen):
    """Before, and behind: what was current then is so again."""
    app, current = App(), []
    app.get("/")(lambda: "")
    instrument(app, seen.tracers, seen.meters)

    @app.outermost
    async def look(request: Request, call_next):
        current.append(trace.get_current_span())
        response = await call_next(request)
        current.append(trace.get_current_span())
        return response

    with TestClient(app) as client:
        client.get("/")
    assert len(seen.spans()) == 1
    assert not any(span.get_span_context().is_valid for span in current)


def test_what_the_sampler_leaves_out_costs_no_span(seen):
    """And the metrics count it all the same."""
    seen = Seen(ParentBased(ALWAYS_OFF))
    app = App()
    app.get("/")(lambda: "")
    instrument(app, seen.tracers, seen.meters)
    with TestClient(app) as client:
        client.get("/")
        assert not seen.spans()
        client.get("/", headers=SENT)   # the client wants it
    assert len(seen.spans()) == 1
    assert seen.points("http.server.request.duration")[0].count == 2


def test_the_address_of_a_server_is_what_the_client_asked_for(client, seen):
    """With the port of its scheme, and IPv6 without brackets."""
    for host, expected in (("a.example", ("a.example", 80)), ("[::1]:81", ("::1", 81))):
        client.get("/any", headers={"host": host})
        found = seen.spans()[-1].attributes
        assert (found["server.address"], found["server.port"]) == expected


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/", "/"), ("/a/{b:int}/{c}", "/a/{b}/{c}"), ("/f/{p:path}", "/f/{p}")])
def test_a_route_is_shown_without_its_converters(path, shown):
    """What is to be grouped has few values."""
    assert route_of(path) == shown


# --- metrics -----------------------------------------------------------------------------


def test_durations_are_a_histogram_in_seconds_by_route_and_status(client, seen):
    """With the buckets that the conventions advise, and few attributes."""
    client.get("/users/7")
    client.get("/users/8")
    client.get("/bug")

    points = {
        point.attributes["http.route"]: point
        for point in seen.points("http.server.request.duration")}
    assert dict(points["/users/{id}"].attributes) == {
        "http.request.method": "GET", "url.scheme": "http", "http.route": "/users/{id}",
        "http.response.status_code": 200, "network.protocol.version": "1.1"}
    assert points["/users/{id}"].count == 2
    assert 0 < points["/users/{id}"].sum < 60
    assert points["/users/{id}"].explicit_bounds == BUCKETS_S
    assert points["/bug"].attributes["error.type"] == "LookupError"


def test_requests_under_way_are_counted(seen):
    """One inside of the handler, none behind it."""
    app, inside = App(), []

    @app.get("/")
    def look():
        inside.append(seen.points("http.server.active_requests")[0].value)
        return ""

    instrument(app, seen.tracers, seen.meters)
    with TestClient(app) as client:
        client.get("/")
        client.get("/")
    assert inside == [1, 1]
    (point,) = seen.points("http.server.active_requests")
    assert point.value == 0
    assert dict(point.attributes) == {"http.request.method": "GET", "url.scheme": "http"}


# --- instrument() ------------------------------------------------------------------------


def test_an_application_is_instrumented_once_and_before_it_starts():
    """Each mistake says so."""
    app = App()
    instrument(app)
    with pytest.raises(FastserveError, match="instrumented already"):
        instrument(app)
    other = App()
    other.build_router()
    with pytest.raises(FastserveError, match="after the application started"):
        instrument(other)
    with pytest.raises(TypeError, match="collection of paths"):
        instrument(App(), excluded="/-/live")


def test_without_an_sdk_nothing_is_exported_and_everything_answered():
    """The API alone does nothing."""
    app = App()
    app.get("/")(lambda: "fine")
    instrument(app)
    with TestClient(app) as client:
        assert client.get("/", headers=SENT).body == b"fine"


def test_without_the_library_the_error_names_the_extra():
    """At the import of fastserve.otel, and not before."""
    code = ("import sys; sys.modules['opentelemetry'] = None; import fastserve\n"
            "try: import fastserve.otel\n"
            "except ImportError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "fastserve[otel]" in done.stdout, done.stderr


# --- clients that leave ------------------------------------------------------------------


@pytest.fixture
def bench():
    """Make a Bench on our own transport, which turns when it is told to."""
    with contextlib.ExitStack() as stack:
        def make(app):
            loop = stack.enter_context(running_loop(asyncio.new_event_loop))
            bench = Bench(app, loop, "socket")
            stack.callback(bench.close)
            return bench

        yield make


def none_under_way(seen):
    return [point.value for point in seen.points("http.server.active_requests")] == [0]


def leave(bench, seen, target, after):
    """Ask for something and go once this has come."""
    link = bench.connect()
    link.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    bench.wait_for(lambda: after in link.received)
    link.drop()
    bench.wait_for(lambda: none_under_way(seen) and len(seen.spans()) == 1)


def test_a_stream_that_its_client_leaves_has_ended(bench, seen):
    """That is how such streams end: it is no error."""
    app = App()

    @app.get("/events")
    async def events():
        yield "tick"
        await asyncio.sleep(600)

    instrument(app, seen.tracers, seen.meters)
    leave(bench(app), seen, "/events", b"tick")

    assert seen.span.status.status_code is StatusCode.UNSET
    assert seen.span.attributes["http.response.status_code"] == 200


def test_a_large_file_that_its_client_leaves_has_ended(bench, seen, tmp_path):
    """And its file is closed, as without us."""
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 25))
    app = App()
    app.get("/")(lambda: FileResponse(str(path)))
    instrument(app, seen.tracers, seen.meters)

    leave(bench(app), seen, "/", b"200 OK")

    assert str(path) not in {os.path.realpath(f"/proc/self/fd/{fd}")
                             for fd in os.listdir("/proc/self/fd")}


def test_a_handler_whose_client_leaves_is_cancelled_and_has_ended(bench, seen):
    """There was no answer: neither has its span a status."""
    app, begun = App(), []

    @app.get("/")
    async def for_ever():
        begun.append(True)
        await asyncio.sleep(600)

    instrument(app, seen.tracers, seen.meters)
    made = bench(app)
    link = made.connect()
    link.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    made.wait_for(lambda: bool(begun))
    link.drop()
    made.wait_for(lambda: len(seen.spans()) == 1)

    assert seen.span.attributes["error.type"] == "CancelledError"
    assert "http.response.status_code" not in seen.span.attributes
    assert none_under_way(seen)


def test_a_handler_whose_time_is_over_has_ended(bench, seen):
    """The 504 is the server's own, behind the span."""
    app = App()

    @app.get("/", handler_timeout_s=5)
    async def for_ever():
        await asyncio.sleep(600)

    instrument(app, seen.tracers, seen.meters)
    made = bench(app)
    link = made.connect()
    link.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    made.wait_for(lambda: made.engine.requests_in_flight == 1)
    for _ in range(30):
        made.clock.now_s += 0.25
        made.engine.tick()
    made.wait_for(lambda: b" 504 " in link.received)

    assert seen.span.attributes["error.type"] == "CancelledError"
    assert none_under_way(seen)


def test_a_body_that_never_began_has_ended(bench, seen):
    """It waited behind another answer, and the client went."""
    app, begun = App(), []

    @app.get("/first")
    async def first():
        begun.append(True)
        await asyncio.sleep(600)

    @app.get("/second")
    async def second():
        yield "second"

    instrument(app, seen.tracers, seen.meters)
    made = bench(app)
    link = made.connect()
    link.send(b"".join(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % name
                       for name in (b"first", b"second")))
    made.wait_for(lambda: bool(begun))
    made.turn()
    link.drop()
    made.wait_for(lambda: len(seen.spans()) == 2 and none_under_way(seen))


@pytest.mark.parametrize("made_of", ["pieces", "a file"])
def test_a_body_for_a_client_that_has_left_has_ended(bench, seen, tmp_path, made_of):
    """The handler ran to its end, and nobody was there to send its body to."""
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 20))
    app = App()

    @app.post("/")
    async def body():
        app.state.gate = asyncio.get_running_loop().create_future()
        await app.state.gate
        return FileResponse(str(path)) if made_of == "a file" else StreamingResponse(["a", "b"])

    instrument(app, seen.tracers, seen.meters)
    made = bench(app)
    link = made.connect()
    link.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    made.wait_for(lambda: made.engine.requests_in_flight == 1)
    link.drop()
    made.wait_for(lambda: made.engine.connections == 0)
    made.loop.call_soon(app.state.gate.set_result, None)
    made.wait_for(lambda: len(seen.spans()) == 1 and none_under_way(seen))

    assert str(path) not in {os.path.realpath(f"/proc/self/fd/{fd}")
                             for fd in os.listdir("/proc/self/fd")}
