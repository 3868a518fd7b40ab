"""OpenTelemetry: a span and two metrics for each request (extra `otel`).

    from fastserve.otel import instrument
    instrument(app)

Names and attributes are those of the stable HTTP semantic conventions. We speak to the API alone;
which SDK exports what, and how much is sampled, is the application's, in each worker.

A span is the outermost middleware: it begins with the handler's turn, is current in the handler
and whatever that calls, and ends with the body, however long that is made. It sees the router's
404 and 405 too, but not what never was a request (400, 431), nor what is refused before any
handler (503 above max_in_flight). An application that is not instrumented pays nothing.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from fastserve._speedups.messages import Request
from fastserve._speedups.responses import (
    ConditionalResponse,
    PartsResponse,
    Response,
    StreamingResponse,
)
from fastserve.errors import ClientDisconnect, FastserveError, HTTPError, MissingExtraError
from fastserve.middleware import CallNext

try:
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.propagators.textmap import Getter
except ImportError:
    raise MissingExtraError("fastserve.otel", "otel") from None

if TYPE_CHECKING:
    from fastserve.app import App

NAME = "fastserve"
NOT_TRACED = ("/-/live", "/-/ready")
METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
PORTS = {"http": 80, "https": 443}
REDACTED = re.compile(
    r"(?<![^&])(AWSAccessKeyId|Signature|sig|X-Goog-Signature)=[^&]*", re.IGNORECASE)

_CONVERTER = re.compile(r"\{(\w+):[^{}]*\}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(\d{1,5}))?")
_SPAN_KIND, _ERROR = trace.SpanKind.SERVER, trace.StatusCode.ERROR

Attributes = dict[str, "str | int"]


def instrument(
    app: App,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    excluded: Collection[str] = NOT_TRACED,
) -> None:
    """Trace and measure every request of an application; before it starts.

    tracer_provider, meter_provider:  None for the global ones, whenever those are set
    excluded:                         paths that are neither traced nor measured
    Raises FastserveError for an application that has started, or is instrumented already.
    """
    if isinstance(excluded, str):
        raise TypeError(f"excluded={excluded!r}: must be a collection of paths")
    if any(isinstance(layer, Tracing) for layer in app.layers):
        raise FastserveError("instrument(app): it is instrumented already")
    app.outermost(Tracing(tracer_provider, meter_provider, frozenset(excluded)))


class Fields(Getter[Any]):
    """How a propagator reads the fields of a request."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        return carrier.getlist(key) or None

    def keys(self, carrier: Any) -> list[str]:
        return [name for name, _ in carrier.items()]


FIELDS = Fields()


class Tracing:
    """The middleware."""

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
        excluded: frozenset[str],
    ) -> None:
        self.excluded = excluded
        self.tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(NAME, meter_provider=meter_provider)
        self.active = meter.create_up_down_counter(
            "http.server.active_requests", "{request}", "Requests under way.")
        self.duration = meter.create_histogram(
            "http.server.request.duration", "s", "From the handler's turn to the end of the body.",
            explicit_bucket_boundaries_advisory=BUCKETS_S)

    async def __call__(self, request: Request, call_next: CallNext) -> Response:
        if request.path in self.excluded:
            return await call_next(request)
        measured = Measured(self, request)
        token = context.attach(measured.context)
        try:
            response = await call_next(request)
            if isinstance(response, ConditionalResponse):   # its status is not decided yet
                response = await _prepared(response, request)
        except BaseException as error:
            measured.failed(error)
            raise
        finally:
            context.detach(token)
        return measured.answered(response)


async def _prepared(response: ConditionalResponse, request: Request) -> Response:
    prepared = response.prepare(request)
    return prepared if isinstance(prepared, Response) else await prepared


