"""What a worker counts of its requests, as another process would read it."""

import asyncio
import itertools
import mmap
import os
import struct
import tempfile

import pytest
from support import Bench, running_loop

from fastserve import App, HTTPError, Request
from fastserve._speedups import scoreboard as layout
from fastserve._speedups.scoreboard import Scoreboard, bucket_limit_ns

ROW_WORDS = layout.ROW_BYTES // 8
FIRST_ROW = layout.HEADER_BYTES // 8
FIRST_RECORD = FIRST_ROW + layout.MAX_ROWS * ROW_WORDS


class Reader:
    """A block as words, and what they mean."""

    def __init__(self, file):
        self.view = mmap.mmap(file.fileno(), layout.BLOCK_BYTES)

    def word(self, index):
        return struct.unpack_from("@Q", self.view, 8 * index)[0]

    def text(self, index, size):
        return self.view[8 * index:8 * index + size].partition(b"\0")[0].decode()

    @property
    def rows(self):
        """By label: ({status: count}, durations counted, body bytes)."""
        found = {}
        for row in range(self.word(layout.AT_ROWS)):
            at = FIRST_ROW + row * ROW_WORDS
            statuses = {
                name: self.word(at + layout.ROW_STATUSES + index)
                for index, name in enumerate(layout.STATUS_NAMES)
                if self.word(at + layout.ROW_STATUSES + index)}
            times = sum(self.word(at + layout.ROW_HISTOGRAM + n) for n in range(layout.BUCKETS))
            found[self.text(at + layout.ROW_LABEL, layout.LABEL_BYTES)] = (
                statuses, times, self.word(at + layout.ROW_BODY_BYTES))
        return found

    def record(self, number):
        """(words, id, line) of a request."""
        at = FIRST_RECORD + number % layout.RING_RECORDS * (layout.RECORD_BYTES // 8)
        words = [self.word(at + index) for index in range(layout.RECORD_ID)]
        sizes = words[layout.RECORD_SIZES]
        name = self.text(at + layout.RECORD_ID, sizes & 255)
        line = self.view[8 * (at + layout.RECORD_LINE):][:sizes >> 16]
        return words, name, line

    def ran_ns(self, number):
        """When a request had its turn."""
        at = FIRST_RECORD + number % layout.RING_RECORDS * (layout.RECORD_BYTES // 8)
        return self.word(at + layout.RECORD_RAN_NS)

    def close(self):
        self.view.close()


@pytest.fixture
def file():
    with tempfile.TemporaryFile() as made:
        os.ftruncate(made.fileno(), layout.BLOCK_BYTES)
        yield made


@pytest.fixture(params=["fake", "socket", "loop"])
def kind(request):
    return request.param


@pytest.fixture
def loop():
    with running_loop(asyncio.new_event_loop) as made:
        yield made


@pytest.fixture
def watched(file, loop, kind):
    """Make a bench whose requests are counted, and the reader of the counts."""
    made = []

    def make(app, **settings):
        bench = Bench(app, loop, kind, board=Scoreboard(file.fileno(), 0, slot=3), **settings)
        reader = Reader(file)
        made.extend((bench, reader))
        return bench, reader

    yield make
    for one in made:
        one.close()


def app_of_all_kinds():
    app = App()

    @app.get("/")
    def home():
        return "hello"

    @app.get("/users/{id:int}")
    async def user(id: int):
        await asyncio.sleep(0)
        return {"id": id}

    @app.route("/boom", methods=["GET", "POST"])
    def boom():
        raise HTTPError(503, "busy")

    @app.get("/stream")
    async def stream():
        yield b"12345"
        yield b"67890"

    @app.get("/id")
    def id_of(request: Request):
        return request.id

    return app


def ask(bench, *targets, fields="", method="GET"):
    """Send requests one after the other on one connection; the last answer."""
    link = bench.connect()
    answer = b""
    for target in targets:
        link.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
        bench.turn()
        answer = link.received
    return answer


def test_each_method_and_route_has_a_row_with_its_statuses_and_bytes(watched):
    """Sync, async, failing and streaming handlers are counted once each, under their template."""
    bench, reader = watched(app_of_all_kinds())

    ask(bench, "/", "/", "/users/7", "/users/8", "/boom", "/stream")
    ask(bench, "/boom", method="POST")

    assert reader.rows["GET /"] == ({"200": 2}, 2, 10)
    assert reader.rows["GET /users/{id:int}"] == ({"200": 2}, 2, 16)
    assert reader.rows["GET /boom"] == ({"503": 1}, 1, 4)
    assert reader.rows["POST /boom"] == ({"503": 1}, 1, 4)
    assert reader.rows["GET /stream"] == ({"200": 1}, 1, 10)
    assert reader.word(layout.AT_REQUESTS) == 7
    assert reader.word(layout.AT_SLOT) == 3


def test_what_no_route_answers_makes_no_row(watched):
    """Paths that a stranger makes up, odd methods and bad requests are all row 0."""
    bench, reader = watched(app_of_all_kinds())

    ask(bench, *(f"/nowhere/{n}" for n in range(20)))
    ask(bench, "/", method="BREW")
    ask(bench, "bad target")

    labels = set(reader.rows)
    assert labels == {"", "other (other routes)"}
    assert reader.rows[""][0] == {"400": 1, "404": 20, "405": 1}


def test_a_client_that_leaves_is_a_499(watched):
    """A handler whose client is gone is counted as what nginx calls 499, and once."""
    app = App()
    begun = []

    @app.get("/wait")
    async def wait():
        begun.append(1)
        await asyncio.sleep(100)

    bench, reader = watched(app)
    link = bench.connect()
    link.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    bench.wait_for(lambda: bool(begun))
    assert reader.record(1)[0][layout.RECORD_ENDED_NS] == 0
    link.drop()
    bench.wait_for(lambda: "499" in reader.rows["GET /wait"][0])

    assert reader.rows["GET /wait"] == ({"499": 1}, 1, 0)


def test_the_ring_says_what_was_asked_and_when(watched):
    """A record has the line, the id, the status, and times in order."""
    bench, reader = watched(app_of_all_kinds())

    ask(bench, "/users/7?full=1", fields="X-Request-ID: abc-123\r\n")
    ask(bench, "/stream")

    words, name, line = reader.record(1)
    assert (name, line) == ("abc-123", b"GET /users/7?full=1")
    assert words[layout.RECORD_STATUS] == 200
    words, name, line = reader.record(2)
    assert name.endswith("-2")
    times = words[layout.RECORD_BEGUN_NS:layout.RECORD_ENDED_NS + 1]
    assert times == sorted(times)
    assert times[0] > 0


def test_the_wait_for_a_turn_counts(watched):
    """A request that stands in the queue of max_in_flight has begun, and runs when it is let in."""
    app = App()
    gates = []

    @app.get("/gate")
    async def gate():
        gates.append(asyncio.get_running_loop().create_future())
        await gates[-1]
        return ""

    bench, reader = watched(app, max_in_flight=1, queue_timeout_s=60.0)
    links = [bench.connect() for _ in range(2)]
    for link in links:
        link.send(b"GET /gate HTTP/1.1\r\nHost: a\r\n\r\n")
        bench.turn()
    assert reader.word(layout.AT_REQUESTS) == 1
    gates[0].set_result(None)
    bench.wait_for(lambda: len(gates) == 2)
    gates[1].set_result(None)
    bench.wait_for(lambda: reader.rows["GET /gate"][0] == {"200": 2})

    first, second = (
        (reader.record(number)[0][layout.RECORD_BEGUN_NS], reader.ran_ns(number))
        for number in (1, 2))
    assert first[0] == first[1]
    assert first[0] <= second[0] < second[1]


def test_the_ring_begins_again_and_a_late_end_hurts_nobody(watched):
    """Who ends after 256 others is counted, and its place in the ring is another's."""
    app = App()
    waiting = []

    @app.get("/late")
    async def late():
        waiting.append(asyncio.get_running_loop().create_future())
        await waiting[0]
        return "late"

    @app.get("/")
    def home():
        return "hello"

    bench, reader = watched(app)
    link = bench.connect()
    link.send(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
    bench.wait_for(lambda: bool(waiting))
    for _ in range(layout.RING_RECORDS // 16):
        ask(bench, *["/"] * 16)
    waiting[0].set_result(None)
    bench.turn()

    assert reader.rows["GET /late"][0] == {"200": 1}
    words, _, line = reader.record(1)
    assert words[layout.RECORD_NUMBER] == layout.RING_RECORDS + 1
    assert line == b"GET /"


def test_the_request_that_holds_the_loop_is_known(watched):
    """While a handler runs, sync or resumed, the board has its number; afterwards none."""
    app = App()
    seen = []

    @app.get("/sync")
    def sync():
        seen.append(reader.word(layout.AT_CURRENT))
        return ""

    @app.get("/resumed")
    async def resumed():
        await asyncio.sleep(0)
        seen.append(reader.word(layout.AT_CURRENT))
        await asyncio.sleep(0)
        return ""

    bench, reader = watched(app)
    ask(bench, "/sync", "/resumed")

    assert seen == [1, 2]
    assert reader.word(layout.AT_CURRENT) == 0


def test_nobody_holds_the_loop_behind_an_answer_of_the_server_s_own(watched):
    """What no route answers has no handler."""
    bench, reader = watched(app_of_all_kinds())
    ask(bench, "/nowhere")

    assert reader.word(layout.AT_CURRENT) == 0


def test_an_id_of_a_stranger_is_believed_only_where_it_is_sane(watched):
    """request.id is the client's where it is short and plain, else one of our own."""
    bench, _ = watched(app_of_all_kinds())

    assert ask(bench, "/id", fields="x-request-id:  abc/1:2\t\r\n").endswith(b"\r\n\r\nabc/1:2")
    for bad in ("a b", 'a"b', "a\x7fb".replace("\x7f", "<"), "x" * 41, ""):
        answer = ask(bench, "/id", fields=f"X-Request-Id: {bad}\r\n")
        body = answer.rpartition(b"\r\n\r\n")[2]
        assert len(body) > 12
        assert bad.encode() not in body or not bad


def test_an_id_that_comes_and_goes_is_noted_each_time(watched):
    """With the same fields again or with others, the record has what request.id says."""
    bench, reader = watched(app_of_all_kinds())
    link = bench.connect()
    sent = [None, None, None, "one", "one", "one", "a b", "a b", "a b", None, None, "two", None]
    named = []
    for number, own in enumerate(sent, 1):
        fields = "" if own is None else f"X-Request-ID: {own}\r\n"
        link.send(f"GET /id HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
        bench.turn()
        named.append(link.received.rpartition(b"\r\n\r\n")[2].decode())
        assert reader.record(number)[1] == named[-1]

    assert [name if name in ("one", "two") else None for name in named] == [
        None if own == "a b" else own for own in sent]
    assert len({name for name in named if name not in ("one", "two")}) == 9


def test_ids_of_our_own_differ(watched):
    """No two requests of an engine, nor of two engines, have one id."""
    bench, _ = watched(app_of_all_kinds())
    found = {ask(bench, "/id").rpartition(b"\r\n\r\n")[2] for _ in range(5)}

    assert len(found) == 5


def test_no_header_is_believed_where_none_is_named(watched):
    """request_id_header="" makes every id our own."""
    bench, _ = watched(app_of_all_kinds(), request_id_header="")

    assert not ask(bench, "/id", fields="X-Request-ID: abc\r\n").endswith(b"abc")


def test_a_tick_tells_the_gauges_and_the_lag(watched):
    """Connections, totals and how late the loop was are there after a tick."""
    bench, reader = watched(app_of_all_kinds())
    ask(bench, "/")
    bench.engine.tick(0.2, 5)

    assert reader.word(layout.AT_CONNECTIONS) == bench.engine.connections == 1
    assert reader.word(layout.AT_CONNECTIONS_TOTAL) == 1
    assert reader.word(layout.AT_BYTES_IN) > 20
    assert reader.word(layout.AT_BYTES_OUT) > 100
    assert reader.word(layout.AT_ACCEPT_QUEUE) == 5
    assert reader.word(layout.AT_LAG_NS) == 200_000_000
    assert reader.word(layout.AT_LONGEST_LAG_NS) >= 200_000_000


def test_a_deadline_that_passes_is_counted(file, loop):
    """A head that does not come in time is one of its kind, and a 408 of no route."""
    bench = Bench(app_of_all_kinds(), loop, "fake", board=Scoreboard(file.fileno(), 0))
    reader = Reader(file)
    link = bench.connect()
    link.send(b"GET / HT")
    for _ in range(45):
        bench.clock.now_s += 0.25
        bench.engine.tick()
    bench.turn()
    bench.engine.tick()

    expired = [reader.word(layout.AT_EXPIRED + kind) for kind in range(8)]
    assert expired == [0, 0, 0, 1, 0, 0, 0, 0]
    assert reader.rows[""][0] == {"408": 1}
    bench.close()
    reader.close()


def test_routes_beyond_the_rows_share_one(file, loop):
    """An application with more routes than rows is counted whole."""
    app = App()
    many = layout.MAX_ROWS + 10

    def handler():
        return ""

    for number in range(many):
        app.get(f"/r{number}", name=f"r{number}")(handler)
    bench = Bench(app, loop, "fake", board=Scoreboard(file.fileno(), 0))
    reader = Reader(file)
    link = bench.connect()
    for number in range(many):
        link.send(f"GET /r{number} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        bench.turn()

    assert reader.word(layout.AT_ROWS) == layout.MAX_ROWS
    assert reader.rows["other (other routes)"][0] == {"200": 12}
    bench.close()
    reader.close()


def test_a_long_template_is_cut_where_a_letter_ends(file, loop):
    """A label that does not fit is still UTF-8 and ends with a NUL."""
    app = App()
    app.get("/" + "ä" * 200)(lambda: "")
    bench = Bench(app, loop, "fake", board=Scoreboard(file.fileno(), 0))
    reader = Reader(file)
    link = bench.connect()
    link.send(b"GET /" + b"%C3%A4" * 200 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    bench.turn()

    label = max(reader.rows, key=len)
    assert label.startswith("GET /ä")
    assert layout.LABEL_BYTES - 3 <= len(label.encode()) < layout.LABEL_BYTES
    bench.close()
    reader.close()


def test_buckets_grow_by_half_an_octave():
    """Every limit is above the one before, from 8 microseconds to more than a minute."""
    limits = [bucket_limit_ns(bucket) for bucket in range(layout.BUCKETS - 1)]

    assert limits[0] == 8192
    assert limits[-1] > 60e9
    assert all(1.3 < after / before < 1.6 for before, after in itertools.pairwise(limits))
    assert bucket_limit_ns(layout.BUCKETS - 1) == 0


def test_every_status_has_a_place():
    """Common statuses have their own, the others one for each class."""
    assert len(layout.STATUS_NAMES) <= layout.STATUSES
    assert {"200", "404", "499", "503", "2xx", "5xx"} <= set(layout.STATUS_NAMES)


def test_a_counter_that_is_none_is_refused(file):
    """Only the header's own words can be written."""
    board = Scoreboard(file.fileno(), 0)

    with pytest.raises(ValueError, match="no counter"):
        board.add(layout.AT_PID)
    with pytest.raises(ValueError, match="no gauge"):
        board.tick(0, {layout.AT_ROWS: 1})
    board.add(layout.AT_LINES_DROPPED, 7)
    reader = Reader(file)
    assert reader.word(layout.AT_LINES_DROPPED) == 7
    reader.close()
