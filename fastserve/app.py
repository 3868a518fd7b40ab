"""App: routes, middleware, exception handlers, lifespan; and what they become at start-up.

Registration is where mistakes surface: a route is bound to its handler the moment it is
added. `build_router()` turns everything into plans, once, and from then on the application
cannot be changed. Without middleware a plan calls the handler itself, with nothing between.

How an exception is answered, in this order:

1. a client that left: no handler is asked, and nothing is logged above debug;
2. a handler registered for its type (the nearest in its MRO), or for the status of an HTTPError;
3. an HTTPError by its status, with its detail as plain text;
4. anything else: the traceback goes to the log "fastserve.error", a plain 500 to the client
   (its body made by the handler registered for 500, if there is one; with the traceback in
   it if debug=True).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import logging
import os
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fastserve._speedups.messages import Request, State
from fastserve._speedups.plan import Plan
from fastserve._speedups.responses import Response, as_response
from fastserve.binding import Target, bind, converter_overrides
from fastserve.blocking import BlockingPool
from fastserve.decompress import Decoder, decoder_for
from fastserve.errors import ClientDisconnect, ConfigError, FastserveError, HTTPError, RouteError
from fastserve.forms import FormLimits, Forms
from fastserve.health import LIVE, READY, Health, Page
from fastserve.middleware import Middleware, check, surround
from fastserve.routing import Claims, Route, Router, compile_routes

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from fastserve._speedups.engine import Engine
    from fastserve._speedups.router import Router as CompiledRouter

Function = TypeVar("Function", bound=Callable[..., Any])
ExceptionHandler = Callable[[Request, Any], Any]
OnError = Callable[["Request | None", BaseException], Any]

error_log = logging.getLogger("fastserve.error")

class _Door:
    importing = False


@contextlib.contextmanager
def imported_by_a_door() -> Iterator[None]:
    """While a door imports the application, an unguarded app.run() in its module does nothing."""
    before, _Door.importing = _Door.importing, True
    try:
        yield
    finally:
        _Door.importing = before


class App:
    """A web application.

    lifespan:  an async context manager around the serving: a function that takes the app,
               or nothing, and is an async generator or decorated with asynccontextmanager.
               A dict that it yields goes into `app.state`.
    debug:     show the traceback of an unexpected exception to the client
    """

    def __init__(self, *, lifespan: Callable[..., Any] | None = None, debug: bool = False) -> None:
        self.debug = debug
        self.state = State()
        self.blocking_pool = BlockingPool()
        self.forms = Forms(FormLimits(), self._on_thread)
        # Told of what an exception handler raised: the server only logs it.
        self.on_handler_failed: Callable[[Exception], None] | None = None
        self._max_decompression_ratio = 100.0
        self._router = Router()
        self._claims = Claims()
        self._plans: list[tuple[Route, Plan]] = []
        self._lifespan = lifespan
        self._layers: list[Middleware] = []
        self._by_type: dict[type[BaseException], ExceptionHandler] = {}
        self._by_status: dict[int, ExceptionHandler] = {}
        self._startup_hooks: list[Callable[[], Any]] = []
        self._shutdown_hooks: list[Callable[[], Any]] = []
        self._frozen = False

    # --- routes --------------------------------------------------------------------------

    def route(
        self,
        path: str,
        *,
        methods: Sequence[str] = ("GET",),
        name: str | None = None,
        **options: Any,
    ) -> Callable[[Function], Function]:
        """Register a handler for these methods; `["*"]` is any method token.

        options:  max_body_bytes=, handler_timeout_s= (0: none), decompress_requests=,
                  compress_responses=,
                  cancel_on_disconnect= (default: a GET or HEAD is, any other runs to its end)
        """
        add = self._router.route(path, methods=methods, name=name, **options)

        def register(endpoint: Function) -> Function:
            self._refuse_when_frozen(f"route {path!r} is added", RouteError)
            with self._all_or_nothing():
                add(endpoint)
            return endpoint

        return register

    def get(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Register a handler for GET, and for HEAD without the body."""
        return self.route(path, methods=("GET",), **options)

    def post(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Register a handler for POST."""
        return self.route(path, methods=("POST",), **options)

    def put(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Register a handler for PUT."""
        return self.route(path, methods=("PUT",), **options)

    def patch(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Register a handler for PATCH."""
        return self.route(path, methods=("PATCH",), **options)

    def delete(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Register a handler for DELETE."""
        return self.route(path, methods=("DELETE",), **options)

    def head(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Register a handler for HEAD of its own; without one, GET's answers."""
        return self.route(path, methods=("HEAD",), **options)

    def options(self, path: str, **options: Any) -> Callable[[Function], Function]:
        """Register a handler for OPTIONS; without one, the server answers with Allow."""
        return self.route(path, methods=("OPTIONS",), **options)

    def include(self, router: Router, prefix: str = "") -> None:
        """Add every route that a Router has now, under a prefix."""
        self._refuse_when_frozen("a router is included", RouteError)
        with self._all_or_nothing():
            self._router.include(router, prefix=prefix)

    def static(
        self,
        path: str,
        directory: str | os.PathLike[str],
        *,
        name: str | None = None,
        **options: Any,
    ) -> None:
        """Serve the files of a directory under a path: app.static("/assets", "assets").

        directory:      relative to where the process runs; nothing outside of it is served
        name:           for url_for(name, path="app.js"); the path when left out
        index=          the file that a directory is, "index.html"; None for no such thing
        redirect=       send a directory without the slash at its end to the one with it, True
        fallback=       the file for whatever is not there, when the client asks for HTML by
                        name, e.g. "index.html" of a single-page application; None for 404
        precompressed=  send app.js.zst, .br or .gz for app.js where the client takes it, True
        max_age_s=      how long a cache may keep a file; None to say nothing about it
        immutable=      a regular expression of the names that never change their content, and
                        may be kept for ever; the default finds a hash; None for none
        hidden=         serve names that begin with a dot, too, False
        symlinks=       follow links that stay inside of the directory, True
        headers=        added to every file
        keep_bytes=     files up to this size stay in memory for a second, 131072 at most and
                        unless said otherwise; 0: each request reads the file
        Raises RouteError for a directory that cannot be served or an option that cannot be.
        """
        from fastserve.files import StaticFiles, StaticOptions

        label = f"static {path!r}"
        try:
            chosen = StaticOptions(**options)
            files = StaticFiles(directory, self.blocking_pool, chosen)
        except (TypeError, ValueError) as error:
            raise RouteError(f"{label}: {error}") from None
        prefix = path.rstrip("/")
        name = name or prefix.strip("/") or "static"
        self.route(f"{prefix}/{{path:path}}", name=name)(files.shelf.get)
        if prefix and chosen.redirect and chosen.index is not None:
            self.route(prefix, name=f"{name} without slash")(files.without_slash)

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every route, in the order of registration."""
        return tuple(self._router.routes)

    def url_for(self, name: str, /, **params: Any) -> str:
        """The path of a named route."""
        return self._router.url_for(name, **params)

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Bind what was added to the router; where that fails, nothing was added."""
        routes = self._router.routes
        before = len(routes)
        try:
            yield
            bound = [self._bind(route) for route in routes[before:]]
            self._claims.claim((route for route, _ in bound), among=routes[:before])
        except BaseException:
            del routes[before:]
            raise
        routes[before:] = [route for route, _ in bound]
        self._plans += bound

    def _bind(self, route: Route) -> tuple[Route, Plan]:
        """A route with the converters its handler's annotations choose, and its plan."""
        target = Target(route.label, route.endpoint)
        route = route.with_converters(converter_overrides(target, route.pattern.params))
        params = {name: kind or "str" for name, kind in route.pattern.params.items()}
        options = {name: value for name, value in route.options.items()
                   if name != "compress_responses"}     # that one is a layer around the plan
        return route, bind(
            target,
            params,
            pool=self.blocking_pool,
            route=route,
            options=options,
        )

    # --- middleware, exceptions, lifespan ------------------------------------------------

    def middleware(self, function: Function) -> Function:
        """Put `async def (request, call_next)` around every handler; the first is outermost.

        Raises TypeError for anything that cannot be awaited with (request, call_next).
        """
        return self._add_layer(len(self._layers), function)

    def outermost(self, function: Function) -> Function:
        """Put a middleware around all that are registered so far, as `middleware` takes it."""
        return self._add_layer(0, function)

    @property
    def layers(self) -> tuple[Middleware, ...]:
        """Every middleware, the outermost first."""
        return tuple(self._layers)

    def _add_layer(self, place: int, function: Function) -> Function:
        self._refuse_when_frozen("middleware is added")
        check(function)
        self._layers.insert(place, function)
        return function

    def exception_handler(
        self, what: type[BaseException] | int
    ) -> Callable[[Function], Function]:
        """Register `(request, exc)`, sync or async, for a type of exception or for a status.

        A handler for a status answers an HTTPError of that status, the router's own 404 and
        405 included; the one for 500 also answers what nobody else handles, after it is logged.
        """
        if isinstance(what, type) and issubclass(what, BaseException):
            handlers = cast("dict[Any, ExceptionHandler]", self._by_type)
        elif type(what) is int and 400 <= what <= 599:
            handlers = cast("dict[Any, ExceptionHandler]", self._by_status)
        else:
            raise TypeError(
                f"exception_handler({what!r}): "
                "give a type of exception, or a status from 400 to 599"
            )

        def register(function: Function) -> Function:
            self._refuse_when_frozen(f"the exception handler for {what!r} is added")
            if what in handlers:
                raise FastserveError(f"exception_handler({what!r}) is registered twice")
            handlers[what] = function
            return function

        return register

    def on_startup(self, function: Function) -> Function:
        """Call this, sync or async, after the lifespan began and before the first request."""
        self._refuse_when_frozen("a start-up hook is added")
        self._startup_hooks.append(function)
        return function

    def on_shutdown(self, function: Function) -> Function:
        """Call this, sync or async, before the lifespan ends; the last registered is the first."""
        self._refuse_when_frozen("a shutdown hook is added")
        self._shutdown_hooks.append(function)
        return function

    def _refuse_when_frozen(
        self, what: str, error: type[FastserveError] = FastserveError
    ) -> None:
        if self._frozen:
            raise error(f"{what} after the application started: do it before, at import")

    # --- start-up ------------------------------------------------------------------------

    def build_router(
        self,
        *,
        health: Health | None = None,
        pages: Sequence[Page] = (),
        unlogged: Sequence[str] = (),
        decompress_requests: bool = False,
        compress_responses: bool = False,
    ) -> CompiledRouter:
        """Compile every route; the application cannot be changed from here on.

        health:               answers its paths where the application does not itself
        pages:                further paths that the server answers itself
        unlogged:             paths of routes that the access log leaves out
        decompress_requests, compress_responses:  for the routes that do not say it themselves
        """
        self._frozen = True
        pairs = [
            (route, self._surround(plan, route.compress_responses, compress_responses))
            for route, plan in self._plans]
        for route, plan in pairs:
            own = route.decompress_requests
            plan.decompress_requests = decompress_requests if own is None else own
        if health is not None:
            pairs = [*pairs, *health.plans(besides=self.routes)]
        for page in pages:
            pairs = [*pairs, *page.plans(besides=[route for route, _ in pairs])]
        _leave_out(unlogged, pairs)
        router = compile_routes(pairs)
        if self._wants_fallbacks():
            router.not_found = self._surround(_fallback(_not_found))
            router.method_not_allowed = self._surround(_fallback(_method_not_allowed, "allow"))
            if self._layers:
                router.options = self._surround(_fallback(_options, "allow"))
        return router

    def build_engine(
        self,
        loop: AbstractEventLoop,
        *,
        on_error: OnError | None = None,
        health_paths: bool = True,
        pages: Sequence[Page] = (),
        unlogged: Sequence[str] = (),
        **settings: Any,
    ) -> Engine:
        """The engine that serves this application on a loop.

        health_paths:  answer /-/live and /-/ready
        pages:         further paths that the server answers itself
        unlogged:      paths of routes that the access log leaves out
        settings:      those of forms and of codings, and keywords of the Engine: limits,
                       http=, tasks=
        """
        from fastserve._speedups.protocol import (
            HttpEngine,  # brings asyncio, which registering needs not
        )

        own = {field.name for field in dataclasses.fields(FormLimits)}
        self.forms = Forms(
            FormLimits(**{name: settings.pop(name) for name in own & settings.keys()}),
            self._on_thread)
        self._max_decompression_ratio = settings.pop(
            "max_decompression_ratio", self._max_decompression_ratio)
        health = Health() if health_paths else None
        router = self.build_router(
            health=health, pages=pages, unlogged=unlogged,
            decompress_requests=settings.pop("decompress_requests", False),
            compress_responses=settings.pop("compress_responses", False))
        engine = HttpEngine(
            loop, router, app=self, on_error=on_error or self.handle_error, **settings)
        if health is not None:
            health.engine = engine
        return engine

    def decoder(self, request: Request) -> Decoder | None:
        """What undoes the Content-Encoding of a request; None when it has none."""
        return decoder_for(
            request.headers.getlist("content-encoding"), self._max_decompression_ratio)

    def _on_thread(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        return self.blocking_pool.run(function, *args)

    def run(self, **settings: Any) -> None:
        """Serve until SIGINT or SIGTERM: app.run(host="0.0.0.0", port=8000).

        settings:  the fields of fastserve.config.Config
        Exits with status 1 when it cannot listen, 3 when the start-up fails. Does nothing
        while `fastserve run` imports the module, which serves the application itself.
        """
        if _Door.importing:
            return
        from fastserve.worker import run_from_script  # the one import that goes up

        run_from_script(self, settings)

    def _wants_fallbacks(self) -> bool:
        return bool(self._layers or self._by_status or any(
            issubclass(HTTPError, handled) for handled in self._by_type))

    def _surround(
        self, plan: Plan, compress: bool | None = None, compress_all: bool = False
    ) -> Plan:
        layers = self._layers
        if compress or (compress is None and compress_all):
            from fastserve.compress import compressed  # few applications do

            layers = [compressed, *layers]
        return surround(plan, layers, self._answer_inside) if layers else plan

    @contextlib.asynccontextmanager
    async def lifespan_context(self) -> AsyncIterator[None]:
        """Start up, then shut down: each hook and the lifespan exactly once.

        Lifespan, start-up hooks, ... , shutdown hooks in reverse, lifespan. Every shutdown
        hook runs even where one fails; the first failure is raised at the end.
        """
        async with self._entered_lifespan():
            for hook in self._startup_hooks:
                await _call(hook)
            try:
                yield
            finally:
                await self._run_shutdown_hooks()

    async def _run_shutdown_hooks(self) -> None:
        failure: Exception | None = None
        for hook in reversed(self._shutdown_hooks):
            try:
                await _call(hook)
            except Exception as error:
                if failure is not None:
                    error_log.error("a second shutdown hook failed", exc_info=error)
                failure = failure or error
        if failure is not None:
            raise failure

    @contextlib.asynccontextmanager
    async def _entered_lifespan(self) -> AsyncIterator[None]:
        if self._lifespan is None:
            yield
            return
        async with _open_lifespan(self._lifespan, self) as yielded:
            if yielded is not None:
                if not isinstance(yielded, Mapping):
                    raise TypeError(
                        f"the lifespan yielded {type(yielded).__name__}; yield a dict or nothing")
                vars(self.state).update(yielded)
            yield

    # --- exceptions ----------------------------------------------------------------------

    def handle_error(self, request: Request | None, error: BaseException) -> Any:
        """What to answer when a handler raised: a value, or an awaitable of one. Never raises."""
        if isinstance(error, ClientDisconnect):
            error_log.debug("%s: the client left", _request_line(request))
            return Response(b"", 400)   # who only half-closed inside a body can still read it
        handler = self.handler_for(error)
        if handler is not None:
            return self._handled(handler, request, error)
        if isinstance(error, HTTPError):
            return response_of(error)
        return self._unexpected(request, error)

    def handler_for(self, error: BaseException) -> ExceptionHandler | None:
        """The registered handler of an exception, or None."""
        if isinstance(error, HTTPError) and error.status in self._by_status:
            return self._by_status[error.status]
        for kind in type(error).__mro__:
            if kind in self._by_type:
                return self._by_type[kind]
        return None

    def _answer_inside(self, request: Request, error: Exception) -> Any:
        """The innermost answer: of what is meant as one. Anything else travels on."""
        if isinstance(error, ClientDisconnect):
            raise error
        handler = self.handler_for(error)
        if handler is not None:
            return handler(request, error)
        if isinstance(error, HTTPError):
            return response_of(error)
        raise error

    def _handled(self, handler: ExceptionHandler, request: Any, error: BaseException) -> Any:
        try:
            value = handler(request, error)
            if inspect.isawaitable(value):
                return self._await_handled(value, request)
            return as_response(value)
        except Exception as second:
            return self._handler_failed(request, second)

    async def _await_handled(self, value: Awaitable[Any], request: Any) -> Any:
        try:
            return as_response(await value)
        except Exception as second:
            return self._handler_failed(request, second)

    def _handler_failed(self, request: Any, error: Exception) -> Any:
        if self.on_handler_failed is not None and not isinstance(error, HTTPError):
            self.on_handler_failed(error)
        return self._unexpected(request, error)

    def _unexpected(self, request: Request | None, error: BaseException) -> Any:
        if isinstance(error, HTTPError):    # raised on purpose by an exception handler
            return response_of(error)
        error_log.error("%s: %s", _request_line(request), type(error).__name__, exc_info=error)
        page = self._by_status.get(500)
        if page is not None and request is not None and not self.debug:
            return self._page(page, request, error)
        return self._plain_500(error)

    async def _page(self, page: ExceptionHandler, request: Request, error: BaseException) -> Any:
        try:
            value = page(request, error)
            return as_response(await value if inspect.isawaitable(value) else value)
        except Exception as second:
            error_log.error("the exception handler for 500 failed", exc_info=second)
            return self._plain_500(error)

    def _plain_500(self, error: BaseException) -> Response:
        if self.debug:
            return Response.text("".join(traceback.format_exception(error)), 500)
        return Response.text("Internal Server Error", 500)


def response_of(error: HTTPError) -> Response:
    """An HTTPError as the response it asks for."""
    if error.status in (204, 304):
        return Response(b"", error.status, error.headers)
    return Response.text(error.detail, error.status, error.headers)


def _leave_out(unlogged: Sequence[str], plans: Sequence[tuple[Route, Plan]]) -> None:
    """Tell the plans of some paths that the access log wants none of their requests."""
    paths = [route.path for route, _ in plans]
    for path in unlogged:
        if path not in paths and path not in (LIVE, READY):     # which may be turned off
            near = difflib.get_close_matches(path, paths, n=1)
            hint = f" Did you mean {near[0]}?" if near else " `fastserve routes` lists them"
            raise ConfigError(f"access_log_skip={path!r}: there is no such route.{hint}")
    for route, plan in plans:
        plan.unlogged = route.path in unlogged


def _request_line(request: Request | None) -> str:
    """Method and path for the log; what a client sent cannot forge a line in it."""
    if request is None:
        return "a request"
    return ascii(f"{request.method} {request.path}")[1:-1]


async def _call(hook: Callable[[], Any]) -> None:
    value = hook()
    if inspect.isawaitable(value):
        await value


def _open_lifespan(lifespan: Any, app: App) -> contextlib.AbstractAsyncContextManager[Any]:
    if hasattr(lifespan, "__aenter__"):
        return lifespan  # type: ignore[no-any-return]
    try:
        inspect.signature(lifespan).bind(app)
        arguments: tuple[Any, ...] = (app,)
    except TypeError:
        arguments = ()
    if inspect.isasyncgenfunction(lifespan):
        lifespan = contextlib.asynccontextmanager(lifespan)
    manager = lifespan(*arguments)
    if not hasattr(manager, "__aenter__"):
        raise TypeError(
            f"lifespan {getattr(lifespan, '__qualname__', lifespan)!s} must be an async generator "
            "function, or give an async context manager"
        )
    return manager  # type: ignore[no-any-return]


def _fallback(handler: Callable[..., Any], *params: str) -> Plan:
    return Plan(handler, tuple(range(len(params))), param_names=params)


def _not_found() -> Response:
    raise HTTPError(404)


def _method_not_allowed(allow: str) -> Response:
    raise HTTPError(405, headers={"allow": allow})


def _options(allow: str) -> Response:
    return Response(b"", 204, {"allow": allow})
