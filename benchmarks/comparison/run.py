"""The comparison: every entry verified, then rounds in which the entries take turns.

A noisy host drifts. So every entry has one turn on each test in each round, the order is reversed
in every other round, and ratios are taken within a round. Nothing an entry does ends the run: it
is listed with the reason, and the others go on.
"""

import datetime
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison.figures import is_ours
from benchmarks.comparison.suite import SuiteTest, takes_part
from benchmarks.comparison.turn import EQUAL, PACED_WARMUP_S, SHARES, Settings, Stage, window_s
from benchmarks.machine import describe_machine
from benchmarks.process import Running
from benchmarks.rounds import FAILURES, FLOOR_EVERY
from benchmarks.servers import FLOOR, REFERENCE, ROOT, SERVERS, Server
from benchmarks.venvs import describe

SCHEMA = 1
TRIAL_S = (0.2, 0.3)  # warm-up and window from which the equal rate is found
STOP_S = 0.4          # what it takes to stop an entry, for the estimate

# What is wrong with the entry at a port on tests of the suite: (test, reason) pairs.
Verify = Callable[[int, Sequence[str]], list[tuple[str, str]]]


class Comparison:
    """One comparison and its growing record, written after every test of a round.

    entries:     those to compare, best known first; the floor is added where it can stand
    verify:      judges an entry by the suite's rules before it is measured
    equal_rates: requests a second by test; those that are missing are half of what the slowest can
    """

    def __init__(
        self,
        stage: Stage,
        entries: Sequence[Server],
        tests: Sequence[SuiteTest],
        *,
        verify: Verify,
        output: Path,
        equal_rates: dict[str, float],
    ) -> None:
        self.stage = stage
        self.entries = list(entries)
        self.tests = list(tests)
        self.verify = verify
        self.output = output
        self.say = stage.venvs.say
        self.failed: set[tuple[str, str]] = set()
        self.start_s: dict[str, float] = {}
        self.limits: dict[tuple[str, str], float] = {}  # requests a second, of the trial
        self.equal_rates = dict(equal_rates)
        self.record: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": "compare",
            "started": _now(),
            "command": f"python -m benchmarks {shlex.join(sys.argv[1:])}",
            "commit": _commit(),
            "machine": describe_machine(),
            "settings": dict(vars(stage.settings)),
            "tests": {test.name: {"title": test.title, "path": test.path, "depth": test.depth}
                      for test in tests},
            "entries": {},
            "turns": [],
            "failures": [],
        }

    def execute(self, rounds: int) -> None:
        """Install, verify, measure; the record is complete and written at the end."""
        self.record["settings"]["rounds"] = rounds
        self._install()
        for entry in self.entries:
            self._prepare(entry)
        self._choose_rates()
        self._save()
        clock = _Clock(self.say, self._estimate_s(rounds))
        for number in range(rounds):
            for test in self.tests:
                for entry in self._order(test, number):
                    self._turn(entry, test, number)
                    clock.passed(self._turn_s(entry, test))
                clock.tell(f"round {number + 1} of {rounds}, {test.name} done")
                self._save()
        self.record["finished"] = _now()
        self._save()

    def _install(self) -> None:
        for entry in tuple(self.entries):
            try:
                python = self.stage.venvs.interpreter(entry)
            except FAILURES as error:
                self.entries.remove(entry)
                self._fail(entry, "every test", error)
                continue
            self.record["entries"][entry.name] = {
                "title": entry.title, "note": entry.note, "command": entry.command,
                "skips": entry.skips, **describe(python, entry.package)}
        if any(test.floor for test in self.tests):
            floor = SERVERS[FLOOR]
            self.record["entries"][FLOOR] = {"title": floor.title, "note": floor.note}

    def _prepare(self, entry: Server) -> None:
        """Verify one entry, and find what it can do, roughly, in one process."""
        tests = [test for test in self.tests if takes_part(entry, test)]
        if not tests:
            return
        began = time.monotonic()
        try:
            with self.stage.running(entry, tests[0]) as running:
                self.start_s[entry.name] = time.monotonic() - began
                tests = self._verified(entry, running, tests)
                for test in tests:
                    self._try(entry, test, running)
        except FAILURES as error:
            for test in tests:
                if (entry.name, test.name) not in self.limits:
                    self.failed.add((entry.name, test.name))
            self._fail(entry, "preparation", error)
            return
        limits = ", ".join(f"{test.name} {self.limits[entry.name, test.name]:.0f}/s"
                           for test in tests if (entry.name, test.name) in self.limits)
        self.say(f"ready   {entry.name:20} {limits}")

    def _verified(
        self, entry: Server, running: Running, tests: list[SuiteTest]
    ) -> list[SuiteTest]:
        names = list(dict.fromkeys(test.verified_as for test in tests))
        wrong: dict[str, list[str]] = {}
        for name, reason in self.verify(running.port, names):
            wrong.setdefault(name, []).append(reason)
        for test in tests:
            if reasons := wrong.get(test.verified_as):
                self.failed.add((entry.name, test.name))
                self._fail(entry, test.name, ValueError("; ".join(reasons[:3])))
        return [test for test in tests if test.verified_as not in wrong]

    def _try(self, entry: Server, test: SuiteTest, running: Running) -> None:
        answer = running.wait_answer(test.request, test.judge)
        if test.floor and (entry.name == REFERENCE or test.name not in self.stage.responses):
            self.stage.responses[test.name] = answer.raw
        turn = self.stage.saturate(running, test, *TRIAL_S)
        self.limits[entry.name, test.name] = turn["rps"]

    def _choose_rates(self) -> None:
        for test in self.tests:
            limits = {entry: rps for (entry, name), rps in self.limits.items()
                      if name == test.name}
            # Our own row with an ORM does other work than all the rest.
            alike = [rps for entry, rps in limits.items() if entry == REFERENCE
                     or not is_ours(entry)] or limits.values()
            if alike:
                self.equal_rates.setdefault(test.name, 0.5 * min(alike))
        self.record["equal_rates_per_s"] = self.equal_rates

    def _order(self, test: SuiteTest, number: int) -> Iterator[Server]:
        able = [entry for entry in self.entries
                if takes_part(entry, test) and (entry.name, test.name) not in self.failed]
        floor = test.floor and test.name in self.stage.responses
        for index, entry in enumerate(reversed(able) if number % 2 else able):
            if floor and index % FLOOR_EVERY == 0:
                yield SERVERS[FLOOR]
            yield entry
        if floor:
            yield SERVERS[FLOOR]

    def _turn(self, entry: Server, test: SuiteTest, number: int) -> None:
        if (entry.name, test.name) in self.failed:
            return
        try:
            turn = self.stage.turn(entry, test, self.equal_rates[test.name])
        except FAILURES as error:
            self.failed.add((entry.name, test.name))
            self._fail(entry, test.name, error)
            return
        self.record["turns"].append(
            {"round": number, "test": test.name, "entry": entry.name, **turn})
        self.say(f"round {number + 1}  {test.name:12} {entry.name:20} {_line(turn)}")

    def _fail(self, entry: Server, where: str, error: Exception) -> None:
        self.record["failures"].append(
            {"entry": entry.name, "test": where, "reason": str(error) or repr(error)})
        self.say(f"FAILED  {where:12} {entry.name:20} {error}")

    def _turn_s(self, entry: Server, test: SuiteTest) -> float:
        s = self.stage.settings
        total = s.warmup + s.seconds + STOP_S + self.start_s.get(entry.name, 0.1)
        limit = self.limits.get((entry.name, test.name))
        if entry.name != FLOOR and test.depth == 1 and limit:
            rates = [*(share * limit for share in SHARES.values()), self.equal_rates[test.name]]
            total += sum(min(s.warmup, PACED_WARMUP_S) + window_s(s.latency_seconds, rate)
                         for rate in rates)
        return total

    def _estimate_s(self, rounds: int) -> float:
        return sum(self._turn_s(entry, test) for number in range(rounds) for test in self.tests
                   for entry in self._order(test, number))

    def _save(self) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.record, ensure_ascii=False, indent=1)
        self.output.write_text(text + "\n")


