"""The memory that workers count into: what is read of it, and what becomes of it when they end."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from boards import add_request, add_row, block_of, memory_of, put, set_row

from fastserve import shm
from fastserve._speedups import scoreboard as layout
from fastserve.readings import LIMITS_S, REASONS, longest_s, quantile_s, total
from fastserve.shm import BoardError, SharedBoard, read_board


def requests_of(reading):
    """All that were counted, by route and status."""
    return {key: dict(series.statuses) for key, series in reading.series().items()}


def test_what_a_worker_counts_is_read(board):
    """Gauges, counters, and a series for each row that was used, from another descriptor too."""
    block, writer = block_of(board, slot=3, pid=4711)
    writer.add(layout.AT_BYTES_OUT, 123)
    writer.add(layout.AT_HANDLERS_EXPIRED)
    writer.add(layout.AT_EXPIRED + 3, 2)
    writer.tick(0.002, {layout.AT_CONNECTIONS: 4, layout.AT_DRAINING: 1})
    put(board, block, layout.AT_TICKED_NS, 0)   # or the time since then might count as lag
    add_row(board, block, b"GET /users/{id}", {200: 3, 404: 1}, seconds=0.01, body_bytes=5)
    set_row(board, block, 0, b"", {404: 2})

    reading = read_board(board.reading_fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(board.reading_fd, b"x", 0)

    (worker,) = reading.workers
    assert (worker.block, worker.slot, worker.pid) == (block, 3, 4711)
    assert (worker.connections, worker.draining, worker.lag_s) == (4, True, 0.002)
    assert 0 <= worker.age_s < 60
    assert worker.counters.bytes_out == 123
    assert worker.counters.expired == (0, 0, 2, 0, 0, 0, 1)
    assert sum(worker.counters.lag_buckets) == 1
    users, nobody = (reading.series()[key] for key in (
        ("GET", "/users/{id}"), ("other", "(no route)")))
    assert (users.count, users.body_bytes, users.sum_ns) == (4, 20, 40_000_000)
    assert dict(users.statuses) == {"200": 3, "404": 1}
    assert (users.errors(4), users.errors(5), nobody.errors(4)) == (1, 0, 2)
    assert len(reading.series()) == 2       # nothing was answered by a route that had no room
    assert abs(reading.started_s - time.time()) < 60


def test_a_block_that_nobody_writes_yet_is_no_worker(board):
    """It was handed out; its process has not come so far."""
    board.take()
    assert board.read().workers == ()
    assert board.read().counters().requests == 0


def test_what_an_ended_worker_counted_stays(board):
    """By label, wherever its rows were; gauges go, and the next one begins at nothing."""
    first, writer = block_of(board, slot=0)
    writer.add(layout.AT_REQUESTS, 5)
    writer.tick(0, {layout.AT_CONNECTIONS: 9})
    add_row(board, first, b"GET /a", {200: 2})
    add_row(board, first, b"GET /b", {500: 1})
    second, writer = block_of(board, slot=1)
    writer.add(layout.AT_REQUESTS, 7)
    add_row(board, second, b"GET /b", {500: 1, 200: 1})
    set_row(board, second, 0, b"", {400: 4})
    set_row(board, second, 1, b"other (other routes)", {200: 8})
    before = requests_of(board.read())

    board.retire(first)
    assert requests_of(board.read()) == before
    board.retire(second)

    reading = board.read()
    assert requests_of(reading) == before == {
        ("GET", "/a"): {"200": 2}, ("GET", "/b"): {"500": 2, "200": 1},
        ("other", "(no route)"): {"400": 4}, ("other", "(other routes)"): {"200": 8}}
    assert reading.counters().requests == 12
    assert reading.workers == ()
    assert board.take() == first
    put(board, first, shm.AT_OWNER, 0)
    assert not any(memory_of(board, first)[:])


def test_no_order_of_adding_changes_a_sum(board):
    """Seconds would: 0.1 + (0.2 + 0.3) is less than (0.1 + 0.2) + 0.3."""
    blocks = []
    for tenths in (1, 2, 3):
        block, writer = block_of(board)
        add_row(board, block, b"GET /", {200: 1}, seconds=tenths / 10)
        writer.tick(tenths / 10, {})
        blocks.append(block)

    def sums():
        reading = board.read()
        return reading.series()["GET", "/"].sum_ns / 1e9, reading.counters().lag_sum_ns / 1e9

    before = sums()
    for block in reversed(blocks):
        board.retire(block)
        assert sums() == before == (0.6, 0.6)


def test_memory_is_only_what_was_used(board):
    """A block that was given back is a hole again."""
    def used():
        return os.fstat(board.fd).st_blocks * 512

    empty = used()
    block, _ = block_of(board)
    for number in range(1, 300):
        add_request(board, block, number)
    assert used() > empty + layout.RING_RECORDS * layout.RECORD_BYTES
    board.retire(block)
    assert used() <= empty + 4096


def test_blocks_come_back_lowest_first(board):
    """So that the file stays as short as it can, and ends where they do."""
    blocks = [board.take() for _ in range(8)]
    assert blocks == list(range(1, 9))
    with pytest.raises(IndexError, match="every block"):
        board.take()
    for block in (5, 2):
        board.retire(block)
    assert [board.take(), board.take()] == [2, 5]
    assert shm.live_blocks(board.fd) == blocks


def come_and_go(board, rounds, each, go_on):
    """In a process of its own: a supervisor whose workers count, and end at once; its id.

    go_on:  a pipe, of which it reads a byte before each quarter
    """
    pid = os.fork()
    if pid == 0:
        try:
            mine = SharedBoard(8, board.fd)
            for number in range(rounds):
                if number % (rounds // 4) == 0:
                    os.read(go_on, 1)
                block, writer = block_of(mine)
                writer.add(layout.AT_REQUESTS, each)
                add_row(mine, block, b"GET /", {200: each})
                mine.retire(block)
        finally:
            os._exit(0)
    return pid


def test_no_reader_sees_a_sum_go_down_or_count_twice(board, monkeypatch):
    """While workers of two supervisors come, count and end as fast as they can."""
    monkeypatch.setattr(shm, "TRIES", 20_000)   # one of them may be stopped in the middle
    rounds, each = 200, 5
    going, go_on = os.pipe()
    pids = [come_and_go(board, rounds, each, going) for _ in range(2)]
    last, looks = (-1, -1), set()
    try:
        while last != (2 * rounds * each,) * 2:
            reading = board.read()
            series = total(reading.series().values())
            now = (reading.counters().requests, series.count)
            assert now[0] >= last[0]
            assert now[1] >= last[1]
            assert max(now) <= 2 * rounds * each
            if now != last:
                os.write(go_on, b"!!")      # nobody is done before it was looked at
            looks.add(last := now)
        assert len(looks) > 3
    finally:
        os.close(going)
        os.close(go_on)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_reader_waits_for_the_sums_to_agree(board, monkeypatch):
    """The sequence is odd while a block is moved; and whoever saw it change reads again."""
    block, writer = block_of(board)
    writer.add(layout.AT_REQUESTS, 5)
    seen = []
    read_all = shm._read_all

    def meanwhile(fd, directory):
        found = read_all(fd, directory)
        if not seen:
            board.retire(block)
        seen.append(found.counters().requests)
        return found

    monkeypatch.setattr(shm, "_read_all", meanwhile)
    assert board.read().counters().requests == 5
    assert len(seen) == 2
    put(board, 0, shm.AT_SEQUENCE, 7)
    monkeypatch.setattr(shm, "TRIES", 3)
    with pytest.raises(BoardError, match="is it alive"):
        board.read()
    assert len(seen) == 2


@pytest.mark.parametrize("seed", range(8))
def test_garbage_breaks_no_reader(board, seed):
    """Whatever bytes a worker left behind, it is read, moved to the past, and forgotten."""
    bytes_of = random.Random(seed)
    block, _ = block_of(board)
    with memory_of(board, block) as memory:
        memory[:] = bytes_of.randbytes(len(memory))
    put(board, block, layout.AT_LAYOUT, layout.LAYOUT)
    if seed % 2:
        put(board, block, layout.AT_ROWS, 300)

    reading = board.read()
    (worker,) = reading.workers
    assert len(worker.series) <= layout.MAX_ROWS
    assert len(board.requests(block)) <= layout.RING_RECORDS
    for record in board.requests(block):
        assert len(record.line.encode()) <= 3 * layout.LINE_BYTES
        assert record.duration_s >= 0
    board.retire(block)
    assert len(board.read().past.series) <= layout.MAX_ROWS
    assert board.read().workers == ()


def test_another_layout_is_refused(board):
    """By a tool of another version, which would misread it."""
    put(board, 0, layout.AT_LAYOUT, layout.LAYOUT + 1)
    with pytest.raises(BoardError, match="same version"):
        board.read()


def test_a_full_past_goes_on_among_the_other_routes(board):
    """No more than MAX_ROWS labels over all generations; what has no row then counts together."""
    for generation in range(3):
        block, _ = block_of(board)
        for row in range(2, 400):
            set_row(board, block, row, b"GET /%d/%d" % (generation, row), {200: 1})
        put(board, block, layout.AT_ROWS, 400)
        reading = board.read()
        assert total(reading.series().values()).count == 398 * (generation + 1)
        before = requests_of(reading)
        board.retire(block)
        after = requests_of(board.read())
        if generation == 0:
            assert not board.read().past.full
        # what was full before moves nothing from one name to another
        if generation == 2:
            assert after == before
    reading = board.read()
    assert reading.past.full
    assert len(reading.past.series) == layout.MAX_ROWS - 1  # (no route) had none
    assert reading.series()["other", "(other routes)"].count == 3 * 398 - (layout.MAX_ROWS - 2)


def test_restarts_are_counted_by_reason(board):
    """And only by those that there are."""
    board.count_restart("reload")
    board.count_restart("reload")
    board.count_restart("out_of_memory")
    with pytest.raises(ValueError, match="not in tuple"):
        board.count_restart("whim")
    restarts = board.read().past.restarts
    assert tuple(restarts) == REASONS
    assert {reason: count for reason, count in restarts.items() if count} == {
        "reload": 2, "out_of_memory": 1}


def test_a_loop_that_hangs_is_late_though_it_cannot_say_so(board):
    """Who reads knows when the next tick was due."""
    block, writer = block_of(board)
    writer.tick(0.0, {})
    put(board, block, layout.AT_TICKED_NS, time.monotonic_ns() - 3 * 10**9)

    (worker,) = board.read().workers
    assert 2.7 <= worker.lag_s < 60
    assert worker.longest_lag_s == worker.lag_s


def test_the_last_requests_are_read(board):
    """With their phases, the oldest first; the ring wraps."""
    block, _ = block_of(board, slot=2, pid=17)
    row = add_row(board, block, b"GET /users/{id}", {200: 1})
    for number in range(1, 301):
        add_request(board, block, number, line=b"GET /users/%d" % number, row=row,
                    id=b"abc", client=b"192.0.2.7", wait_s=0.004, handler_s=0.002, send_s=0.001)
    add_request(board, block, 301, status=0, line=b"GET /now", begun_ns=time.monotonic_ns() - 10**9)
    put(board, block, layout.AT_CURRENT, 301)

    records = board.requests(block)
    assert [record.number for record in records] == list(range(46, 302))
    *_, last, now = records
    assert (last.line, last.id, last.client) == ("GET /users/300", "abc", "192.0.2.7")
    assert (last.method, last.route, last.status) == ("GET", "/users/{id}", 200)
    assert (last.pid, last.slot, last.block) == (17, 2, block)
    assert last.handler_s == pytest.approx(0.002)
    assert last.send_s == pytest.approx(0.001)
    assert last.wait_s == pytest.approx(0.004)
    assert last.duration_s == pytest.approx(0.007)
    assert abs(last.begun_at_s - time.time()) < 60
    assert not last.under_way
    assert not last.holds_loop
    assert now.under_way
    assert now.holds_loop
    assert (now.handler_s, now.send_s, now.status) == (None, None, 0)
    assert 1 <= now.duration_s < 60
    assert (now.method, now.route) == ("other", "(no route)")


def test_a_record_that_is_being_written_is_left_out(board, monkeypatch):
    """One that another took the place of between two readings, and one without its number yet."""
    block, _ = block_of(board)
    for number in (1, 2, 3):
        add_request(board, block, number)
    with memory_of(board, block) as memory:
        at = layout.HEADER_BYTES + layout.MAX_ROWS * layout.ROW_BYTES + 2 * layout.RECORD_BYTES
        memory[at:at + 8] = bytes(8)
    read, reads = shm._read, []

    def overtaken(fd, start, size):
        data = read(fd, start, size)
        if size == layout.RING_RECORDS * layout.RECORD_BYTES:
            reads.append(start)
            add_request(board, block, 3 + layout.RING_RECORDS)
        return data

    monkeypatch.setattr(shm, "_read", overtaken)
    assert [record.number for record in board.requests(block)] == [1]
    assert len(reads) == 2


def test_without_memfd_it_is_a_file_that_no_directory_has(monkeypatch, tmp_path):
    """Where the system has no such call."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    board = SharedBoard(2)
    block, writer = block_of(board)
    writer.add(layout.AT_REQUESTS, 3)
    board.retire(block)
    assert board.read().counters().requests == 3
    assert not any(memory_of(board, block)[:])
    assert list(tmp_path.iterdir()) == []
    board.close()


