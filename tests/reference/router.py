"""The router in plain Python: tries every route, keeps the best. For clarity, not for speed.

The compiled one walks a tree and comes back from dead ends; this one has no tree. Each
pattern that matches has a rank at every segment, and the smallest row of ranks wins.
"""

import re
from urllib.parse import unquote_to_bytes
from uuid import UUID

RANKS = {"literal": 0, "int": 1, "uuid": 2, "float": 3, "str": 4, "path": 5}
ESCAPED = re.compile(rb"(?:[^%]|%[0-9A-Fa-f]{2})*", re.DOTALL)
INT = re.compile(rb"-?[0-9]{1,19}")
FLOAT = re.compile(rb"-?[0-9]+(\.[0-9]+)?")
HEX_GROUPS = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)
ORDER = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT")
NO = object()


def convert(kind, text):
    """The value of one decoded segment, or NO; str and path stay bytes for now."""
    if kind == "int" and INT.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    if kind == "uuid" and HEX_GROUPS.fullmatch(text):
        return UUID(text.decode())
    if kind == "float" and FLOAT.fullmatch(text) and len(text) <= 64:
        return float(text)
    if kind == "str" and text:
        return text
    return NO


def fit(pattern, segments):
    """(ranks, values) when the pattern matches these decoded segments, or None."""
    ranks, values = [], []
    for index, part in enumerate(pattern):
        if index >= len(segments):
            return None
        kind = "literal" if isinstance(part, bytes) else part[0]
        ranks.append(RANKS[kind])
        if kind == "path":
            return ranks, [*values, b"/".join(segments[index:])]
        if kind == "literal":
            if part != segments[index]:
                return None
            continue
        value = convert(kind, segments[index])
        if value is NO:
            return None
        values.append(value)
    return (ranks, values) if len(pattern) == len(segments) else None


class Router:
    def __init__(self):
        self.entries = {}       # shape -> (pattern, {method: plan})

    def add(self, pattern, methods, plan):
        shape = tuple(part if isinstance(part, bytes) else part[:1] for part in pattern)
        plans = self.entries.setdefault(shape, (pattern, {}))[1]
        for method in methods:
            if method in plans:
                raise ValueError(method)
            plans[method] = plan

    def find(self, method, path):
        """What the compiled router returns for the same."""
        path = path or b"/"
        if path[:1] != b"/":
            return 404
        if not ESCAPED.fullmatch(path) or b"%00" in path:
            return 400
        segments = [unquote_to_bytes(part) for part in path[1:].split(b"/")]
        found = [
            (*fitting, plans) for pattern, plans in self.entries.values()
            if (fitting := fit(pattern, segments))
        ]
        if not found:
            return 404
        _, values, plans = min(found, key=lambda candidate: candidate[0])
        try:
            values = tuple(
                value.decode() if isinstance(value, bytes) else value for value in values)
        except UnicodeDecodeError:
            return 400
        for candidate in (method, "GET" if method == "HEAD" else method, "*"):
            if candidate in plans:
                return plans[candidate], values
        return None, allow(plans)


def allow(plans):
    names = set(plans) | {"OPTIONS"}
    if "*" in names:
        names = names - {"*"} | set(ORDER[:7])
    if "GET" in names:
        names.add("HEAD")
    standard = [name for name in ORDER if name in names]
    return ", ".join(standard + sorted(names.difference(ORDER)))