class _Clock:
    """Says what is left, corrected by how long the part that is done really took."""

    def __init__(self, say: Callable[[str], None], total_s: float) -> None:
        self.say = say
        self.total_s = total_s
        self.done_s = 0.0
        self.began = time.monotonic()
        say(f"about {_minutes(total_s)} of measuring")

    def passed(self, planned_s: float) -> None:
        self.done_s += planned_s

    def tell(self, what: str) -> None:
        spent = time.monotonic() - self.began
        slower = spent / self.done_s if self.done_s else 1.0
        left = (self.total_s - self.done_s) * slower
        self.say(f"-- {what} after {_minutes(spent)}; about {_minutes(max(0.0, left))} left")


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _line(turn: dict[str, Any]) -> str:
    text = (f"{turn['cpu_us']:8.2f} us ({turn['user_us']:.2f} + {turn['system_us']:.2f})"
            f" {turn['rps']:9.0f}/s")
    if equal := turn.get("paced", {}).get(EQUAL):
        text += (f"  p50/p99/p99.9 at {equal['rate_per_s']:.0f}/s: {equal['p50_us']:.0f} /"
                 f" {equal['p99_us']:.0f} / {equal['p999_us']:.0f} us")
    faults = turn["faults"] + sum(phase["faults"] for phase in turn.get("paced", {}).values())
    return f"{text}  {faults} FAILURES" if faults else text


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _commit() -> str:
    """The commit that is measured, with a + where files differ from it; "" outside a clone."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=12"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip()


__all__ = ["Comparison", "Settings", "Verify"]
