"""The tests of a comparison: what is asked, and what an answer must look like under load.

Whether a server follows the suite's rules is verified once, before it is measured; under load every
answer must still have status 200, end where it says, and have the shape given here.
"""

import json
from dataclasses import dataclass

from benchmarks.cases import PLAIN_HEAD, request
from benchmarks.probe import Answer, WrongAnswer
from benchmarks.servers import Server

WORLD = '"randomNumber"'


@dataclass(frozen=True)
class SuiteTest:
    """One test of the suite.

    verified_as: its name in techempower.verify; several tests may share one
    check:       what every answer under load must be, as the client reads it (framing.h)
    depth:       requests that are sent at once on a connection
    floor:       whether the C floor can stand beside it
    queries:     whether most requests ask the database
    """

    name: str
    title: str
    path: str
    verified_as: str
    check: str = "same"
    depth: int = 1
    database: bool = True
    floor: bool = False
    queries: bool = True

    @property
    def request(self) -> bytes:
        """The bytes of one request."""
        return request(f"GET {self.path}", PLAIN_HEAD)

    def judge(self, answer: Answer) -> None:
        """Refuse what is no such answer at all. Raises WrongAnswer."""
        if answer.status != 200:
            raise WrongAnswer(f"status {answer.status}: {answer.body[:80]!r}")
        text = answer.body.decode(errors="replace").strip()
        if self.check == "same":
            right = text == "Hello, World!" if self.verified_as == "plaintext" else _is_json(text)
        else:
            count, marker, first, last = self.check.split(":")
            right = (text.count(marker) == int(count) and text.lower().startswith(first)
                     and text.lower().endswith(last))
        if not right:
            raise WrongAnswer(f"body {text[:120]!r}")


def _is_json(text: str) -> bool:
    try:
        return bool(json.loads(text) == {"message": "Hello, World!"})
    except ValueError:
        return False


def _worlds(path: str, name: str, title: str, verified_as: str, count: int) -> SuiteTest:
    what = f"{title}, {count} {'rows' if count > 1 else 'row'}"
    return SuiteTest(f"{name}-{count}", what, f"{path}{count}", verified_as,
                     f"{count}:{WORLD}:[:]", queries=name != "cached")


def takes_part(entry: Server, test: SuiteTest) -> bool:
    """Whether the entry is one to be measured on the test.

    A row that differs from another in how it asks the database has nothing to show elsewhere.
    """
    return test.name not in entry.skips and (
        test.queries or not entry.name.endswith(("-pipelined", "-orm")))


_ALL = (
    SuiteTest("plaintext", "Plain text", "/plaintext", "plaintext", database=False, floor=True,
              queries=False),
    SuiteTest("json", "JSON", "/json", "json", database=False, floor=True, queries=False),
    SuiteTest("db", "Single query", "/db", "db", f"1:{WORLD}:{{:}}"),
    *(_worlds("/queries?queries=", "queries", "Multiple queries", "queries", count)
      for count in (1, 5, 10, 15, 20)),
    *(_worlds("/cached-queries?count=", "cached", "Cached queries", "cached-queries", count)
      for count in (20, 100)),
    SuiteTest("fortunes", "Fortunes", "/fortunes", "fortunes", "14:<tr>:<!doctype html:</html>"),
    *(_worlds("/updates?queries=", "updates", "Updates", "updates", count)
      for count in (1, 5, 10, 15, 20)),
    SuiteTest("pipelined-16", "Plain text, 16 requests at once", "/plaintext", "plaintext",
              depth=16, database=False, floor=True, queries=False),
)

# In the order in which they are reported: pipelined figures never first.
TESTS: dict[str, SuiteTest] = {test.name: test for test in _ALL}
USUAL = ("plaintext", "json", "db", "queries-20", "cached-20", "fortunes", "updates-20",
         "pipelined-16")
