# Bodies that are sent as they are made: see outgoing.pxd for the contract.

import asyncio

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from fastserve._speedups.channel cimport Channel
from fastserve._speedups.responses cimport FileSpan, PartsResponse, StreamingResponse
from fastserve._speedups.multidict cimport MutableHeaders, mutable_headers

cdef enum:
    COPIED_PIECE = 16 * 1024        # a larger one is sent by reference
    TURN_BYTES = 256 * 1024         # of one body, before others get their turn
    PIECE_COST = 512                # what a piece counts besides its bytes

cdef bytes TEXT = b"text/plain; charset=utf-8"
cdef bytes OCTETS = b"application/octet-stream"

# Fields that decide about framing, routing, access or the payload's form: they mean nothing,
# or harm, behind the body (RFC 9110 section 6.5.1).
cdef frozenset NOT_IN_TRAILERS = frozenset((
    b"transfer-encoding", b"content-length", b"host", b"connection", b"keep-alive", b"upgrade",
    b"te", b"trailer", b"authorization", b"www-authenticate", b"proxy-authenticate",
    b"proxy-authorization", b"set-cookie", b"cookie", b"content-type", b"content-encoding",
    b"content-range", b"cache-control", b"expires", b"date", b"age", b"vary", b"location",
    b"retry-after", b"expect", b"max-forwards", b"range", b"if-range"))


cdef class Outgoing(TaskOwner):
    cdef int open(self, bytes media_type) except -1:
        raise NotImplementedError

    cdef int count(self, Py_ssize_t size) except -1:
        # A body is never longer than its head said; a client could take the rest for a response.
        if self.framing == FRAMED_BY_LENGTH:
            if size > self.left:
                raise ValueError(f"the body is longer than its Content-Length, by {size - self.left} "
                                 "bytes at least")
            self.left -= size
        self.turn_left -= size + PIECE_COST
        self.sent += size
        return 0

    cdef int write(self, bytes piece) except -1:
        cdef char head[24]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        cdef Py_ssize_t head_size = 0
        cdef bytes copy
        cdef char* to
        if size == 0:
            return 0        # an empty chunk would be the last one
        self.count(size)
        if self.channel is None:
            return 0
        if self.framing != FRAMED_BY_CHUNKS:
            if size < COPIED_PIECE:
                return self.channel.write(PyBytes_AS_STRING(piece), size)
            return self.channel.write_pair(NULL, 0, piece)
        head_size = chunk_head(head, size, self.owes_crlf)
        if size >= COPIED_PIECE:
            self.owes_crlf = True
            return self.channel.write_pair(head, head_size, piece)
        self.owes_crlf = False
        copy = PyBytes_FromStringAndSize(NULL, head_size + size + 2)
        to = PyBytes_AS_STRING(copy)
        memcpy(to, head, head_size)
        memcpy(to + head_size, PyBytes_AS_STRING(piece), size)
        memcpy(to + head_size + size, b"\r\n", 2)
        return self.channel.write(to, head_size + size + 2)

    cdef int finish(self, object trailers) except -1:
        cdef bytes end
        if self.framing == FRAMED_BY_LENGTH and self.left:
            raise ValueError(f"the body is shorter than its Content-Length, by {self.left} bytes")
        if self.framing != FRAMED_BY_CHUNKS or self.channel is None:
            return 0
        end = b"\r\n0\r\n" if self.owes_crlf else b"0\r\n"
        if trailers is not None:
            end += trailer_section(trailers() if callable(trailers) else trailers)
        end += b"\r\n"
        return self.channel.write(PyBytes_AS_STRING(end), PyBytes_GET_SIZE(end))

    cdef int resume(self) except -1:
        waiter = self.waiter
        self.paused = False
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
        return 0

    cdef object drained(self):
        self.waiter = self.loop.create_future()
        return self.waiter


cdef Py_ssize_t chunk_head(char* head, Py_ssize_t size, bint owes_crlf) noexcept:
    # "\r\n" of the chunk before, the size in hex, "\r\n": at most 20 bytes
    cdef int at = 0, shift = 60
    if owes_crlf:
        memcpy(head, b"\r\n", 2)
        at = 2
    while shift > 0 and (size >> shift) & 15 == 0:
        shift -= 4
    while shift >= 0:
        head[at] = <char>b"0123456789abcdef"[(size >> shift) & 15]
        at += 1
        shift -= 4
    memcpy(head + at, b"\r\n", 2)
    return at + 2


cdef bytes trailer_section(object source):
    cdef bytes section = b""
    cdef MutableHeaders fields = mutable_headers(source)
    for name, value in fields.pairs:
        if (<bytes>name).lower() in NOT_IN_TRAILERS:
            raise ValueError(f"field {name.decode()!r} may not be a trailer (RFC 9110 section 6.5.1)")
        section += name + b": " + value + b"\r\n"
    return section


cdef bytes as_piece(object piece):
    if type(piece) is bytes:
        return <bytes>piece
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise TypeError(f"a body is made of bytes or str, not {type(piece).__name__}")


cdef inline bytes media_type_of(object piece):
    return TEXT if isinstance(piece, str) else OCTETS


cdef object send_pieces(Outgoing out, StreamingResponse response):
    if hasattr(response.source, "__aiter__"):
        return send_async(out, response)
    return send_sync(out, response)


async def send_async(Outgoing out, StreamingResponse response):
    iterator = response.source.__aiter__()
    try:
        if not response.waits_for_first:
            out.open(None)
        async for piece in iterator:
            content = as_piece(piece)
            if not out.opened:
                out.open(media_type_of(piece))
            out.write(content)
            if out.paused:
                await out.drained()
            elif out.turn_left < 0:
                out.turn_left = TURN_BYTES
                await asyncio.sleep(0)
        if not out.opened:
            out.open(None)
        out.finish(response.trailers)
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def send_sync(Outgoing out, StreamingResponse response):
    iterator = iter(response.source)
    try:
        if not response.waits_for_first:
            out.open(None)
        for piece in iterator:
            content = as_piece(piece)
            if not out.opened:
                out.open(media_type_of(piece))
            out.write(content)
            if out.paused:
                await out.drained()
            elif out.turn_left < 0:
                out.turn_left = TURN_BYTES
                await asyncio.sleep(0)
        if not out.opened:
            out.open(None)
        out.finish(response.trailers)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


cdef object send_parts(Outgoing out, PartsResponse response):
    return send_each_part(out, response)


async def send_each_part(Outgoing out, PartsResponse response):
    out.open(None)
    for part in response.parts:
        if type(part) is not FileSpan:
            out.write(as_piece(part))
            if out.paused:
                await out.drained()
        else:
            await send_span(out, part)
            if out.channel is None:
                return
    out.finish(None)


async def send_span(Outgoing out, FileSpan span):
    cdef Channel channel = out.channel
    cdef int64_t at = span.offset, end = at + span.size
    try:
        while at < end:
            if out.paused:
                await out.drained()
            if out.turn_left < 0:
                out.turn_left = TURN_BYTES
                await asyncio.sleep(0)
            if out.channel is None:
                return
            channel.send_file(span.fd, at, end - at)
            if out.paused:
                await out.drained()
            out.count(channel.file_sent)
            at += channel.file_sent
    finally:
        if channel is not None:
            channel.stop_file()     # the descriptor may be closed from here on
