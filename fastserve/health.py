"""/-/live and /-/ready: what load balancers and orchestrators ask, answered by the server.

Live: the process serves, 200. Ready: 200, or 503 once it is draining. They are routes of
the server's own, outside of the middleware and exempt from the limit of requests in flight;
an application that has one of these paths itself answers it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from fastserve._speedups.plan import Plan
from fastserve._speedups.responses import Response
from fastserve.routing import Route, Router

if TYPE_CHECKING:
    from fastserve._speedups.engine import Engine

LIVE, READY = "/-/live", "/-/ready"
HEADERS = {"cache-control": "no-store"}


class Page(Protocol):
    """Routes of the server's own: nothing is around them, and no limit holds them up."""

    def plans(self, besides: Iterable[Route]) -> Iterable[tuple[Route, Plan]]:
        """They and their plans, beside these routes. May raise ConfigError."""


class Health:
    """The health of one engine, which is set once it is made."""

    engine: Engine | None = None

    def live(self) -> Response:
        """The process serves."""
        return Response.text("live", 200, HEADERS)

    def ready(self) -> Response:
        """It wants requests."""
        if self.engine is not None and self.engine.draining:
            return Response.text("draining", 503, HEADERS)
        return Response.text("ready", 200, HEADERS)

    def plans(self, besides: Iterable[Route]) -> Iterator[tuple[Route, Plan]]:
        """The routes and plans of those paths that are not among these routes."""
        taken = {route.path for route in besides}
        router = Router()
        for path, handler in ((LIVE, self.live), (READY, self.ready)):
            if path not in taken:
                router.get(path)(handler)
        for route in router.routes:
            yield route, Plan(route.endpoint, (), route=route, exempt=True)
