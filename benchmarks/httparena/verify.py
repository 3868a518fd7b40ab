"""The arena's validation of a server, rule by rule, and what its written rules say beyond it.

Inputs are drawn anew each time, and answers to other inputs are compared, so that nothing that was
learned by heart or kept passes. One Problem is one rule that is broken.
"""

from collections.abc import Callable, Sequence

from benchmarks.httparena.profiles import PROFILES
from benchmarks.httparena.report import Problem, Report
from benchmarks.httparena.rules_database import async_db, crud
from benchmarks.httparena.rules_files import static, upload
from benchmarks.httparena.rules_json import json, json_comp, json_tls
from benchmarks.httparena.rules_wire import baseline, limited_conn, noise, pipelined
from benchmarks.httparena.wire import NoAnswer, Target

__all__ = ["Problem", "Target", "verify"]

RULES: dict[str, tuple[Callable[[Report], None], ...]] = {
    "baseline": baseline,
    "pipelined": pipelined,
    "limited-conn": limited_conn,
    "json": json,
    "json-comp": json_comp,
    "json-tls": json_tls,
    "upload": upload,
    "static": static,
    "async-db": async_db,
    "crud": crud,
    "noise": noise,
}


def verify(target: Target, profiles: Sequence[str] = tuple(PROFILES)) -> list[Problem]:
    """What is wrong with a server, by the rules of these profiles; empty for one that is right."""
    wanted = dict.fromkeys(
        name for profile in profiles for name in PROFILES[profile].checks or (profile,))
    problems: list[Problem] = []
    for name in wanted:
        for rule in RULES[name]:
            report = Report(name, target)
            try:
                rule(report)
            except NoAnswer as error:
                report.fail(rule.__name__.replace("_", " "), str(error))
            problems += report.problems
    return problems
