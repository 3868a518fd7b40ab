"""errors.py, and how app.py answers exceptions: what goes out, what is logged, what is not."""

import asyncio
import logging

import pytest

from fastserve import (
    App,
    ClientDisconnect,
    FastserveError,
    HTTPError,
    Request,
    StreamingResponse,
)
from fastserve.errors import reason_phrase
from fastserve.testing import TestClient


@pytest.fixture
def app():
    return App()


def raises(error):
    def handler():
        raise error

    return handler


def ask(app, path="/", **kwargs):
    with TestClient(app, raise_server_exceptions=False) as client:
        return client.get(path, **kwargs)


def test_an_http_error_has_a_final_status():
    """1xx is no answer, and 600 is no status."""
    for status in (100, 199, 600, "404", True):
        with pytest.raises(ValueError, match="from 200 to 599"):
            HTTPError(status)
    assert str(HTTPError(404)) == "404 Not Found"
    assert reason_phrase(599) == "Unknown"


def test_an_http_error_is_answered_as_text_with_its_headers(app, caplog):
    """Status, detail, headers; nothing is logged, it is an answer."""
    app.get("/")(raises(HTTPError(429, "slow down", {"retry-after": "3"})))

    reply = ask(app)

    assert (reply.status, reply.text, reply.headers["retry-after"]) == (429, "slow down", "3")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert not caplog.records


def test_an_unexpected_exception_is_a_plain_500_and_a_traceback_in_the_log(app, caplog):
    """Nothing of it on the wire; method, path and traceback in "fastserve.error"."""
    app.get("/{x}")(lambda x: {}["secret"])

    reply = ask(app, "/a%0Ab")

    assert (reply.status, reply.text) == (500, "Internal Server Error")
    (record,) = caplog.records
    assert record.name == "fastserve.error"
    assert record.getMessage() == r"GET /a\nb: KeyError"
    assert record.exc_info[0] is KeyError


def test_debug_shows_the_traceback(caplog):
    """debug=True, as text and never as HTML."""
    app = App(debug=True)
    app.get("/")(lambda: {}["secret"])

    reply = ask(app)

    assert "KeyError: 'secret'" in reply.text
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


def test_the_nearest_registered_type_answers(app, caplog):
    """By the MRO of the exception; sync and async handlers; any return value."""

    class Mine(LookupError):
        pass

    @app.exception_handler(Exception)
    def anything(request, error):
        return "anything", 500

    @app.exception_handler(LookupError)
    async def lookup(request: Request, error):
        await asyncio.sleep(0)
        return {"path": request.path, "error": type(error).__name__}, 404

    app.get("/mine")(raises(Mine()))
    app.get("/other")(raises(ValueError()))

    assert ask(app, "/mine").json() == {"path": "/mine", "error": "Mine"}
    assert ask(app, "/other").text == "anything"
    assert not caplog.records


def test_a_handler_for_a_status_answers_the_routers_own_404_and_405_too(app):
    """A custom 404 page is one for every 404, and a 405 keeps its Allow."""

    @app.exception_handler(404)
    def missing(request, error):
        return f"no {request.path}", 404

    @app.exception_handler(405)
    def wrong(request, error):
        return "wrong method", 405, error.headers

    app.get("/x")(raises(HTTPError(404)))
    app.post("/post")(lambda: "")

    assert ask(app, "/nowhere").text == "no /nowhere"
    assert ask(app, "/x").text == "no /x"
    reply = ask(app, "/post")
    assert (reply.text, reply.headers["allow"]) == ("wrong method", "POST, OPTIONS")


def test_a_handler_for_500_makes_the_page_and_the_log_keeps_the_traceback(app, caplog):
    """A friendly page does not hide the mistake."""

    @app.exception_handler(500)
    async def page(request, error):
        return "sorry", 500

    app.get("/")(lambda: 1 / 0)

    assert ask(app).text == "sorry"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_exception_handler_that_fails_is_a_500_and_logged(app, caplog, asynchronous):
    """Its own exception is what the log shows, with the first one as its context."""

    @app.exception_handler(ValueError)
    def handle(request, error):
        raise KeyError("broken")

    if asynchronous:
        async def handle_async(request, error):
            raise KeyError("broken")

        app._by_type[ValueError] = handle_async
    app.get("/")(raises(ValueError("first")))

    assert ask(app).status == 500
    assert "KeyError: 'broken'" in caplog.text


def test_an_exception_handler_may_raise_an_http_error(app, caplog):
    """Translating one exception into another is what handlers are for."""

    @app.exception_handler(ValueError)
    def handle(request, error):
        raise HTTPError(422, str(error))

    app.get("/")(raises(ValueError("bad")))

    reply = ask(app)
    assert (reply.status, reply.text) == (422, "bad")
    assert not caplog.records


@pytest.mark.parametrize("handled", [None, Exception, KeyError, HTTPError])
def test_a_mistake_in_the_middle_of_a_body_is_in_the_log(app, caplog, handled):
    """Whoever would answer it: there is no answer any more, and nobody is asked for one."""
    asked = []
    if handled is not None:
        app.exception_handler(handled)(lambda request, error: asked.append(error))

    def pieces(error):
        yield "begun"
        raise error

    app.get("/bug")(lambda: pieces(KeyError("secret")))
    app.get("/meant")(lambda: pieces(HTTPError(404)))
    app.get("/short")(lambda: StreamingResponse(["begun"], length=9))

    for path, kind in (("/bug", KeyError), ("/meant", HTTPError), ("/short", ValueError)):
        caplog.clear()
        with pytest.raises(ConnectionError, match="inside the body"):
            ask(app, path)
        (record,) = caplog.records
        assert (record.name, record.exc_info[0]) == ("fastserve.error", kind)
        assert path in record.getMessage()
    assert not asked


def test_what_cannot_be_registered_is_refused(app):
    """A status of success, no exception, the same twice."""
    for wrong in (200, 99, "404", int, True, None):
        with pytest.raises(TypeError, match="give a type of exception"):
            app.exception_handler(wrong)
    app.exception_handler(404)(lambda request, error: "")
    with pytest.raises(FastserveError, match="registered twice"):
        app.exception_handler(404)(lambda request, error: "")


def test_a_client_that_vanishes_is_not_an_error(app, caplog):
    """Seen at DEBUG only."""
    caplog.set_level(logging.DEBUG, "fastserve.error")

    app.handle_error(None, ClientDisconnect("gone"))

    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_a_cancellation_that_a_handler_lets_out_is_a_500(app, caplog):
    """Nobody left: the handler cancelled itself, and its author wants to know."""

    @app.get("/")
    async def handler():
        raise asyncio.CancelledError

    assert ask(app, "/").status == 500
    assert "CancelledError" in caplog.text


def test_a_value_that_cannot_be_sent_is_a_500(app, caplog):
    """A wrong tuple, something orjson refuses, a header with a line break."""
    app.get("/tuple")(lambda: ("a", "b"))
    app.get("/object")(lambda: object())
    app.get("/header")(lambda: ("a", 200, {"x": "a\r\nb"}))

    for path in ("/tuple", "/object", "/header"):
        assert ask(app, path).status == 500
    assert len(caplog.records) == 3
