# Chunked bodies: see chunks.pxd for the contract.
#
# Extensions and trailers are ignored, but not what hides in them: line ends that another
# reader believes in, and fields that only a head may have.

from libc.stdint cimport INT64_MAX, uint32_t, uint64_t

from fastserve._speedups.scan cimport (
    HEX, TOKEN, VALUE, find, hex_value, is_in, same, skip)

cdef enum:
    CR = 0x0D
    LF = 0x0A
    MAX_CHUNK_DIGITS = 16       # 64 bits

cdef enum Phase:                # of Chunks.phase
    CHUNK_LINE = 0
    CHUNK_DATA = 1
    CHUNK_END = 2               # the CRLF behind the data
    TRAILERS = 3


cdef const char* skip_quoted(const char* p, const char* end) noexcept nogil:
    # Behind the quoted-string that starts at p (RFC 9110 section 5.6.4), or NULL.
    p += 1
    while p < end and p[0] != c'"':
        if p[0] == c"\\":
            p += 1
            if p == end:
                return NULL
        if not is_in(p[0], VALUE):
            return NULL
        p += 1
    return p + 1 if p < end else NULL


cdef const char* skip_parameter(const char* p, const char* end) noexcept nogil:
    # Behind token [ "=" ( token / quoted-string ) ], or NULL. No white space inside: it is
    # "bad" white space (RFC 9110 section 5.6.3) and lets two readers disagree.
    cdef const char* start = p
    p = skip(p, end, TOKEN)
    if p == start:
        return NULL
    if p == end or p[0] != c"=":
        return p
    p += 1
    if p < end and p[0] == c'"':
        return skip_quoted(p, end)
    start = p
    p = skip(p, end, TOKEN)
    return p if p > start else NULL


cdef int judge_chunk_line(const char* line, const char* lf, Chunks* chunks) noexcept nogil:
    # chunk-size *( ";" name [ "=" value ] ) CRLF, RFC 9112 section 7.1.
    cdef const char* end = lf - 1
    cdef const char* p
    cdef uint64_t size = 0
    if lf == line or end[0] != CR:
        return -400
    p = skip(line, end, HEX)
    if p == line or p - line > MAX_CHUNK_DIGITS:
        return -400
    chunks.extension_bytes += <uint32_t>(end - p)
    while line < p:
        size = size << 4 | <uint64_t>hex_value(line[0])
        line += 1
    while p < end:
        if p[0] != c";":
            return -400
        p = skip_parameter(p + 1, end)
        if p == NULL:
            return -400
    if size > <uint64_t>INT64_MAX:
        return -400
    chunks.left = size
    chunks.phase = CHUNK_DATA if size else TRAILERS
    return 0


cdef inline bint is_of_heads_only(const char* name, Py_ssize_t size) noexcept nogil:
    if size == 4:
        return same(name, b"host", 4)
    if size == 12:
        return same(name, b"content-type", 12)
    if size == 13:
        return same(name, b"authorization", 13)
    if size == 14:
        return same(name, b"content-length", 14)
    return size == 17 and same(name, b"transfer-encoding", 17)


cdef int judge_trailer(const char* line, const char* lf) noexcept nogil:
    # A field line like those of the head. It is dropped, and one that would have said where
    # the message ends, whom it is for or who sent it is refused (RFC 9110 section 6.5.1).
    cdef const char* end = lf - 1
    cdef const char* p
    if lf == line or end[0] != CR:
        return -400
    p = skip(line, end, TOKEN)
    if p == line or p == end or p[0] != c":" or skip(p, end, VALUE) != end:
        return -400
    return -400 if is_of_heads_only(line, p - line) else 0


cdef int judge_trailer_line(
        const ChunkLimits* limits, const char* line, const char* lf, Chunks* chunks) noexcept nogil:
    chunks.trailer_bytes += <uint32_t>(lf + 1 - line)
    if lf - line == 1 and line[0] == CR:
        chunks.done = True
        return 0
    if chunks.trailer_count >= limits.max_trailers:
        return -431
    chunks.trailer_count += 1
    return judge_trailer(line, lf)


cdef Py_ssize_t read_chunk_line(
        const ChunkLimits* limits, const char* line, const char* end, Chunks* chunks) noexcept nogil:
    # One line of framing: bytes consumed, 0 if its LF is not there yet, or minus a status.
    # Neither limit is counted beyond its maximum, so neither subtraction wraps.
    cdef bint in_trailers = chunks.phase == TRAILERS
    cdef Py_ssize_t longest
    cdef const char* lf
    cdef int status
    if in_trailers:
        longest = limits.max_trailer_bytes - chunks.trailer_bytes
    else:
        longest = MAX_CHUNK_DIGITS + 2 + <Py_ssize_t>(
            limits.max_extension_bytes - chunks.extension_bytes)
    if end - line > longest:
        end = line + longest
    lf = find(line + chunks.scanned, end, LF)
    if lf == end:
        chunks.scanned = <uint32_t>(end - line)
        if end - line < longest:
            return 0
        return -431 if in_trailers else -400
    chunks.scanned = 0
    if in_trailers:
        status = judge_trailer_line(limits, line, lf, chunks)
    else:
        status = judge_chunk_line(line, lf, chunks)
        if chunks.extension_bytes > limits.max_extension_bytes:
            status = -400
    return status if status else lf + 1 - line


cdef Py_ssize_t read_chunks(
        const ChunkLimits* limits, const char* data, Py_ssize_t size, Chunks* chunks,
        const char** body, Py_ssize_t* body_size) noexcept nogil:
    cdef const char* p = data
    cdef const char* end = data + size
    cdef Py_ssize_t step
    body[0] = data
    body_size[0] = 0
    while p < end and not chunks.done:
        if chunks.phase == CHUNK_DATA:
            if body_size[0]:
                break
            step = end - p if <uint64_t>(end - p) < chunks.left else <Py_ssize_t>chunks.left
            body[0] = p
            body_size[0] = step
            chunks.left -= <uint64_t>step
            if chunks.left == 0:
                chunks.phase = CHUNK_END
        elif chunks.phase == CHUNK_END:
            # Exactly CRLF: any other two bytes are the start of somebody else's request.
            if p[0] != CR or (end - p >= 2 and p[1] != LF):
                return -400
            if end - p < 2:
                break
            chunks.phase = CHUNK_LINE
            step = 2
        else:
            step = read_chunk_line(limits, p, end, chunks)
            if step < 0:
                return step
            if step == 0:
                break
        p += step
    return p - data
