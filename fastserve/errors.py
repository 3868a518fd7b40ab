"""Every exception of fastserve, each with what it answers or stops.

Ground floor: imports nothing of ours. A peer's mistake is an HTTPError with its
status; a user's mistake is one of the others, raised when the route is added or
the server starts, never at the first request.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus


class FastserveError(Exception):
    """The base of what fastserve raises for a mistake in the application or its settings."""


class RouteError(FastserveError, ValueError):
    """A route that cannot be registered; the message names the route and the way out."""


class ConfigError(FastserveError, ValueError):
    """A setting that cannot be used; the message names the setting, its value and the way out."""


class ImportTargetError(FastserveError):
    """`MODULE:APP` does not lead to an application."""


class StartupError(FastserveError):
    """The application's own start-up failed; the worker exits with status 3."""


class MissingExtraError(FastserveError, ImportError):
    """Something needs a library of an extra that is not installed; the message names the extra."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra: pip install 'fastserve[{extra}]'")
        self.extra = extra


class ClientDisconnect(Exception):
    """The client went away before its request was complete."""


class HTTPError(Exception):
    """Answer the request with this status instead of a response.

    status:   100 < status < 600; the reason phrase is the standard one
    detail:   the body, as plain text; the reason phrase when left out
    headers:  sent along, e.g. {"retry-after": "3"}
    """

    status: int
    detail: str
    headers: Mapping[str, str] | None

    def __init__(
        self,
        status: int,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"HTTPError status must be from 200 to 599, not {status!r}")
        if detail is None:
            detail = reason_phrase(status)
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def __str__(self) -> str:
        return f"{self.status} {self.detail}"


def reason_phrase(status: int) -> str:
    """The standard phrase of a status code, or "Unknown" (RFC 9110 section 15)."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
