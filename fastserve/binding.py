"""A handler's signature into its Plan: decided once, when the route is added.

Every argument of a handler comes from one place, by this order:

1. annotated `Request` (or a subclass, or a string that means it): the request;
2. named as a parameter of the path: that parameter, converted;
3. named `request`: the request;
4. it has a default: left out of the call;
5. otherwise the route cannot be registered, and the error says why and where.

`*args` stays empty. `**kwargs` takes the path parameters that no other argument names.
Positional-only arguments go by position, everything behind a left-out argument by name.

The annotation of a path parameter chooses its converter where the path names none
(`{id}` with `id: int` is `{id:int}`), and must agree with it where it does.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import UUID

from fastserve._speedups.messages import Request
from fastserve._speedups.plan import Plan
from fastserve.blocking import BlockingPool, call_of, is_blocking
from fastserve.errors import RouteError

FROM_REQUEST = -1
CONVERTER_OF: dict[object, str] = {int: "int", float: "float", UUID: "uuid"}
CONVERTER_BY_NAME = {"int": "int", "float": "float", "UUID": "uuid"}
TYPE_OF: dict[str, type] = {"str": str, "path": str, "int": int, "float": float, "uuid": UUID}
NO_OPINION: frozenset[object] = frozenset((inspect.Parameter.empty, Any, object))

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


@dataclass(frozen=True)
class Target:
    """What is being bound: a handler under the words an error names it by.

    label:     the route, e.g. "GET /users/{id}"
    endpoint:  the handler
    """

    label: str
    endpoint: Callable[..., Any]

    @functools.cached_property
    def parameters(self) -> list[tuple[inspect.Parameter, object]]:
        """Those of the handler, each with its annotation resolved as far as it can be.

        Read once: it is what registering a route costs. Raises RouteError.
        """
        return _parameters(self)

    def error(self, problem: str) -> RouteError:
        return RouteError(f"route '{self.label}': handler {describe(self.endpoint)} {problem}")


def bind(
    target: Target,
    params: Mapping[str, str],
    *,
    pool: BlockingPool,
    route: Any = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Plan:
    """Make the plan that calls a handler.

    params:  the parameters of the path in path order, each with its converter
    pool:    where a handler marked @blocking runs
    options: keywords of the Plan: max_body_bytes=, handler_timeout_s=, cancel_on_disconnect=
    Raises RouteError, naming the route, the handler, where it is, and the way out.
    """
    sources, names = _arguments(target, params)
    handler, runs_async = _callable(target, pool)
    try:
        return Plan(
            handler,
            sources,
            kwnames=names,
            is_async=runs_async,
            param_names=tuple(params),
            route=route,
            **options,
        )
    except ValueError as error:     # more parameters or arguments than a plan can hold
        raise target.error(f"cannot be called: {error}") from None


def converter_overrides(target: Target, params: Mapping[str, str | None]) -> dict[str, str]:
    """The converters that a handler's annotations choose.

    params:  the parameters of the path, each with its converter, or None where the path names none
    Returns the converter of each parameter that has none and is annotated int, float or UUID.
    Raises RouteError where an annotation contradicts the path, or no converter makes its type.
    """
    chosen = {}
    for parameter, annotation in target.parameters:
        if parameter.name not in params or _is_request(annotation):
            continue
        converter = params[parameter.name]
        if converter is None:
            converter = _converter_for(target, parameter.name, annotation)
            if converter != "str":
                chosen[parameter.name] = converter
        else:
            _check_agreement(target, parameter.name, converter, annotation)
    return chosen


def describe(endpoint: Callable[..., Any]) -> str:
    """A handler for people: module.qualname (file:line)."""
    inner: Any = endpoint
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inspect.unwrap(inner) if callable(inner) else inner
    named = inner if hasattr(inner, "__qualname__") else type(inner)
    name = f"{getattr(named, '__module__', '?')}.{named.__qualname__}"
    function = inner if hasattr(inner, "__code__") else call_of(inner)
    if inspect.ismethod(inner):
        function = inner.__func__
    code = getattr(function, "__code__", None)
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name


# --- arguments ---------------------------------------------------------------------------


def _arguments(target: Target, params: Mapping[str, str]) -> tuple[list[int], list[str]]:
    """The source of each argument in call order, and the names of those passed by name."""
    order = list(params)
    positional: list[int] = []
    named: dict[str, int] = {}
    left_out: str | None = None         # the first argument that keeps its default
    takes_rest = False
    for parameter, annotation in target.parameters:
        if parameter.kind is _VAR_POSITIONAL:
            continue
        if parameter.kind is _VAR_KEYWORD:
            takes_rest = True
            continue
        source = _source(target, parameter, annotation, order)
        if source is None:
            left_out = left_out or parameter.name
        elif parameter.kind is _KEYWORD_ONLY or (
            left_out is not None and parameter.kind is not _POSITIONAL_ONLY
        ):
            named[parameter.name] = source
        elif left_out is not None:
            raise target.error(
                f"takes '{parameter.name}' by position only, behind '{left_out}', "
                f"which nothing provides. Put '{parameter.name}' first"
            )
        else:
            positional.append(source)
    if takes_rest:
        used = {*positional, *named.values()}
        named |= {name: index for index, name in enumerate(order) if index not in used}
    return [*positional, *named.values()], list(named)


def _source(
    target: Target, parameter: inspect.Parameter, annotation: object, order: list[str]
) -> int | None:
    """Where an argument comes from; None to leave it out."""
    name = parameter.name
    if _is_request(annotation):
        if name in order:
            raise target.error(
                f"annotates '{name}' as the request, but '{{{name}}}' is a parameter of the path. "
                "Rename one of them"
            )
        return FROM_REQUEST
    if name in order:
        return order.index(name)
    if name == "request":
        return FROM_REQUEST
    if parameter.default is not inspect.Parameter.empty:
        return None
    known = ", ".join(f"{{{name}}}" for name in order) or "no parameters"
    raise target.error(
        f"takes '{name}', which nothing provides (the path has {known}). "
        f"Add {{{name}}} to the path, annotate it Request, or give it a default"
    )


# --- annotations -------------------------------------------------------------------------


def _parameters(target: Target) -> list[tuple[inspect.Parameter, object]]:
    endpoint = target.endpoint
    if inspect.isclass(endpoint):
        raise target.error("is a class. Register a function, a method, or an object with __call__")
    if not callable(endpoint):
        raise target.error("is not callable")
    try:
        signature = _signature(endpoint)
    except (TypeError, ValueError) as error:
        raise target.error(
            f"has no signature to read ({error}). Wrap it in a def that names its arguments"
        ) from None
    hints = _hints(endpoint)
    return [
        (parameter, hints.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
    ]


def _signature(endpoint: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):     # a name that exists only for type checkers is no error
        import annotationlib

        return inspect.signature(endpoint, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(endpoint)


def _hints(endpoint: Callable[..., Any]) -> dict[str, object]:
    """What the annotations mean, by name. One that cannot be resolved stays a string."""
    function = _function(endpoint)
    try:
        return dict(typing.get_type_hints(function))
    except Exception:  # a name that only the type checker sees
        return _hints_one_by_one(function)


def _hints_one_by_one(function: Any) -> dict[str, object]:
    annotations = getattr(function, "__annotations__", None) if sys.version_info < (3, 14) else None
    names = dict(getattr(function, "__globals__", {}))
    resolved: dict[str, object] = {}
    for name, annotation in (annotations or {}).items():
        if not isinstance(annotation, str):
            resolved[name] = annotation
            continue
        try:
            resolved[name] = eval(annotation, names)  # noqa: S307  (the module's own source)
        except Exception:
            resolved[name] = annotation
    return resolved


def _function(endpoint: Callable[..., Any]) -> Any:
    """The function whose annotations count: behind partials, wrappers, methods, __call__."""
    inner: Any = endpoint
    while True:
        if isinstance(inner, functools.partial):
            inner = inner.func
        elif hasattr(inner, "__wrapped__"):
            inner = inner.__wrapped__
        elif inspect.ismethod(inner):
            inner = inner.__func__
        else:
            break
    if not hasattr(inner, "__annotations__") or not hasattr(inner, "__code__"):
        call = call_of(inner)
        if call is not None and hasattr(call, "__code__"):
            return inspect.unwrap(call)
    return inner


def _plain(annotation: object) -> object:
    """An annotation without what does not change the value: `| None`, NewType, Annotated."""
    while True:
        origin = typing.get_origin(annotation)
        supertype = getattr(annotation, "__supertype__", None)
        if supertype is not None:
            annotation = supertype
        elif origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin is typing.Union or origin is types.UnionType:
            some = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
            if len(some) != 1:
                return annotation
            annotation = some[0]
        else:
            return annotation


def _words(annotation: object) -> str | None:
    """The last word of an annotation that stayed a string or a forward reference."""
    text = getattr(annotation, "__forward_arg__", annotation)
    if not isinstance(text, str):
        return None
    return text.replace("| None", "").strip("'\" ").rpartition(".")[2]


def _is_request(annotation: object) -> bool:
    annotation = _plain(annotation)
    if inspect.isclass(annotation):
        return issubclass(annotation, Request)
    return _words(annotation) == "Request"


def _no_opinion(annotation: object) -> bool:
    try:
        return annotation in NO_OPINION or isinstance(annotation, typing.TypeVar)
    except TypeError:   # unhashable
        return False


def _converter_for(target: Target, name: str, annotation: object) -> str:
    annotation = _plain(annotation)
    if annotation is str or _no_opinion(annotation):
        return "str"
    try:
        if annotation in CONVERTER_OF:
            return CONVERTER_OF[annotation]
    except TypeError:   # unhashable
        pass
    word = _words(annotation)
    if word is not None:
        return CONVERTER_BY_NAME.get(word, "str")
    raise target.error(
        f"annotates the path parameter '{name}' as {_type_name(annotation)}, which no converter "
        "makes. Annotate it str, int, float or UUID, and convert it in the handler"
    )


def _check_agreement(target: Target, name: str, converter: str, annotation: object) -> None:
    annotation = _plain(annotation)
    made = TYPE_OF.get(converter)
    if made is None or annotation is made or _no_opinion(annotation):
        return
    word = _words(annotation)
    if word is not None and word in (made.__name__, "Any", "object"):
        return
    raise target.error(
        f"annotates '{name}' as {_type_name(annotation)}, but {{{name}:{converter}}} "
        f"makes {_type_name(made)}. Change one of them"
    )


def _type_name(annotation: object) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


# --- sync or async -----------------------------------------------------------------------


def _callable(target: Target, pool: BlockingPool) -> tuple[Callable[..., Any], bool]:
    """What the plan calls, and whether calling it makes a coroutine."""
    endpoint = target.endpoint
    runs_async = is_async(endpoint)
    if is_blocking(endpoint):
        if runs_async or _is_a(inspect.isasyncgenfunction, endpoint):
            raise target.error("is async and marked @blocking. Remove @blocking, or make it a def")
        if _is_a(inspect.isgeneratorfunction, endpoint):
            return functools.partial(pool.generate, endpoint), False
        return functools.partial(pool.answer, endpoint), True
    return endpoint, runs_async


def is_async(endpoint: Any) -> bool:
    """Whether calling it makes a coroutine: functions, methods, partials, async __call__."""
    return not inspect.isclass(endpoint) and _is_a(inspect.iscoroutinefunction, endpoint)


def _is_a(question: Callable[[Any], bool], endpoint: Any) -> bool:
    """Ask about a function, the function of a partial, or the __call__ of an object."""
    while isinstance(endpoint, functools.partial):
        endpoint = endpoint.func
    return question(endpoint) or (
        not inspect.isroutine(endpoint) and question(call_of(endpoint))
    )
