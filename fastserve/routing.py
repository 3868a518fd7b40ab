"""Path patterns, routes and the routers that collect them.

A pattern is what stands between slashes: text, or one parameter as a whole segment.

    /users/{id:int}/files/{p:path}      ->  "users", {int id}, "files", {path p}

| converter | takes                                                  | gives       |
|-----------|--------------------------------------------------------|-------------|
| `str`     | one segment that is not empty; also when none is named | `str`       |
| `int`     | `-`? and at most 19 digits that fit 64 bits            | `int`       |
| `float`   | `-`? digits, with or without `.` digits; no exponent   | `float`     |
| `uuid`    | 8-4-4-4-12 hexadecimal digits, either case             | `uuid.UUID` |
| `path`    | all the rest with its slashes, may be empty; last only | `str`       |

What does not convert does not match. At every segment text beats a parameter, then int,
uuid, float, str and path are tried in this order. The path alone decides which pattern
answers; a method that this pattern has no handler for is a 405.

Paths match exactly: a trailing slash counts, `//` holds an empty segment, dots are not
resolved, nothing is redirected. Percent-escapes are decoded once, after splitting, so `%2F`
stays inside its segment; in a `{p:path}` it comes out as a slash like the others. A broken
escape, `%00`, and a `str` or `path` parameter that is not UTF-8 are answered with 400.
Patterns are written decoded: "/café", not "/caf%C3%A9".

Everything here runs at start-up and raises RouteError; matching is fastserve._speedups.router.
"""

from __future__ import annotations

import dataclasses
import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID

from fastserve._speedups.plan import Plan
from fastserve._speedups.router import Router as CompiledRouter
from fastserve.binding import describe
from fastserve.errors import RouteError

CONVERTERS = ("str", "int", "float", "uuid", "path")
STANDARD_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT")
)
OPTIONS = (
    "max_body_bytes", "handler_timeout_s", "cancel_on_disconnect", "decompress_requests",
    "compress_responses")
MAX_PARAMS = 16     # of the compiled router, like MAX_SEGMENTS and MAX_FLOAT_CHARS
MAX_SEGMENTS = 64
MAX_FLOAT_CHARS = 64

_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

Function = TypeVar("Function", bound=Callable[..., Any])


# --- patterns ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Param:
    """A parameter that is one segment of a pattern; converter None: the pattern names none."""

    name: str
    converter: str | None = None

    @property
    def kind(self) -> str:
        """The converter in force."""
        return self.converter or "str"


