"""What rules report: a Problem for each that is broken, and helpers to say so in one line."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from benchmarks.httparena.wire import Answer, Target

dice = random.SystemRandom()
SHOWN = 60      # characters of a body in a reason


@dataclass(frozen=True)
class Problem:
    """One rule that a server breaks.

    profile:  one of PROFILES
    what:     what was asked, "GET /pipeline"
    reason:   what was found and what is expected
    """

    profile: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.profile}: {self.what}: {self.reason}"


@dataclass
class Report:
    """One profile's rules on one server, and what was found so far."""

    profile: str
    target: Target
    problems: list[Problem] = field(default_factory=list)

    def fail(self, what: str, reason: str) -> None:
        """Report a problem."""
        self.problems.append(Problem(self.profile, what, reason))

    def check(self, right: bool, what: str, reason: str) -> bool:
        """Report a problem unless it is right; whether it is."""
        if not right:
            self.fail(what, reason)
        return right

    def same(self, found: object, expected: object, what: str, of: str = "") -> bool:
        """Report a problem unless they are equal; whether they are."""
        return self.check(
            found == expected, what, f"{of}{': ' if of else ''}expected {_short(expected)}, "
            f"found {_short(found)}")

    def is_text(self, answer: Answer, expected: str, what: str) -> None:
        """A 200 with just this body, as text/plain."""
        self.same((answer.status, answer.body), (200, expected.encode()), what)
        self.same(answer.kind, "text/plain", what, "Content-Type")

    def as_json(self, answer: Answer, what: str) -> dict[str, Any]:
        """The object in a 200 of type application/json; {} where it is none."""
        self.same(answer.kind, "application/json", what, "Content-Type")
        if not self.same(answer.status, 200, what, "status"):
            return {}
        try:
            value = json.loads(answer.decoded())
        except ValueError as error:
            self.fail(what, f"no JSON: {error}")
            return {}
        if not self.check(isinstance(value, dict), what, "no JSON object"):
            return {}
        return dict(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