def test_two_supervisors_share_it(board):
    """For as long as an upgrade takes: no block is handed out twice, and the sums are the same."""
    after = SharedBoard(8, os.dup(board.fd))
    blocks = [block_of(each)[0] for each in (board, after, board, after)]
    assert blocks == [1, 2, 3, 4]
    for block in blocks:
        add_row(board, block, b"GET /", {200: block})
    board.count_restart("reload")
    after.count_restart("reload")
    after.retire(2)
    board.retire(1)
    for each in (board, after):
        reading = each.read()
        assert requests_of(reading) == {("GET", "/"): {"200": 10}}
        assert [worker.block for worker in reading.workers] == [3, 4]
        assert reading.past.restarts["reload"] == 2
    assert after.take() == 1
    after.close()


def test_the_workers_of_a_supervisor_that_died_are_buried(board):
    """By the next one that needs a block: what they counted stays, and who lives is left alone."""
    pid = os.fork()
    if pid == 0:
        after = SharedBoard(8, board.fd)
        for block in (block_of(after)[0], block_of(after, pid=os.getppid())[0]):
            add_row(board, block, b"GET /", {200: block})
        after.take()    # its worker had not come so far
        os._exit(0)
    os.waitpid(pid, 0)
    assert shm.live_blocks(board.fd) == [1, 2, 3]
    put(board, 0, shm.AT_SEQUENCE, 7)   # and it died over the past
    mine, _ = block_of(board, pid=pid)
    assert mine == 1
    assert shm.live_blocks(board.fd) == [1, 2, 3]
    reading = board.read()
    assert requests_of(reading) == {("GET", "/"): {"200": 3}}
    assert [series.count for series in reading.past.series] == [1]
    for living in (os.getpid(), os.getppid()):
        put(board, mine, shm.AT_OWNER, living)
        assert board.take() != mine     # its supervisor will know of its end


