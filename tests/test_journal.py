"""The access log's lines: what stands in them, that nobody forges one, and which there are."""

import asyncio
import datetime
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Bench, request, running_loop

from fastserve import App, StreamingResponse
from fastserve._speedups.journal import (
    LOG_LINE_BYTES,
    MAX_LOGGED_HEADERS,
    MAX_LOGGED_NAME_BYTES,
    Journal,
    RecordJournal,
)
from fastserve._speedups.plan import Plan
from fastserve.config import Config
from fastserve.proxy import ForwardedFields

FORMATS = ("text", "json", "logfmt")
MOMENT_NS = 1_700_000_000_123_456_789
HEAD = b"GET /users/7?full=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: curl/8.5.0\r\n\r\n"
QUOTED = r'"((?:[^"\\]|\\.)*)"'
TEXT_LINE = re.compile(
    r"(?P<client>\S+) - - \[(?P<time>[^\]]+)\] " + QUOTED.replace("(", "(?P<line>", 1)
    + r" (?P<status>\d+) (?P<bytes>\d+) (?P<duration>\d+\.\d{6}) (?P<id>\S+) "
    + QUOTED.replace("(", "(?P<route>", 1) + rf"(?P<headers>(?: {QUOTED})*)\n")
LOGFMT_PAIR = re.compile(r'([^ ="]+)=("(?:[^"\\]|\\.)*"|[^ "=]+)(?: |\n)')

# Whatever could be between the delimiters of a head: more than any parser of ours lets pass.
TOKENS = st.text("!#$%&'*+-.^_`|~azAZ09", min_size=1, max_size=32).map(str.encode)
ANY_BYTES = st.binary(max_size=400)
TARGETS = ANY_BYTES.map(lambda data: b"/" + re.sub(rb"[ \r\n]", b"x", data))
VALUES = ANY_BYTES.map(lambda data: re.sub(rb"[\r\n]", b"x", data).strip(b" \t"))


def plan_of(path):
    return Plan(lambda: None, (), route=SimpleNamespace(path=path))


PLAN = plan_of("/users/{id}")


class Written:
    """A journal, and what it has written."""

    def __init__(self, *, kind=Journal, offset_ns=0, **options):
        self.pieces = []
        self.offset_ns = offset_ns
        self.journal = kind(
            self.pieces.append, wall_offset_ns=lambda: self.offset_ns, **options)

    def add(self, head=HEAD, *, ended_ns=MOMENT_NS, duration_ns=412_000, **fields):
        self.journal.add_request(
            head, begun_ns=ended_ns - duration_ns, ended_ns=ended_ns, **fields)

    def text(self):
        """What has not been looked at yet."""
        self.journal.flush()
        data = b"".join(self.pieces)
        self.pieces.clear()
        return data.decode("ascii")


def one_line(format, head=HEAD, *, headers=(), **fields):
    written = Written(format=format, headers=headers)
    written.add(head, **fields)
    return written.text()


def head_of(target, *fields, method=b"GET"):
    lines = [method + b" " + target + b" HTTP/1.1", *(name + b": " + v for name, v in fields)]
    return b"\r\n".join((*lines, b"", b""))


def unquoted(text):
    """The bytes that a text line's quoted part stands for."""
    def byte(match):
        shown = match[1]
        return chr(int(shown[1:], 16)) if shown[0] == "x" else shown

    return re.sub(r"\\(x[0-9a-f]{2}|.)", byte, text).encode("latin-1")


def read_logfmt(line):
    """Its pairs; it must consist of nothing else."""
    assert LOGFMT_PAIR.sub("", line) == "", line
    return {key: json.loads(value) if value[0] == '"' else value
            for key, value in LOGFMT_PAIR.findall(line)}


def matches(shown, raw):
    """The whole of it, or what there was room for."""
    return shown == raw or (shown.endswith(b"...") and raw.startswith(shown[:-3]))


