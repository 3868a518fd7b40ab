"""Wire cases: bytes in, and what has to come of them; the data is in wire/*.toml.

A case has a name and
  input      bytes as latin-1 text; or a list of such and of [text, times]
  variants   instead of one case, one for each: it replaces "@" in `input`
  limits     limits other than the defaults
  rfc, cve   where the rule is written, and what happened to those who broke it
and one of
  status     to be answered
  meaning    of a head, as far as it matters here; or {}
  body       of a chunked body
  incomplete = true
  answers    of a whole connection: the statuses that come back
"""

import ctypes
import mmap
import sys
from itertools import pairwise
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WIRE = Path(__file__).parent / "wire"
NEXT_REQUEST = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"
SPLITS = 400  # of a case longer than that, only so many split points are tried
BYTE_BY_BYTE = 16384  # longer cases are not: the doors copy all bytes for each piece
NAMES = ("method", "target", "path", "query")


class Case:
    def __init__(self, table, data, name):
        self.name, self.data = name, data
        self.limits = table.get("limits", {})
        self.status = table.get("status")
        self.incomplete = table.get("incomplete", False)
        self.body = encode(table["body"]) if "body" in table else None
        self.meaning = None
        if "meaning" in table:
            self.meaning = dict(table["meaning"])
            for key in NAMES:
                if key in self.meaning:
                    self.meaning[key] = encode(self.meaning[key])
            if "headers" in self.meaning:
                self.meaning["headers"] = [
                    (encode(key), encode(value)) for key, value in self.meaning["headers"]
                ]
        self.answers = table.get("answers")
        outcomes = (self.status, self.meaning, self.body, self.incomplete or None, self.answers)
        if sum(outcome is not None for outcome in outcomes) != 1:
            raise ValueError(f"case {name!r} needs exactly one outcome")

    def __repr__(self):
        return self.name


def encode(text):
    return text.encode("latin-1")


def flatten(value):
    parts = [value] if isinstance(value, str) else value
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)


def load(file):
    cases = []
    for table in tomllib.loads((WIRE / f"{file}.toml").read_text("utf-8"))["case"]:
        text = flatten(table["input"])
        if "variants" not in table:
            cases.append(Case(table, encode(text), table["name"]))
        for variant in table.get("variants", ()):
            data = encode(text.replace("@", flatten(variant)))
            cases.append(Case(table, data, f"{table['name']}: {flatten(variant)[:40]!r}"))
    return cases


def splits(data):
    """The ways a case arrives: whole, byte by byte, and in two pieces, cut anywhere."""
    yield [data]
    if len(data) < BYTE_BY_BYTE:
        yield [data[index : index + 1] for index in range(len(data))]
    for cut in range(1, len(data), max(1, len(data) // SPLITS)):
        yield [data[:cut], data[cut:]]


class GuardPage:
    """A block of memory that ends at an unreadable page.

    Calling it copies bytes to the end of the block and returns their address: reading one
    byte too many kills the process.
    """

    def __init__(self, size=1 << 18):
        page = mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)  # 0 is PROT_NONE
        self.memory = mmap.mmap(-1, size + page)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.stop = self.start + size
        if libc.mprotect(ctypes.c_void_p(self.stop), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")

    def __call__(self, data):
        address = self.stop - len(data)
        if address < self.start:
            raise ValueError(f"{len(data)} bytes do not fit")
        ctypes.memmove(address, data, len(data))
        return address


def replay(door, case, place):
    """The one verdict of a case, however it arrives and whatever is behind it.

    door:  Parser.split_head or Parser.chunked
    """
    verdict = door([case.data], place)
    for pieces in splits(case.data):
        assert door(pieces, place) == verdict, pieces
    if not case.incomplete:
        assert door([case.data + NEXT_REQUEST], place) == verdict
        assert door([case.data, NEXT_REQUEST], place) == verdict
    return verdict


def read_stream(parser, data, cuts=()):
    """What a whole connection sent: a list of (meaning, body), and how it ended.

    cuts:  places where the bytes of each message are cut in pieces
    The end is a status, "incomplete", or None where the last message ends with the bytes.
    """
    messages = []
    while data:
        head = parser.split_head(pieces(data, cuts))
        if not isinstance(head, dict):
            return messages, head or "incomplete"
        data = data[head["consumed"] :]
        body = data[: head["content_length"] or 0]
        if len(body) < (head["content_length"] or 0):
            return messages, "incomplete"
        if head["chunked"]:
            found = parser.chunked(pieces(data, cuts))
            if not isinstance(found, tuple):
                return messages, found or "incomplete"
            body, size = found
            data = data[size:]
        else:
            data = data[len(body) :]
        messages.append((head, body))
        if not head["keep_alive"]:
            break
    return messages, None


def pieces(data, cuts):
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]