def test_the_memory_of_another_version_is_not_used(board):
    """An upgrade may change the layout: then the sums begin anew."""
    add_row(board, block_of(board)[0], b"GET /", {200: 1})
    put(board, 0, layout.AT_LAYOUT, layout.LAYOUT + 1)
    after = SharedBoard(8, board.fd)
    assert after.fd != board.fd
    assert requests_of(after.read()) == {}
    after.close()


@pytest.mark.parametrize("blocks", [0, -1, 2048])
def test_a_number_of_blocks_has_bounds(blocks):
    """Those that the directory has bits for."""
    with pytest.raises(ValueError, match="from 1 to 2047"):
        SharedBoard(blocks)


def test_the_buckets_are_those_of_the_writer(board):
    """A duration just below a limit is in the bucket before it, one at it in the next."""
    block, writer = block_of(board)
    for limit_s in LIMITS_S[:-1]:
        before = board.worker(block).counters.lag_buckets
        writer.tick((limit_s * 1e9 - 0.5) / 1e9, {})
        writer.tick(limit_s + 1e-12, {})
        after = board.worker(block).counters.lag_buckets
        at = LIMITS_S.index(limit_s)
        grown = [now - then for now, then in zip(after, before, strict=True)]
        assert (grown[at], grown[at + 1], sum(grown)) == (1, 1, 2)