def test_text_is_a_combined_line_with_more_behind_it():
    """Tools that know Apache's format find in it what they look for."""
    line = one_line("text", headers=("user-agent", "referer"), client=b"192.0.2.1", id=b"a-1",
                    body_bytes=17, plan=PLAN)

    assert line == (
        '192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] "GET /users/7?full=1 HTTP/1.1" 200 17 '
        '0.000412 a-1 "/users/{id}" "curl/8.5.0" "-"\n')


def test_json_is_an_object_on_a_line():
    """Every field has its type; a header that did not come has no key."""
    line = one_line("json", headers=("User-Agent", "referer"), client=b"192.0.2.1", id=b"a-1",
                    body_bytes=17, plan=PLAN)

    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123456Z", "client": "192.0.2.1", "method": "GET",
        "target": "/users/7?full=1", "version": "1.1", "route": "/users/{id}", "status": 200,
        "body_bytes": 17, "duration_s": 0.000412, "request_id": "a-1",
        "headers": {"user-agent": "curl/8.5.0"},
    }
    assert "headers" not in json.loads(one_line("json"))


def test_logfmt_quotes_what_needs_it():
    """A word stands alone; what has a space, a quote or "=" stands between quotes."""
    head = head_of(b"/users/7?full=1", (b"User-Agent", b"a b"), (b"Accept", b"*/*"))
    line = one_line("logfmt", head, headers=("user-agent", "accept", "referer"),
                    client=b"192.0.2.1", id=b"a-1", body_bytes=17, plan=PLAN)

    assert line == (
        'time=2023-11-14T22:13:20.123456Z client=192.0.2.1 method=GET target="/users/7?full=1" '
        'version=1.1 route=/users/{id} status=200 body_bytes=17 duration_s=0.000412 '
        'request_id=a-1 header.user-agent="a b" header.accept=*/*\n')
    assert ' header.x=""\n' in one_line("logfmt", head_of(b"/", (b"X", b"")), headers=("x",))


@pytest.mark.parametrize(
    ("format", "shown"),
    [
        ("text", '- - - [14/Nov/2023:22:13:20 +0000] "-" 400 0 0.000412 - "-" "-"\n'),
        ("json", '"client":"-","method":null,"target":null,"version":null,"route":null,'
                 '"status":400,"body_bytes":0,"duration_s":0.000412,"request_id":null,'
                 '"headers":{}}\n'),
        ("logfmt", "client=- method=- target=- version=- route=- status=400 body_bytes=0 "
                   "duration_s=0.000412 request_id=-\n"),
    ],
)
def test_what_is_unknown_of_a_refused_request_is_so(format, shown):
    """It has no method, no target and no version that anybody could vouch for."""
    assert one_line(format, None, status=400, headers=("user-agent",)).endswith(shown)


@given(target=TARGETS, values=st.tuples(VALUES, VALUES), id=st.binary(max_size=40),
       client=ANY_BYTES, method=TOKENS)
@settings(max_examples=300, deadline=None)
def test_json_is_valid_and_means_the_bytes_that_came(target, values, id, client, method):
    """Whatever they are: read as Latin-1, a string is what the client sent. All of it ASCII."""
    value, second = values
    head = head_of(target, (b"X-One", value), (b"Host", b"a"), (b"x-one", second), method=method)
    line = one_line("json", head, headers=("x-one",), id=id, client=client)

    found = json.loads(line)
    raw = {key: found[key].encode("latin-1") for key in ("target", "client", "method")}
    assert re.fullmatch(r"[ -~]+\n", line)
    assert len(line) <= LOG_LINE_BYTES
    assert matches(raw["target"], target)
    assert matches(raw["client"], client)
    assert raw["method"] == method
    assert (found["request_id"] or "").encode("latin-1") == id
    assert matches(found["headers"]["x-one"].encode("latin-1"), value + b", " + second)