@dataclass(frozen=True)
class PathPattern:
    """A pattern taken apart: text segments, decoded, and parameters."""

    text: str
    segments: tuple[str | Param, ...]

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """Take a pattern apart; raises RouteError, naming what is wrong and the way out."""
        if not isinstance(text, str):
            raise RouteError(f"route {text!r} is not a str")
        if not text.startswith("/"):
            raise _refusal(text, f"does not start with '/': write {'/' + text!r}")
        segments = tuple(_segment(text, part) for part in text[1:].split("/"))
        if len(segments) > MAX_SEGMENTS:
            raise _refusal(
                text, f"has {len(segments)} segments, more than {MAX_SEGMENTS}: "
                "take the rest of the path with {name:path}")
        params = [segment for segment in segments if isinstance(segment, Param)]
        names = [param.name for param in params]
        for name in names:
            if names.count(name) > 1:
                raise _refusal(text, f"names the parameter {name!r} twice: rename one of them")
        if len(params) > MAX_PARAMS:
            raise _refusal(
                text, f"has {len(params)} parameters, more than {MAX_PARAMS}: "
                "take several segments with one {name:path}")
        for segment in segments[:-1]:
            if isinstance(segment, Param) and segment.kind == "path":
                raise _refusal(
                    text, f"goes on behind {{{segment.name}:path}}, which takes the rest of the "
                    "path: put it last, or use {" + segment.name + "} for one segment")
        return cls(text, segments)

    @property
    def params(self) -> dict[str, str | None]:
        """Each parameter in path order with its converter, None where the pattern names none."""
        return {
            segment.name: segment.converter
            for segment in self.segments if isinstance(segment, Param)
        }

    @property
    def shape(self) -> tuple[bytes | tuple[str], ...]:
        """What decides which paths match: the pattern without the names of its parameters."""
        return tuple(
            (segment.kind,) if isinstance(segment, Param) else segment.encode()
            for segment in self.segments
        )

    def with_converters(self, converters: Mapping[str, str]) -> PathPattern:
        """The pattern with converters for parameters that name none, e.g. {"id": "int"}."""
        for name, converter in converters.items():
            if name not in self.params:
                raise _refusal(self.text, f"has no parameter {name!r}")
            if converter not in CONVERTERS:
                raise _unknown_converter(self.text, converter)
            if self.params[name] not in (None, converter):
                raise _refusal(
                    self.text,
                    f"has {{{name}:{self.params[name]}}}, which cannot also be {converter!r}")
        if not converters:
            return self
        return PathPattern(self.text, tuple(
            Param(segment.name, converters.get(segment.name, segment.converter))
            if isinstance(segment, Param) else segment
            for segment in self.segments
        ))

    def compiled(self) -> tuple[bytes | tuple[str, str], ...]:
        """The pattern as the compiled router takes it."""
        return tuple(
            (segment.kind, segment.name) if isinstance(segment, Param) else segment.encode()
            for segment in self.segments
        )

    def build(self, name: str, values: Mapping[str, object]) -> str:
        """The percent-encoded path with these values; `name` is for the messages."""
        for missing in self.params.keys() - values.keys():
            raise RouteError(f"url_for({name!r}): {self.text!r} needs the parameter {missing!r}")
        for extra in values.keys() - self.params.keys():
            raise RouteError(f"url_for({name!r}): {self.text!r} has no parameter {extra!r}")
        parts = []
        for segment in self.segments:
            if isinstance(segment, str):
                parts.append(quote(segment, safe=""))
                continue
            try:
                parts.append(_WRITERS[segment.kind](values[segment.name]))
            except ValueError as error:
                raise RouteError(
                    f"url_for({name!r}): {segment.name}={values[segment.name]!r} {error}") from None
        path = "/" + "/".join(parts)
        if path.startswith("//"):
            raise RouteError(
                f"url_for({name!r}): the path {path!r} begins with two slashes, "
                "which a browser takes for another host")
        return path


def _refusal(text: str, problem: str) -> RouteError:
    return RouteError(f"route {text!r} {problem}")


def _unknown_converter(text: str, converter: str) -> RouteError:
    return _refusal(
        text, f"has an unknown converter {converter!r}: there are {', '.join(CONVERTERS)}")


def _segment(text: str, part: str) -> str | Param:
    found = _PARAMETER.fullmatch(part)
    if found is None:
        _check_literal(text, part)
        return part
    name, converter = found.groups()
    if not name.isidentifier() or keyword.iskeyword(name):
        raise _refusal(
            text, f"has a parameter {name!r}, which cannot name an argument: use a Python name")
    if converter is not None and converter not in CONVERTERS:
        raise _unknown_converter(text, converter)
    return Param(name, converter)


def _check_literal(text: str, part: str) -> None:
    if "{" in part or "}" in part:
        beside = re.sub(r"\{[^{}]*\}", "", part)
        if "{" in beside or "}" in beside:
            raise _refusal(text, f"has unbalanced braces in {part!r}: a parameter is {{name}}")
        raise _refusal(
            text, f"has more than a parameter in {part!r}, which is not supported: make the "
            "parameter the whole segment and take it apart in the handler")
    if "?" in part or "#" in part:
        raise _refusal(
            text, f"has a '?' or '#' in {part!r}: the query is no part of a route, "
            "read it in the handler")
    if _ESCAPE.search(part):
        raise _refusal(text, f"has a percent-escape in {part!r}: write the character itself")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in part):
        raise _refusal(text, f"has a control character in {part!r}")
    try:
        part.encode()
    except UnicodeEncodeError:
        raise _refusal(text, f"has {part!r}, which is not valid Unicode") from None


