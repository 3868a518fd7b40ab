"""Response bodies that are sent compressed to clients that take it.

Only where `compress_responses` is set, for the server or for a route; else a body is sent as the
handler made it.

    gzip        zlib, always there (RFC 1952)
    br, zstd    where the extra `compress` is installed (RFC 7932, RFC 8878)

The coding is the client's heaviest in Accept-Encoding (RFC 9110 section 12.5.3), and of those
alike zstd, br, gzip. A body is compressed when it is whole, text or much like it, and large
enough to be worth it; streams, files and parts of files are sent as they are, and so is what has
a coding already or forbids a change (`Cache-Control: no-transform`). Every answer that another
client would get in another coding says so: `Vary: Accept-Encoding`. Its tag becomes a weak one,
for the bytes are not those it was made of.

What is compressed for more than a moment is compressed on a thread: the loop is never held by it.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable

from fastserve._speedups.conditions import coding_weight, conditions_of
from fastserve._speedups.messages import Request
from fastserve._speedups.responses import Response
from fastserve.decompress import first_of
from fastserve.middleware import CallNext

LEAST_BYTES = 500           # below, the head weighs more than what can be saved
INLINE_BYTES = 32 * 1024    # above, a thread does it: about half a millisecond
GZIP_LEVEL, BROTLI_QUALITY, ZSTD_LEVEL = 4, 2, 3    # one more saves a few bytes of a hundred
GZIP_WINDOW_BITS = 31       # 15, and 16 for the header of gzip

Encode = Callable[[bytes], bytes]

_TEXT = re.compile(
    r"text/(?!event-stream\b).+"
    r"|application/(?:json|javascript|x-javascript|ecmascript|xml|wasm|x-ndjson|jsonl|yaml|toml"
    r"|graphql|sql|rtf|vnd\.ms-fontobject|(?:[^;]+\+(?:json|xml|yaml|text)))"
    r"|image/(?:svg\+xml|bmp|x-icon|vnd\.microsoft\.icon)"
    r"|font/(?:ttf|otf|collection)|model/(?:[^;]+\+(?:json|xml)|obj)",
    re.IGNORECASE,
)
_BOUND_TO_BYTES = frozenset(
    ("content-encoding", "content-range", "content-digest", "accept-ranges"))


@functools.cache
def codings() -> dict[str, Encode]:
    """What there is, by name: the one that is chosen first where a client likes all alike."""
    found: dict[str, Encode] = {}
    zstd = first_of("compression.zstd", "backports.zstd")      # the former from Python 3.14 on
    if zstd is not None:
        found["zstd"] = functools.partial(zstd.compress, level=ZSTD_LEVEL)
    brotli = first_of("brotli")
    if brotli is not None:
        found["br"] = functools.partial(brotli.compress, quality=BROTLI_QUALITY)
    found["gzip"] = _gzip
    return found


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW_BITS)
    return packer.compress(data) + packer.flush()


@functools.lru_cache(256)
def chosen_coding(accept_encoding: bytes) -> str | None:
    """The coding for a client with this Accept-Encoding; None is none."""
    best, highest = None, max(coding_weight(accept_encoding, b"identity"), 0.0)
    for name in codings():
        weight = coding_weight(accept_encoding, name.encode())
        if weight > 0 and (weight > highest or (best is None and weight == highest)):
            best, highest = name, weight
    return best


@functools.lru_cache(256)
def shrinks(content_type: str) -> bool:
    """Whether this type is text, or compresses as if it were."""
    return _TEXT.fullmatch(content_type.partition(";")[0].strip()) is not None


async def compressed(request: Request, call_next: CallNext) -> Response:
    """The middleware: what `call_next` answers, compressed where it can be."""
    response = await call_next(request)
    # Exactly a Response: streams, files and what is decided later have types of their own.
    if type(response) is not Response or len(response.body) < LEAST_BYTES or (
            response.status in (204, 206, 304) or not shrinks(response.content_type or "")):
        return response
    fields = _fields(response)
    if fields and not (_BOUND_TO_BYTES.isdisjoint(fields)
                       and "no-transform" not in fields.get("cache-control", "").lower()):
        return response
    vary = fields.get("vary")
    if vary is None:
        response.headers["vary"] = "Accept-Encoding"
    elif "accept-encoding" not in vary.lower() and "*" not in vary:
        response.headers["vary"] = f"{vary}, Accept-Encoding"
    accept_encoding = conditions_of(request).accept_encoding
    coding = None if accept_encoding is None else chosen_coding(accept_encoding)
    if coding is None:
        return response
    encode = codings()[coding]
    if len(response.body) <= INLINE_BYTES:
        body = encode(response.body)
    else:
        body = await request.app.blocking_pool.run(encode, response.body)
    return _with_body(response, body, coding) if len(body) < len(response.body) else response


def _fields(response: Response) -> dict[str, str]:
    # By name in lower case; what is said several times is one list (RFC 9110 section 5.3).
    fields: dict[str, str] = {}
    for name, value in response.headers.items():
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return fields


def _with_body(response: Response, body: bytes, coding: str) -> Response:
    # A new one: the handler may have kept its own, to give it to the next client too.
    made = Response(
        body, response.status, response.headers.items(), content_type=response.content_type)
    made.headers["content-encoding"] = coding
    made.headers.pop("content-length", None)
    etag = made.headers.get("etag")
    if etag is not None and not etag.startswith("W/"):
        made.headers["etag"] = f"W/{etag}"
    return made