@given(target=TARGETS, value=VALUES, id=st.binary(max_size=40), client=ANY_BYTES)
@settings(max_examples=300, deadline=None)
def test_a_text_line_is_one_line_of_printable_ascii(target, value, id, client):
    """Its parts can be told apart, and turned back into what came."""
    head = head_of(target, (b"X-One", value))
    line = one_line("text", head, headers=("x-one", "x-two"), id=id, client=client, plan=PLAN)

    parts = TEXT_LINE.fullmatch(line)
    assert re.fullmatch(r"[ -~]+\n", line)
    assert parts
    shown = unquoted(parts["line"]).removeprefix(b"GET ").removesuffix(b" HTTP/1.1")
    assert matches(shown, target)
    assert matches(unquoted(parts["client"]), client or b"-")
    assert unquoted(parts["id"]) == (id or b"-")
    headers = re.findall(QUOTED, parts["headers"])
    assert matches(unquoted(headers[0]), value)
    assert headers[1] == "-"


@given(target=TARGETS, value=VALUES, id=st.binary(max_size=40), client=ANY_BYTES)
@settings(max_examples=300, deadline=None)
def test_a_logfmt_line_is_pairs_alone(target, value, id, client):
    """No value ends early, none begins another pair."""
    head = head_of(target, (b"X-One", value))
    line = one_line("logfmt", head, headers=("x-one",), id=id, client=client)

    found = {key: text.encode("latin-1") for key, text in read_logfmt(line).items()}
    assert re.fullmatch(r"[ -~]+\n", line)
    assert list(found) == ["time", "client", "method", "target", "version", "route", "status",
                           "body_bytes", "duration_s", "request_id", "header.x-one"]
    assert matches(found["target"], target)
    assert matches(found["client"], client)
    assert found["request_id"] == (id or b"-")
    assert matches(found["header.x-one"], value)


@pytest.mark.parametrize("format", FORMATS)
def test_terminal_escapes_do_not_pass(format):
    """PYSEC-2020-150 (uvicorn): a target or header that moved the cursor of who read the log."""
    nasty = "\x1b[2J\x9b\x85\x07\u2028\x7f\0".encode()
    line = one_line(format, head_of(b"/" + nasty, (b"X", nasty)), headers=("x",))

    assert line.isascii()
    assert line[:-1].isprintable()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("byte", [b"a", b'"', b"\x1b"])
def test_the_longest_line_fits_a_write_to_a_pipe(format, byte):
    """However much a client sends, and however many headers are chosen: each has its share."""
    names = [f"x{n}-{'n' * MAX_LOGGED_NAME_BYTES}"[:MAX_LOGGED_NAME_BYTES]
             for n in range(MAX_LOGGED_HEADERS)]
    fields = [(name.encode(), byte * 9000) for name in names for _ in range(2)]
    head = head_of(b"/" + byte * 9000, *fields, method=b"M" * 32)
    line = one_line(format, head, headers=names, client=byte * 9000, id=byte * 40,
                    plan=plan_of("/" + "é" * 2000), body_bytes=2**62, status=999,
                    duration_ns=2**60)

    assert len(line) <= LOG_LINE_BYTES
    assert len(line) > LOG_LINE_BYTES * 0.9
    if format == "json":
        found = json.loads(line)
        assert list(found["headers"]) == names
        assert all(value.endswith("...") for value in found["headers"].values())
        assert found["route"].startswith("/éé")
        assert found["target"].endswith("...")
    elif format == "logfmt":
        assert len(read_logfmt(line)) == 10 + MAX_LOGGED_HEADERS
    else:
        assert len(re.findall(QUOTED, TEXT_LINE.fullmatch(line)["headers"])) == MAX_LOGGED_HEADERS


def test_a_short_value_is_whole_beside_a_long_one():
    """What one header does not take is another's."""
    head = head_of(b"/", (b"A", b"x" * 3000), (b"B", b"y" * 900), (b"C", b"z"))
    found = json.loads(one_line("json", head, headers=("a", "b", "c")))["headers"]

    assert found["a"] == "x" * 1021 + "..."
    assert found["b"] == "y" * 900
    assert found["c"] == "z"


