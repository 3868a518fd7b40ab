"""Rules of baseline, limited-conn, pipelined and noise: how requests arrive, and what is none."""

import time

from benchmarks.httparena.report import Report, dice
from benchmarks.httparena.wire import Answer, Connection, NoAnswer, ask, chunked, request

PAUSE_S = 0.03          # between the fragments of a request
DEPTH = 16              # of a pipeline
RECONNECTIONS, REQUESTS = 5, 10
PATH = "/baseline11?a=13&b=42"
NOISE_S = 1.0           # for an answer to noise; waiting for more is none

# Must be refused: a 4xx, or no answer at all.
REFUSED = {
    "binary": bytes(range(1, 256)) * 4 + b"\r\n\r\n",
    "a NUL in the path": b"GET /base\0line11?a=1&b=1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bare CR": b"GET /baseline11?a=1&b=1 HTTP/1.1\rHost: a\r\n\r\n",
    "control bytes in a field": b"GET /baseline11?a=1&b=1 HTTP/1.1\r\nHost: a\r\n"
                                b"X-Junk: \x01\x1f\x00\x7f\r\nX-Bad\r\n: value\r\n\r\n",
    "a field without a name": b"GET /baseline11?a=1&b=1 HTTP/1.1\r\nHost: a\r\n:\r\n\r\n",
    "a path that is not there": b"GET /this/is/not/there HTTP/1.1\r\nHost: a\r\n\r\n",
}
# May be taken or refused, but are no reason for a 5xx.
SURVIVED = {
    "a folded field": b"GET /baseline11?a=1&b=1 HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
    "a huge field": b"GET /baseline11?a=1&b=1 HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 70_000
                    + b"\r\n\r\n",
    "something behind the request": b"GET /baseline11?a=1&b=1 HTTP/1.1\r\nHost: a\r\n\r\n"
                                    b"X-After: no\r\n\r\n",
    "a body that does not come": b"POST /baseline11 HTTP/1.1\r\nHost: a\r\n"
                                 b"Content-Length: 999\r\n\r\n",
}


def sums_of_the_query(report: Report) -> None:
    """Of the known numbers and of others."""
    pairs = [(13, 42), *((dice.randint(100, 999), dice.randint(100, 999)) for _ in range(3))]
    for a, b in pairs:
        path = f"/baseline11?a={a}&b={b}"
        report.is_text(ask(report.target, request(path)), str(a + b), f"GET {path}")


def sums_with_the_body(report: Report) -> None:
    """By length and by chunks; the same path with another body is another sum."""
    first, second = dice.sample(range(100, 1000), 2)
    for number in (20, first, second):
        body = str(number).encode()
        expected = str(55 + number)
        report.is_text(
            ask(report.target, request(PATH, body, headers={"Content-Type": "text/plain"})),
            expected, f"POST {PATH} with {number}")
        report.is_text(ask(report.target, chunked(PATH, body)), expected,
                       f"POST {PATH} with {number} in a chunk")
        report.is_text(ask(report.target, chunked(PATH, body[:1], body[1:])), expected,
                       f"POST {PATH} with {number} in two chunks")


def requests_in_fragments(report: Report) -> None:
    """A line, a head, a body that come in parts."""
    end = "Connection: close\r\n\r\n"
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n{end}"
    for what, expected, fragments in (
        ("in the request line", "55",
         ("GET /baseli", "ne11?a=13&b=42 HTTP/1.1\r\n", f"Host: a\r\n{end}")),
        ("between fields", "55",
         (f"GET {PATH} HTTP/1.1\r\n", "Host: a\r\n", "User-Agent: parts/1\r\n", end)),
        ("before the body", "75", (head, "20")),
        ("inside of the body", "75", (head, "2", "0")),
    ):
        with Connection(report.target) as connection:
            for fragment in fragments:
                connection.send(fragment.encode())
                time.sleep(PAUSE_S)
            report.is_text(connection.answer(), expected, f"fragments: {what}")


def connections_are_kept(report: Report) -> None:
    """Ten requests of all kinds on each, then another."""
    for _ in range(RECONNECTIONS):
        with Connection(report.target) as connection:
            for number in range(REQUESTS):
                a = dice.randint(1, 999)
                path = f"/baseline11?a={a}&b=1"
                kind, data = (
                    ("GET", request(path)), ("POST", request(path, b"0")),
                    ("POST", chunked(path, b"0")))[number % 3]
                connection.send(data)
                try:
                    answer = connection.answer()
                except NoAnswer as error:
                    raise NoAnswer(f"request {number + 1} of a connection: {error}") from error
                report.is_text(answer, str(a + 1), f"{kind} {path}")


def an_answer_to_pipeline(report: Report) -> None:
    """It is always the same."""
    report.is_text(ask(report.target, request("/pipeline")), "ok", "GET /pipeline")


def answers_come_in_order(report: Report) -> None:
    """Sixteen at once, and sixteen that can be told apart."""
    numbers = [dice.randint(1, 999) for _ in range(DEPTH)]
    with Connection(report.target) as connection:
        connection.send(request("/pipeline") * DEPTH)
        for _ in range(DEPTH):
            report.is_text(connection.answer(), "ok", "GET /pipeline, pipelined")
        connection.send(b"".join(request(f"/baseline11?a={a}&b=0") for a in numbers))
        sums = [connection.answer().body.decode("latin-1") for _ in numbers]
    report.same(sums, [str(a) for a in numbers], "GET /baseline11, pipelined", "order")


def noise_is_refused(report: Report) -> None:
    """With a 4xx or silence, never with success or an error of the server's."""
    for what, data in REFUSED.items():
        answer = _answer_to_noise(report, data)
        report.check(answer is None or 400 <= answer.status < 500, what,
                     f"expected to be refused, found {answer and answer.status}")
        _still_right(report, what)


def noise_is_survived(report: Report) -> None:
    """Whatever it is taken for."""
    for what, data in SURVIVED.items():
        answer = _answer_to_noise(report, data)
        report.check(answer is None or answer.status < 500, what,
                     f"expected no error of the server, found {answer and answer.status}")
        _still_right(report, what)


def _answer_to_noise(report: Report, data: bytes) -> Answer | None:
    with Connection(report.target) as connection:
        connection.socket.settimeout(NOISE_S)
        try:
            connection.send(data)
            return connection.answer()
        except NoAnswer:
            return None


def _still_right(report: Report, what: str) -> None:
    a = dice.randint(100, 999)
    try:
        answer = ask(report.target, request(f"/baseline11?a={a}&b=1"))
    except NoAnswer as error:
        report.fail(what, f"it does not serve any more: {error}")
    else:
        report.is_text(answer, str(a + 1), f"behind {what}")


baseline = (sums_of_the_query, sums_with_the_body, requests_in_fragments)
limited_conn = (*baseline, connections_are_kept)
pipelined = (an_answer_to_pipeline, answers_come_in_order)
noise = (noise_is_refused, noise_is_survived)