def test_quantiles_lie_where_the_durations_do():
    """Inside of the right bucket; none of nothing; of the last only its beginning is known."""
    buckets = [0] * len(LIMITS_S)
    assert quantile_s(buckets, 0.5) is None
    assert longest_s(buckets) is None
    buckets[10], buckets[20] = 90, 10
    assert LIMITS_S[9] < quantile_s(buckets, 0.5) <= LIMITS_S[10]
    assert quantile_s(buckets, 0.9) == LIMITS_S[10]
    assert LIMITS_S[19] < quantile_s(buckets, 0.99) < LIMITS_S[20]
    assert longest_s(buckets) == LIMITS_S[20]
    buckets[-1] = 10**6
    assert quantile_s(buckets, 0.99) == longest_s(buckets) == LIMITS_S[-2]


def test_what_came_between_two_readings(board):
    """Later less earlier."""
    block, writer = block_of(board)
    row = add_row(board, block, b"GET /", {200: 5})
    writer.add(layout.AT_REQUESTS, 5)
    before = board.worker(block)
    set_row(board, block, row, b"GET /", {200: 6, 503: 2})
    writer.add(layout.AT_REQUESTS, 3)
    after = board.worker(block)

    new = after.total().minus(before.total())
    assert (new.count, new.errors(), new.statuses["200"]) == (3, 2, 1)
    assert after.counters.minus(before.counters).requests == 3