def test_headers_are_found_in_any_case_and_joined():
    """In the order in which they were chosen; a name that only begins alike is another."""
    head = head_of(b"/", (b"X-AB", b"1"), (b"x-a", b" 2 \t"), (b"X-a", b""), (b"X-A", b"3"))
    written = Written(format="text", headers=("X-a", "x-none", "x-ab"))
    written.add(head)

    assert written.text().endswith(' "2, , 3" "-" "1"\n')


def test_a_client_that_sends_a_header_a_hundred_times_gets_one_line():
    """Past a bound its repetitions are left out."""
    head = head_of(b"/", *[(b"X", b"%d" % n) for n in range(100)])
    found = json.loads(one_line("json", head, headers=("x",)))

    assert found["headers"]["x"] == ", ".join(map(str, range(64)))


def test_a_route_is_shown_as_it_is_written():
    """The application's own words: characters, not bytes."""
    assert json.loads(one_line("json", plan=plan_of('/grüße/{name}/"\U0001f600"')))["route"] \
        == '/grüße/{name}/"\U0001f600"'
    assert r'"/gr\xc3\xbc/\"x\""' in one_line("text", plan=plan_of('/grü/"x"'))


@pytest.mark.parametrize(
    "moment",
    ["1970-01-01T00:00:00.000000", "2024-02-29T23:59:59.999999", "2026-12-31T23:59:59.000001",
     "2100-03-01T00:00:00.500000", "2038-01-19T03:14:08.000000"],
)
def test_the_time_is_utc(moment):
    """Leap days, the ends of years and of 32 bits."""
    when = datetime.datetime.fromisoformat(moment + "+00:00")
    micros = (when - datetime.datetime.fromtimestamp(0, datetime.timezone.utc)) \
        // datetime.timedelta(microseconds=1)
    fields = {"ended_ns": micros * 1000, "duration_ns": 0}

    assert json.loads(one_line("json", **fields))["time"] == moment + "Z"
    assert when.strftime("[%d/%b/%Y:%H:%M:%S +0000]") in one_line("text", **fields)


def test_a_step_of_the_clock_shows_within_a_second():
    """With the next flush, of which there are four; or, without any, with the next second."""
    written = Written(format="logfmt")
    second = 1_000_000_000
    written.add(ended_ns=MOMENT_NS)
    written.offset_ns = 3600 * second
    written.add(ended_ns=MOMENT_NS)                     # the same second, and nobody flushed
    written.add(ended_ns=MOMENT_NS + second)
    lines = written.text().splitlines()
    written.offset_ns = 0
    written.journal.flush()
    written.add(ended_ns=MOMENT_NS + second)
    lines += written.text().splitlines()

    assert [read_logfmt(line + "\n")["time"][11:19] for line in lines] == [
        "22:13:20", "22:13:20", "23:13:21", "22:13:21"]


def test_the_clock_is_the_wall_s():
    """Unless somebody says otherwise."""
    pieces = []
    journal = Journal(pieces.append)
    now = datetime.datetime.now(datetime.timezone.utc)
    journal.add_request(HEAD, ended_ns=time.monotonic_ns())
    journal.flush()

    shown = datetime.datetime.fromisoformat(json.loads(pieces[0])["time"].replace("Z", "+00:00"))
    assert abs(shown - now) < datetime.timedelta(seconds=60)


def test_a_duration_is_never_negative():
    """Nor is it rounded up."""
    assert json.loads(one_line("json", duration_ns=-5))["duration_s"] == 0
    assert '"duration_s":61.999999' in one_line("json", duration_ns=61_999_999_999)


def statuses(text):
    return [json.loads(line)["status"] for line in text.splitlines()]


def test_a_sample_is_about_its_share_and_all_errors():
    """Each request is drawn; 5xx always have a line."""
    written = Written(sample=0.25)
    for _ in range(4000):
        written.add()
    written.add(status=500)

    found = statuses(written.text())
    assert 800 < found.count(200) < 1200    # 7 standard deviations
    assert found.count(500) == 1


