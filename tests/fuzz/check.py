"""What must hold for any bytes; called by target.c, once for each input.

The first byte says what the rest is: a head or a chunked body, with wide or narrow limits, and
where it is cut. Every piece is parsed from a block of exactly its size, so that
AddressSanitizer sees a read too far.
"""

from fastserve._speedups.httptools_parser import HttptoolsParser
from fastserve._speedups.parser import NativeParser

NARROW = {
    "max_head_bytes": 300,
    "max_field_bytes": 100,
    "max_headers": 6,
    "max_target_bytes": 60,
    "max_chunk_extension_bytes": 30,
    "max_trailer_bytes": 50,
    "max_trailers": 3,
}
WIDE = NativeParser(), HttptoolsParser()
TIGHT = NativeParser(**NARROW), HttptoolsParser(**NARROW)


def check(data):
    if not data:
        return
    choice, data = data[0], data[1:]
    native, llhttp = TIGHT if choice & 1 else WIDE
    for name in ("chunked",) if choice & 2 else ("split_head",):
        verdict = getattr(native, name)([data])
        cut = (choice >> 2) * 3 % (len(data) + 1)
        ways = [[data[:cut], data[cut:]]]
        if len(data) < 300:
            ways.append([data[index : index + 1] for index in range(len(data))])
        for pieces in ways:
            require(getattr(native, name)(pieces) == verdict, "a split changed the verdict")
        require(getattr(llhttp, name)([data]) == verdict, "llhttp does not agree")
        if isinstance(verdict, dict):
            require(0 < verdict["consumed"] <= len(data), "consumed more than there is")
        elif isinstance(verdict, tuple):
            require(len(verdict[0]) < verdict[1] <= len(data), "consumed more than there is")


def require(condition, message):
    if not condition:
        raise AssertionError(message)
