from collections.abc import Sequence

from fastserve._speedups.plan import Plan

class Router:
    """The compiled routes: add() them, freeze(), then match.

    not_found, method_not_allowed, options: plans that answer when no route does; None means
    the protocol answers by itself. The last two take the value of Allow as their parameter.
    """

    not_found: Plan | None
    method_not_allowed: Plan | None
    options: Plan | None
    def __init__(self) -> None: ...
    def add(
        self, pattern: Sequence[bytes | tuple[str, str]], methods: Sequence[str], plan: Plan
    ) -> None:
        """Let a plan answer a pattern.

        pattern:  what stands between the slashes of the path: a literal as decoded bytes, or
                  (converter, name) with a converter of int, uuid, float, str, path
        methods:  tokens, or ["*"] for every method that has no plan of its own
        Raises ValueError if the pattern cannot be, does not fit the plan, or is taken.
        """
    def freeze(self) -> None:
        """Build the tables. From here on the routes are fixed; a second call does nothing."""
    def find(
        self, method: str, path: bytes | bytearray | memoryview
    ) -> tuple[Plan, tuple[object, ...]] | tuple[None, str] | int:
        """What answers a request, as the protocol will see it.

        path:  the raw path, without the query; anything with a buffer
        Returns (plan, values); (None, allow) when the path answers other methods only;
        404; or 400 for a malformed path.
        """
    def match_many(self, method: str, path: bytes, count: int) -> int:
        """Do `count` times what the protocol does per request; returns the last verdict.

        For benchmarks: one call from Python hides behind many matches.
        """
    def effort(self, path: bytes) -> int:
        """The number of tree nodes that a match of this raw path visits; 0: no tree needed.

        A count, so that a test can say "flat" without a clock.
        """
    def shape(self) -> dict[str, int]:
        """Facts about the frozen tables.

        Returns a dict: entries, static_paths, nodes, depth, and longest_probe: the most slots
        that a look-up of any key at all reads, over every table.
        """