def test_no_sample_at_all_is_errors_alone():
    """And a sample of 1 is everything."""
    nothing, everything = Written(sample=0), Written(sample=1)
    for written in (nothing, everything):
        for status in (200, 499, 404, 500, 503) * 50:
            written.add(status=status)

    assert statuses(nothing.text()) == [500, 503] * 50
    assert statuses(everything.text()) == [200, 499, 404, 500, 503] * 50


def test_two_journals_do_not_draw_the_same():
    """Workers are forked; each has a chance of its own."""
    first, second = Written(sample=0.5), Written(sample=0.5)
    for number in range(200):
        for written in (first, second):
            written.add(body_bytes=number)

    assert first.text() != second.text()


def test_slow_ones_only():
    """From the limit on; and 5xx. With a sample, of the slow ones it is."""
    written = Written(slow_s=0.5)
    written.add(duration_ns=499_999_999)
    written.add(duration_ns=500_000_000, status=201)
    written.add(duration_ns=1, status=502)
    both = Written(slow_s=0.5, sample=0)
    both.add(duration_ns=10**10)

    assert statuses(written.text()) == [201, 502]
    assert both.text() == ""


def test_many_lines_do_not_wait_for_the_tick():
    """From 32 KiB on they go, whole lines, and nothing is lost."""
    written = Written()
    for _ in range(1000):
        written.add()
    before_flush = written.pieces[:]

    assert len(before_flush) > 4
    assert all(32768 <= len(piece) < 32768 + LOG_LINE_BYTES for piece in before_flush)
    assert all(piece.endswith(b"}\n") for piece in before_flush)
    assert len(statuses(written.text())) == 1000


def test_nothing_is_handed_over_when_there_is_nothing():
    """An idle worker wakes nobody."""
    written = Written()
    written.journal.flush()

    assert written.pieces == []