class Measured:
    """One request: its span, and what is measured of it."""

    def __init__(self, tracing: Tracing, request: Request) -> None:
        self.tracing = tracing
        self.begun_s = time.perf_counter()
        method = request.method if request.method in METHODS else "_OTHER"
        self.shared: Attributes = {"http.request.method": method, "url.scheme": request.scheme}
        tracing.active.add(1, self.shared)
        self.result: Attributes = {"network.protocol.version": request.http_version}
        name = "HTTP" if method == "_OTHER" else method
        if request.route is not None:
            route = self.result["http.route"] = route_of(request.route.path)
            name = f"{name} {route}"
        sent = propagate.extract(request.headers, getter=FIELDS)
        self.span = tracing.tracer.start_span(
            name, sent, _SPAN_KIND,
            {**self.shared, **self.result, **_attributes_of(request, method)})
        self.context = trace.set_span_in_context(self.span, sent)
        self.over = False

    def answered(self, response: Response) -> Response:
        """There is an answer; the request ends with its body."""
        self.status(response.status)
        if isinstance(response, StreamingResponse):
            wrap = AsyncBody if hasattr(response.source, "__aiter__") else Body
            body = wrap(response.source, self, may_fail=response.waits_for_first)
            if not response.waits_for_first:
                return _with_source(response, body)
            response.source = body      # it was made of an iterator, for this request alone
        elif isinstance(response, PartsResponse):
            response.on_close = functools.partial(self.closed, response.on_close)
        else:
            self.end()
        return response

    def failed(self, error: BaseException) -> None:
        """There is none: the server makes one, or nobody wants it any more."""
        if isinstance(error, HTTPError):
            self.status(error.status)
        elif isinstance(error, Exception) and not isinstance(error, ClientDisconnect):
            self.status(500)
            self.raised(error)
        else:       # cancelled
            self.fault(type(error).__qualname__)
        self.end()

    def status(self, status: int) -> None:
        """What the answer is, as far as is known."""
        self.result["http.response.status_code"] = status
        self.span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self.fault(str(status))

    def raised(self, error: BaseException) -> None:
        """An exception that nobody expected."""
        module, name = type(error).__module__, type(error).__qualname__
        self.fault(name if module == "builtins" else f"{module}.{name}", str(error))
        self.span.record_exception(error)

    def fault(self, kind: str, why: str | None = None) -> None:
        self.result["error.type"] = kind
        self.span.set_attribute("error.type", kind)
        self.span.set_status(_ERROR, why)

    def closed(self, before: Callable[[], None] | None) -> None:
        """A body of files has been sent, or given up."""
        self.end()
        if before is not None:
            before()

    def end(self) -> None:
        """It has ended, once."""
        if not self.over:
            self.over = True
            self.span.end()
            tracing = self.tracing
            tracing.active.add(-1, self.shared)
            tracing.duration.record(
                time.perf_counter() - self.begun_s, {**self.shared, **self.result}, self.context)


def _with_source(response: StreamingResponse, source: Any) -> StreamingResponse:
    # A new one: the handler may have kept its own, to give it to the next client too.
    made = StreamingResponse(
        source, response.status, response.headers.items(),
        length=None if response.length < 0 else response.length, trailers=response.trailers)
    made.content_type = response.content_type
    return made


class Body:
    """The pieces of a body; the request is over when they are."""

    def __init__(self, source: Any, measured: Measured, *, may_fail: bool) -> None:
        self.source = source
        self.measured = measured
        self.may_fail = may_fail    # there is no head yet: an error has its own status
        self.pieces: Any = None
        self.token: Any = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.pieces is None:
            self.begin(iter)
        try:
            piece = next(self.pieces)
        except StopIteration:
            self.end()
            raise
        except Exception as error:
            self.failed(error)
            raise
        self.may_fail = False
        return piece

    def begin(self, iterate: Callable[[Any], Any]) -> None:
        """Be current from here to the end, which comes in the same context."""
        self.token = context.attach(self.measured.context)
        self.pieces = iterate(self.source)

    def failed(self, error: Exception) -> None:
        if self.may_fail:
            self.measured.failed(error)
        else:
            self.measured.raised(error)
        self.end()

    def end(self) -> None:
        if self.token is not None:
            context.detach(self.token)
            self.token = None
        self.measured.end()

    def close(self) -> None:
        """Of what was begun, or never."""
        try:
            close = getattr(self.source if self.pieces is None else self.pieces, "close", None)
            if close is not None:
                close()
        finally:
            self.end()


class AsyncBody(Body):
    """The same for what is made asynchronously."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self.pieces is None:
            self.begin(aiter)
        try:
            piece = await anext(self.pieces)
        except StopAsyncIteration:
            self.end()
            raise
        except Exception as error:
            self.failed(error)
            raise
        self.may_fail = False
        return piece

    async def aclose(self) -> None:
        """Of what was begun."""
        try:
            close = getattr(self.pieces, "aclose", None)
            if close is not None:
                await close()
        finally:
            self.end()


@functools.lru_cache(maxsize=4096)
def route_of(path: str) -> str:
    """The template of a route without its converters: /users/{id:int} is /users/{id}."""
    return _CONVERTER.sub(r"{\1}", path)


def _attributes_of(request: Request, method: str) -> Attributes:
    """What is known of a request before it is answered, for the sampler."""
    headers = request.headers
    found: Attributes = {"url.path": _text(request.raw_path)}
    if method == "_OTHER":
        found["http.request.method_original"] = request.method
    if request.query_string:
        found["url.query"] = REDACTED.sub(r"\1=REDACTED", _text(request.query_string))
    if (agent := headers.get("user-agent")) is not None:
        found["user_agent.original"] = agent
    if (client := request.client) is not None and client.host:
        found["client.address"] = client.host
    host = _HOST.fullmatch(headers.get("host") or "")
    if host is not None:
        found["server.address"] = host[1].strip("[]")
        found["server.port"] = int(host[2] or PORTS.get(request.scheme, 80))
    return found


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace")