# --- values into paths -------------------------------------------------------------------
# Each raises ValueError with the end of a sentence, and gives what the router takes back.


def _write_str(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is of type {type(value).__name__}, not str")
    if not value:
        raise ValueError("is empty: a segment cannot be")
    return _quote(value, safe="")


def _write_path(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is of type {type(value).__name__}, not str")
    return _quote(value, safe="/")


def _quote(value: str, safe: str) -> str:
    # Clients resolve dot segments before they ask, escaped ones too.
    segments = value.split("/") if safe else [value]
    if "." in segments or ".." in segments:
        raise ValueError("has a segment '.' or '..', which no client would send as it is")
    if "\0" in value:
        raise ValueError("holds a NUL, which no path can")
    try:
        return quote(value, safe=safe)
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None


def _write_int(value: object) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"is of type {type(value).__name__}, not int")
    if not -(2**63) <= value < 2**63:
        raise ValueError("does not fit 64 bits")
    return str(int(value))


def _write_float(value: object) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"is of type {type(value).__name__}, not float")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is not finite")
    from decimal import Decimal

    # not repr(value): that of a subclass, numpy's float64 among them, may be no number
    shown = float.__repr__(value) if isinstance(value, float) else int.__repr__(value)
    text = format(Decimal(shown), "f")
    if len(text) > MAX_FLOAT_CHARS:
        raise ValueError(f"takes more than {MAX_FLOAT_CHARS} characters without an exponent")
    return text


def _write_uuid(value: object) -> str:
    if isinstance(value, UUID):
        return str(value)
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise ValueError("is not a UUID")
    return value


_WRITERS: dict[str, Callable[[object], str]] = {
    "str": _write_str,
    "path": _write_path,
    "int": _write_int,
    "float": _write_float,
    "uuid": _write_uuid,
}


# --- routes ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Route:
    """One handler under one pattern. Made by a Router; two routes are equal when they are one.

    methods:  tokens, or ("*",) for every method that no other route of this path has
    options:  what was given of OPTIONS
    """

    path: str
    methods: tuple[str, ...]
    name: str
    endpoint: Callable[..., Any]
    pattern: PathPattern
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The route for people: "GET /users/{id}"."""
        return f"{','.join(self.methods)} {self.path}"

    @property
    def decompress_requests(self) -> bool | None:
        """Whether the Content-Encoding of a request is undone; None: as the server's setting."""
        return self.options.get("decompress_requests")

    @property
    def compress_responses(self) -> bool | None:
        """Whether answers are compressed; None: as the server's setting."""
        return self.options.get("compress_responses")

    def with_converters(self, converters: Mapping[str, str]) -> Route:
        """The route with converters for parameters that name none; itself when there are none."""
        if not converters:
            return self
        return dataclasses.replace(self, pattern=self.pattern.with_converters(converters))


def _moved(route: Route, prefix: str) -> Route:
    known = {name: kind for name, kind in route.pattern.params.items() if kind is not None}
    pattern = PathPattern.parse(prefix + route.path).with_converters(known)
    return dataclasses.replace(route, path=prefix + route.path, pattern=pattern)