@pytest.mark.parametrize(
    "options",
    [
        {"format": "xml"}, {"sample": 1.1}, {"sample": -0.1}, {"sample": float("nan")},
        {"headers": [f"x{n}" for n in range(MAX_LOGGED_HEADERS + 1)]},
        {"headers": ["x" * (MAX_LOGGED_NAME_BYTES + 1)]}, {"headers": [""]},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    """Before there is a line."""
    with pytest.raises(ValueError, match="format|sample|header"):
        Journal(print, **options)


def test_an_id_has_its_bound():
    """It stands in a struct of its size."""
    with pytest.raises(ValueError, match="at most 40 bytes"):
        one_line("json", id=b"x" * 41)


def test_records_are_fields():
    """For who wants no lines: at once, and with the same sample."""
    written = Written(kind=RecordJournal, headers=("x",), slow_s=0.0001, offset_ns=5 * 10**9)
    written.add(head_of(b"/a", (b"X", b"1"), (b"x", b"\xff")), client=b"::1", id=b"i", plan=PLAN)
    written.add(None, status=400)
    written.add(duration_ns=1)

    first, second = written.pieces
    assert first.pop("ended_s") == pytest.approx(MOMENT_NS / 1e9 + 5, abs=1e-3)
    assert first.pop("duration_s") == pytest.approx(0.000412)
    assert first == {
        "client": "::1", "method": "GET", "target": "/a", "version": "1.1",
        "route": "/users/{id}", "status": 200, "body_bytes": 0, "request_id": "i",
        "headers": {"x": "1, ÿ"}}
    assert (second["method"], second["target"], second["route"], second["request_id"]) == (
        None, None, None, None)


# Behind a real protocol.


@pytest.fixture
def bench():
    app = App()

    @app.get("/users/{id}")
    def user(id: int):
        return {"id": id}

    @app.get("/boom")
    def boom():
        raise RuntimeError("private")

    @app.get("/stream")
    async def stream():
        async def pieces():
            for _ in range(3):
                yield b"12345"
        return StreamingResponse(pieces())

    gates = []

    @app.get("/gate")
    async def gate():
        gates.append(asyncio.get_running_loop().create_future())
        return await gates[0]

    written = Written()
    with running_loop(asyncio.new_event_loop) as loop:
        bench = Bench(app, loop, "fake", journal=written.journal)
        bench.written = written
        bench.gates = gates
        yield bench
        bench.close()


def test_each_request_of_a_connection_has_its_line(bench, caplog):
    """In order, with what was answered: pipelined, streamed, not found, failed, refused."""
    link = bench.connect()
    link.send(request("/users/7") + request("/nope") + request("/boom", X_Request_ID="mine-1"))
    bench.turn()
    link.send(request("/stream"))
    bench.turn()
    link.send(b"GET / HTTP/9.9\r\n\r\n")
    bench.turn()

    lines = [json.loads(line) for line in bench.written.text().splitlines()]
    assert [(line["target"], line["route"], line["status"]) for line in lines] == [
        ("/users/7", "/users/{id}", 200), ("/nope", None, 404), ("/boom", "/boom", 500),
        ("/stream", "/stream", 200), (None, None, 505)]
    assert [line["body_bytes"] for line in lines][::3] == [8, 15]
    assert lines[2]["request_id"] == "mine-1"
    assert len({line["request_id"] for line in lines}) == 5
    assert all(0 <= line["duration_s"] < 60 for line in lines)


def test_what_is_refused_behind_a_request_leaves_its_client_alone(bench):
    """The client's name is one object for the life of a connection: who waits points to it."""
    link = bench.connect()
    link.send(request("/gate"))
    bench.wait_for(lambda: bool(bench.gates))
    link.send(b"no request at all\r\n\r\n")
    bench.gates[0].set_result("open")
    bench.turn()

    lines = [json.loads(line) for line in bench.written.text().splitlines()]
    assert [(line["status"], line["client"]) for line in lines] == [
        (400, "192.0.2.7"), (200, "192.0.2.7")]


def test_behind_a_proxy_the_client_is_whom_it_names(bench):
    """Whatever the answer: of a handler, of no route, of a method that is not allowed."""
    forwarded = ForwardedFields.from_config(Config(forwarded_allow_ips="192.0.2.0/24"))
    written = Written()
    behind = Bench(bench.engine.app, bench.loop, "fake", journal=written.journal,
                   forwarded=forwarded)
    link = behind.connect()
    for target, method in (("/users/7", "GET"), ("/nope", "GET"), ("/users/7", "POST")):
        link.send(request(target, method=method, X_Forwarded_For="203.0.113.9"))
        behind.turn()
    behind.close()

    lines = [json.loads(line) for line in written.text().splitlines()]
    assert [(line["status"], line["client"]) for line in lines] == [
        (200, "203.0.113.9"), (404, "203.0.113.9"), (405, "203.0.113.9")]


def test_the_engine_s_tick_flushes(bench):
    """So a line is written within a quarter of a second."""
    link = bench.connect()
    link.send(request("/users/7"))
    bench.turn()
    assert bench.written.pieces == []
    bench.engine.tick()

    assert len(bench.written.pieces) == 1


# On its page.


def test_the_lines_on_the_page_are_what_is_written():
    """docs/logging.md shows one request in each format."""
    page = (Path(__file__).parent.parent / "docs" / "logging.md").read_text()
    moment = datetime.datetime(2026, 11, 21, 19, 6, 27, 123456, datetime.timezone.utc)
    ended_ns = int(moment.timestamp()) * 10**9 + 123_456_000
    for format in FORMATS:
        shown = re.search(rf"^```{format}\n(.*\n)```$", page, re.MULTILINE)[1]
        assert shown == one_line(
            format, headers=("user-agent",), client=b"192.0.2.7", id=b"5f0c2a91d3e7-1a",
            body_bytes=17, plan=PLAN, ended_ns=ended_ns)
