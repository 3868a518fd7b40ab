"""Request bodies that were sent compressed: decoded in pieces, within bounds.

Only where `decompress_requests` is set; else a body is handed over as it was sent.

    gzip, deflate    zlib, always there (RFC 1952, RFC 1950)
    br, zstd         where the extra `compress` is installed (RFC 7932, RFC 9659)

A Decoder holds one piece of input and makes one piece of output at a time, so that what a
bomb can reach is the limit of whoever takes the pieces; br fills its window of up to 4 MiB
before it gives anything, zstd one of up to 8 MiB as it gives. Other bounds are its own: the
ratio of output to input, and the number of frames, which each cost something to begin.
A second coding, or one that is not known here, is a 415 that names what is (RFC 9110
section 15.5.16); a body that ends early, or goes on behind its end, is a 400.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from fastserve.errors import HTTPError

OUTPUT_BYTES = 64 * 1024        # of one piece; brotli may go over it by half
INPUT_BYTES = 16 * 1024         # given to a library at once: what it does not use, it copies
FREE_BYTES = 1024 * 1024        # of output, before the ratio counts
BYTES_PER_FRAME = 512           # of input, on average, where there are many frames
FREE_FRAMES = 16
ZSTD_WINDOW_LOG = 23            # 8 MiB (RFC 9659 section 3.1)
BROTLI_WINDOW_LOG = 22          # 4 MiB, what encoders use unless told otherwise


class Frame(Protocol):
    """One compressed unit: a gzip member, a zstd frame, a zlib or brotli stream."""

    @property
    def hungry(self) -> bool:
        """Whether there is nothing more to get without more input."""

    @property
    def ended(self) -> bool:
        """Whether it is complete."""

    @property
    def unused(self) -> bytes:
        """Input behind the end."""

    def decode(self, data: bytes) -> bytes:
        """The next output, about OUTPUT_BYTES at most; `data` is empty unless it is hungry.

        Raises ValueError for what is malformed.
        """


class ZlibFrame:
    """gzip or deflate."""

    hungry = True

    def __init__(self, window_bits: int) -> None:
        import zlib

        self._error = zlib.error
        self._zlib = zlib.decompressobj(window_bits)

    @property
    def ended(self) -> bool:
        """Whether the checksum was read, and was right."""
        return self._zlib.eof

    @property
    def unused(self) -> bytes:
        """Input behind the end."""
        return self._zlib.unused_data

    def decode(self, data: bytes) -> bytes:
        """The next output; a full piece may leave more inside, even with no input left."""
        try:
            out = self._zlib.decompress(data or self._zlib.unconsumed_tail, OUTPUT_BYTES)
        except self._error as error:
            raise ValueError(str(error)) from None
        # At its end zlib may leave in the tail what stands in unused_data, too.
        self.hungry = self._zlib.eof or (
            not self._zlib.unconsumed_tail and len(out) < OUTPUT_BYTES)
        return out


class BrotliFrame:
    """br."""

    unused = b""        # the library calls it an error

    def __init__(self, brotli: Any) -> None:
        self._error = brotli.error
        self._brotli = brotli.Decompressor()
        self._begun = False
        self._full = False      # the last piece was: there may be more, or the end

    @property
    def hungry(self) -> bool:
        """Whether all the output is taken."""
        return not self._full and bool(self._brotli.can_accept_more_data())

    @property
    def ended(self) -> bool:
        """Whether the last block is decoded, and taken."""
        return bool(self._brotli.is_finished())

    def decode(self, data: bytes) -> bytes:
        """The next output."""
        if not self._begun:
            self._begun = True
            if _brotli_window_log(data[0]) > BROTLI_WINDOW_LOG:
                raise HTTPError(413, f"the br body needs more than {1 << BROTLI_WINDOW_LOG} bytes "
                                "of window")
        try:
            out: bytes = self._brotli.process(data, output_buffer_limit=OUTPUT_BYTES)
        except self._error as error:
            raise ValueError(str(error)) from None
        self._full = len(out) >= OUTPUT_BYTES
        return out


def _brotli_window_log(first: int) -> int:
    # By the first byte of the stream (RFC 7932 section 9.1).
    if not first & 1:
        return 16
    if first >> 1 & 7:
        return 17 + (first >> 1 & 7)
    return 8 + (first >> 4 & 7) if first >> 4 & 7 else 17


class ZstdFrame:
    """zstd."""

    def __init__(self, zstd: Any) -> None:
        self._error = zstd.ZstdError
        self._zstd = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG})

    @property
    def hungry(self) -> bool:
        """Whether all the output is taken."""
        return bool(self._zstd.needs_input or self._zstd.eof)

    @property
    def ended(self) -> bool:
        """Whether the frame is complete."""
        return bool(self._zstd.eof)

    @property
    def unused(self) -> bytes:
        """Input behind the end."""
        unused: bytes = self._zstd.unused_data
        return unused

    def decode(self, data: bytes) -> bytes:
        """The next output."""
        try:
            out: bytes = self._zstd.decompress(data, OUTPUT_BYTES)
        except self._error as error:
            raise ValueError(str(error)) from None
        return out


@functools.cache
def codings() -> dict[str, Callable[[], Frame]]:
    """What can be decoded here: the name of each content coding, and what begins a frame of it."""
    known: dict[str, Callable[[], Frame]] = {
        "gzip": functools.partial(ZlibFrame, 31),
        "deflate": functools.partial(ZlibFrame, 15),
    }
    brotli = first_of("brotli")
    if hasattr(getattr(brotli, "Decompressor", None), "can_accept_more_data"):
        known["br"] = functools.partial(BrotliFrame, brotli)    # 1.2: with a bound on the output
    zstd = first_of("compression.zstd", "backports.zstd")      # the former from Python 3.14 on
    if zstd is not None:
        known["zstd"] = functools.partial(ZstdFrame, zstd)
    return known


def first_of(*names: str) -> Any:
    """The first of these modules that is installed, or None."""
    import importlib

    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


CONCATENATED = ("gzip", "zstd")     # several frames are one body (RFC 1952 2.2, RFC 8878 3)


class Decoder:
    """The pieces of one body, decoded: feed() one, read() until it gives b"", and so on.

    coding:     one of codings()
    max_ratio:  output for each byte of input, once there is more than FREE_BYTES of it
    """

    def __init__(self, coding: str, max_ratio: float) -> None:
        self.coding = coding
        self.taken = 0          # bytes of input
        self.given = 0          # bytes of output
        self._max_ratio = max_ratio
        self._begin = codings()[coding]
        self._frame: Frame | None = None
        self._frames = 0
        self._input = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """The next piece of input; what was fed before must be used up."""
        self._input = data
        self._at = 0

    def read(self) -> bytes:
        """The next piece of output; b"" when it takes more input.

        Raises HTTPError: 400 for what is malformed, 413 for a bomb.
        """
        while True:
            if self._frame is None:
                if self._at == len(self._input):
                    return b""
                self._frame = self._next_frame()
            data = b""
            if self._frame.hungry:
                if self._at == len(self._input):
                    return b""
                data = self._input[self._at : self._at + INPUT_BYTES]
                self._at += len(data)
                self.taken += len(data)
            out = self._decode(self._frame, data)
            if out:
                return out

    def finish(self) -> None:
        """There is no more input. Raises HTTPError(400) when there should be."""
        if self._frame is not None:
            raise HTTPError(400, f"the {self.coding} body is cut short")

    def _next_frame(self) -> Frame:
        if self._frames and self.coding not in CONCATENATED:
            raise HTTPError(400, f"something follows the end of the {self.coding} body")
        self._frames += 1
        if self._frames > FREE_FRAMES + self.taken // BYTES_PER_FRAME:
            raise HTTPError(400, f"the {self.coding} body is in too many pieces")
        return self._begin()

    def _decode(self, frame: Frame, data: bytes) -> bytes:
        try:
            out = frame.decode(data)
        except (ValueError, EOFError):
            what = "the body is not" if not self.given else "the body is no valid"
            raise HTTPError(400, f"{what} {self.coding}") from None
        if frame.ended and frame.hungry:
            unused = len(frame.unused)
            self._at -= unused
            self.taken -= unused
            self._frame = None
        self.given += len(out)
        if self.given > FREE_BYTES and self.given > self._max_ratio * self.taken:
            raise HTTPError(
                413, f"the body decodes to more than {self._max_ratio:g} times its size")
        return out


def decoder_for(values: Iterable[str], max_ratio: float) -> Decoder | None:
    """The decoder of a request body, or None when it has no coding.

    values:  of the Content-Encoding fields
    Raises HTTPError(415) for codings that cannot be undone here.
    """
    names = [name.strip(" \t").lower() for value in values for name in value.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return None
    coding = "gzip" if names[0] == "x-gzip" else names[0]   # RFC 9110 section 8.4.1.3
    if len(names) > 1:
        raise _unsupported("a body is decoded from one content coding, not from several")
    if coding not in codings():
        raise _unsupported("this content coding is not known here")
    return Decoder(coding, max_ratio)


def _unsupported(detail: str) -> HTTPError:
    return HTTPError(415, detail, {"accept-encoding": ", ".join(codings())})
