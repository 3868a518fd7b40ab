"""Whole connections, by family of the public corpora: see wire/families.toml."""

import asyncio

import pytest
import wire_cases
from support import Bench, running_loop

from fastserve import App, Request
from fastserve._speedups.httptools_parser import HttptoolsParser
from fastserve._speedups.parser import NativeParser

CASES = wire_cases.load("families")
CUTS = 40  # of a case longer than that, only so many cuts are tried


def statuses(parser, data, cuts=()):
    """What a parser alone says: 200 for each message, and the status that ends it."""
    messages, end = wire_cases.read_stream(parser, data, cuts)
    return [200] * len(messages) + [end] * isinstance(end, int)


@pytest.mark.parametrize("backend", [NativeParser, HttptoolsParser])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_connection_is_read_as_its_family_demands(backend, case):
    """Both parsers, whatever the pieces the bytes arrive in."""
    parser = backend()
    assert statuses(parser, case.data) == case.answers
    step = max(1, len(case.data) // CUTS)
    for cut in range(1, len(case.data), step):
        assert statuses(parser, case.data, [cut]) == case.answers, cut
    if len(case.data) < wire_cases.BYTE_BY_BYTE // 8:
        assert statuses(parser, case.data, range(len(case.data))) == case.answers


@pytest.fixture(scope="module", params=["native", "httptools"])
def server(request):
    """A server whose application answers everything, and counts."""
    with running_loop(asyncio.new_event_loop) as loop:
        app = App()
        asked = []

        @app.route("/{rest:path}", methods=["*"])
        async def everything(request: Request, rest: str):
            asked.append((request.method, len(await request.body())))
            return b"ok"

        bench = Bench(app, loop, "fake", http=request.param)
        bench.asked = asked
        yield bench
        bench.close()


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_server_answers_as_the_family_demands(server, case):
    """Each request that is one reaches the application once; a refusal is one answer, and the end.

    The end of input in the middle of a message is no end of a message.
    """
    ways = [[case.data]]
    if len(case.data) < 1000:
        ways.append([case.data[index : index + 1] for index in range(len(case.data))])
    for pieces in ways:
        server.asked.clear()
        link = server.connect()
        link.send(*pieces)
        replies = [reply for reply in link.replies() if reply.status >= 200]
        refused = [answer for answer in case.answers if answer != 200]
        assert [reply.status for reply in replies] == case.answers
        assert len(server.asked) == case.answers.count(200)
        if refused:
            assert replies[-1].headers["connection"] == "close"
            assert link.closed
        if not link.closed:
            link.send_eof()
        assert len(server.asked) == case.answers.count(200)