class Router:
    """A collection of routes under a prefix; `include` it in another one, or in the App.

    prefix:  "" or e.g. "/api/{version}": begins with a slash and does not end with one
    """

    routes: list[Route]     # in order of registration, with the prefix

    def __init__(self, prefix: str = "") -> None:
        self.prefix = _checked_prefix(prefix)
        self.routes = []
        self._claims = Claims()
        self._included = False

    def route(
        self,
        path: str,
        *,
        methods: Sequence[str] = ("GET",),
        name: str | None = None,
        **options: Any,
    ) -> Callable[[Function], Function]:
        """Register a handler; the decorator returns it unchanged.

        path:     behind the prefix; may be "" when there is one
        methods:  any tokens, or ["*"] for every method that has no route of its own here
        name:     for url_for; the function's name when left out
        options:  max_body_bytes=, handler_timeout_s= (0: none), decompress_requests=,
                  compress_responses=,
                  cancel_on_disconnect= (default: a GET or HEAD is, any other runs to its end)
        """
        if isinstance(path, str) and path and not path.startswith("/"):
            raise _refusal(path, f"does not start with '/': write {'/' + path!r}")
        full = self.prefix + path if isinstance(path, str) else path
        pattern = PathPattern.parse(full)
        checked = _checked_methods(full, methods)
        kept = MappingProxyType(_checked_options(full, options))

        def register(endpoint: Function) -> Function:
            if not callable(endpoint):
                raise _refusal(full, f"has the handler {endpoint!r}, which cannot be called")
            chosen = name
            if chosen is None:
                chosen = getattr(endpoint, "__name__", type(endpoint).__name__)
            self._add([Route(full, checked, chosen, endpoint, pattern, kept)])
            return endpoint

        return register

    def get(
        self, path: str, *, name: str | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """Register a handler for GET, and for HEAD unless that has its own."""
        return self.route(path, methods=("GET",), name=name, **options)

    def post(
        self, path: str, *, name: str | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """Register a handler for POST."""
        return self.route(path, methods=("POST",), name=name, **options)

    def put(
        self, path: str, *, name: str | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """Register a handler for PUT."""
        return self.route(path, methods=("PUT",), name=name, **options)

    def patch(
        self, path: str, *, name: str | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """Register a handler for PATCH."""
        return self.route(path, methods=("PATCH",), name=name, **options)

    def delete(
        self, path: str, *, name: str | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """Register a handler for DELETE."""
        return self.route(path, methods=("DELETE",), name=name, **options)

    def head(
        self, path: str, *, name: str | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """Register a handler for HEAD of its own."""
        return self.route(path, methods=("HEAD",), name=name, **options)

    def options(
        self, path: str, *, name: str | None = None, **options: Any
    ) -> Callable[[Function], Function]:
        """Register a handler for OPTIONS; without one the server answers with Allow."""
        return self.route(path, methods=("OPTIONS",), name=name, **options)

    def include(self, other: Router, prefix: str = "") -> None:
        """Add the routes that another router has, behind this one's prefix and `prefix`.

        The other router takes no routes from then on: they would be missing here.
        """
        if other is self:
            raise RouteError("a router cannot include itself")
        start = self.prefix + _checked_prefix(prefix)
        self._add([_moved(route, start) if start else route for route in other.routes])
        other._included = True

    def url_for(self, name: str, /, **params: object) -> str:
        """The percent-encoded path of a named route, e.g. "/users/7" for ("user", id=7).

        Raises RouteError for an unknown or ambiguous name, and for parameters that are
        missing, too many, or that the route would not take.
        """
        found = {route.path: route for route in self.routes if route.name == name}
        if not found:
            raise RouteError(f"url_for({name!r}): no route has this name")
        if len(found) > 1:
            raise RouteError(
                f"url_for({name!r}): {' and '.join(map(repr, found))} have this name: "
                "give one of them another with name=")
        return next(iter(found.values())).pattern.build(name, params)

    def _add(self, routes: list[Route]) -> None:
        # All or none.
        if self._included and routes:
            raise RouteError(
                f"route {routes[0].path!r} is added to a router that is already included: "
                "add every route, then include the router")
        sure = [route for route in routes if None not in route.pattern.params.values()]
        self._claims.claim(sure, among=self.routes)
        self.routes += routes


class Claims:
    """Which route has which method of which path: each at most one.

    `{id}` and `{name}` at the same place are the same path. A Router claims what it knows
    for sure; a bare `{id}` may still become `{id:int}` by its handler's annotation, so it is
    claimed by compile_routes, when the server starts.
    """

    def __init__(self) -> None:
        self._owners: dict[tuple[object, str], Route] = {}

    def claim(self, routes: Iterable[Route], among: Sequence[Route] | None = None) -> None:
        """Claim every method of these routes, or none of them.

        among:  only these can be in the way; others have been taken back since
        Raises RouteError, naming both routes and both handlers.
        """
        new: dict[tuple[object, str], Route] = {}
        for route in routes:
            shape = route.pattern.shape
            for method in route.methods:
                key = (shape, method)
                owner = new.get(key)
                if owner is None:
                    owner = self._owners.get(key)
                    if owner is not None and among is not None and owner not in among:
                        owner = None
                if owner is not None:
                    raise RouteError(
                        f"route '{method} {route.path}' of {describe(route.endpoint)} matches the "
                        f"same requests as '{method} {owner.path}' of {describe(owner.endpoint)}: "
                        "remove one, or change its path or its methods")
                new[key] = route
        self._owners.update(new)


def compile_routes(routes: Iterable[tuple[Route, Plan]]) -> CompiledRouter:
    """The compiled, frozen router of these routes, each with the plan that answers it.

    Raises RouteError when two of them claim the same method of the same path.
    """
    pairs = list(routes)
    Claims().claim(route for route, _ in pairs)
    compiled = CompiledRouter()
    for number, (route, plan) in enumerate(pairs, 1):
        plan.number = number
        compiled.add(route.pattern.compiled(), route.methods, plan)
    compiled.freeze()
    return compiled


# --- checks ------------------------------------------------------------------------------


def _checked_prefix(prefix: str) -> str:
    if not isinstance(prefix, str):
        raise RouteError(f"prefix {prefix!r} is not a str")
    if prefix and not prefix.startswith("/"):
        raise RouteError(f"prefix {prefix!r} does not start with '/': write {'/' + prefix!r}")
    if prefix.endswith("/"):
        raise RouteError(
            f"prefix {prefix!r} ends with '/', which the routes begin with: "
            f"write {prefix.rstrip('/')!r}")
    if prefix:
        PathPattern.parse(prefix)
    return prefix


def _checked_methods(path: str, methods: Sequence[str]) -> tuple[str, ...]:
    if isinstance(methods, str):
        raise _refusal(path, f"has methods={methods!r}: give a list, methods=[{methods!r}]")
    checked: dict[str, None] = {}
    for method in methods:
        if not isinstance(method, str) or not _TOKEN.fullmatch(method):
            raise _refusal(
                path, f"has the method {method!r}, which is no token (RFC 9110 section 5.6.2)")
        upper = method.upper()
        checked[upper if upper in STANDARD_METHODS else method] = None
    if not checked:
        raise _refusal(path, "has no methods: name one, or ['*'] for all")
    if "*" in checked and len(checked) > 1:
        raise _refusal(
            path, f"has methods={list(methods)!r}: '*' already is every method, give it alone")
    return tuple(checked)


def _checked_options(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    for option, value in options.items():
        if option not in OPTIONS:
            raise _refusal(
                path, f"has an unknown option {option!r}: there are {', '.join(OPTIONS)}")
        if option == "max_body_bytes":
            good = value is None or (type(value) is int and value >= 0)
            wanted = "a number of bytes, or None for the server's limit"
        elif option == "handler_timeout_s":
            good = value is None or (
                isinstance(value, (int, float)) and type(value) is not bool and 0 <= value < 1e9)
            wanted = "a number of seconds, 0 for no limit, or None for the server's limit"
        elif option in ("decompress_requests", "compress_responses"):
            good = value is None or isinstance(value, bool)
            wanted = "True or False, or None for the server's setting"
        else:
            good = value is None or isinstance(value, bool)
            wanted = "True or False"
        if not good:
            raise _refusal(path, f"has {option}={value!r}: give {wanted}")
    return dict(options)
