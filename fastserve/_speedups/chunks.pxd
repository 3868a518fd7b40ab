# Chunked bodies, from the first chunk size to the last CRLF (RFC 9112 section 7.1).
#
# Nothing is allocated and nothing read past `data + size`; what is needed to resume is in the
# struct that is handed in. A line is judged when its LF has arrived or when it outgrows its
# limit, never before: every split of the same bytes has the same verdict.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct ChunkLimits:
    uint32_t max_extension_bytes    # of all chunks of one body together -> 400
    uint32_t max_trailer_bytes      # whole trailer section -> 431
    uint32_t max_trailers           # trailer field lines -> 431

cdef struct Chunks:
    # The state of one chunked body. All zero before its first byte.
    uint64_t left                   # bytes of chunk data still to come, at most 2^63 - 1
    uint32_t extension_bytes
    uint32_t trailer_bytes
    uint32_t scanned                # of an unfinished framing line: no LF in these bytes
    uint16_t trailer_count
    uint8_t phase
    bint done                       # the last CRLF has been consumed

# Some of a chunked body. Consumes at most one run of chunk data per call: `body` and
# `body_size` say where it is inside `data` (size 0: framing only). Returns bytes consumed
# (0: needs more), or minus the status to answer (400, 431). Stops when chunks.done.
cdef Py_ssize_t read_chunks(
    const ChunkLimits* limits, const char* data, Py_ssize_t size, Chunks* chunks,
    const char** body, Py_ssize_t* body_size) noexcept nogil

# Behind token [ "=" ( token / quoted-string ) ] at p (RFC 9110 sections 5.6.2, 5.6.4), or NULL.
cdef const char* skip_parameter(const char* p, const char* end) noexcept nogil
