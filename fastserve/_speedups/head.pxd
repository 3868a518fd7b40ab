# The head of a request, judged (RFC 9112 sections 2-6).
#
# Nothing in here allocates, reads past `data + size`, or keeps anything but in the structs it
# is handed. read_head() returns
#   > 0  bytes consumed
#     0  more bytes are needed; call again with the same start and more behind it
#   < 0  minus the status code to answer (400, 414, 417, 431, 501, 505)
#
# A line is judged when its LF has arrived or when it outgrows its limit, never
# before: so every split of the same bytes has the same verdict.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from fastserve._speedups.chunks cimport ChunkLimits

cpdef enum Method:
    METHOD_OTHER = 0        # any other token; compare its bytes
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3
    METHOD_PUT = 4
    METHOD_DELETE = 5
    METHOD_PATCH = 6
    METHOD_OPTIONS = 7
    METHOD_TRACE = 8
    METHOD_CONNECT = 9

cdef enum Phase:                # of Head.phase
    FIRST_LINE = 0              # one empty line may still be skipped
    REQUEST_LINE = 1
    FIELDS = 2

cdef struct Limits:
    uint32_t max_head_bytes         # whole head, request line and blank line included -> 431
    uint32_t max_field_bytes        # one field line, CRLF included -> 431
    uint32_t max_headers            # field lines -> 431
    uint32_t max_target_bytes       # the request target -> 414
    ChunkLimits body

cdef struct Head:
    # Offsets from the `data` given to parse_head; valid once it returned > 0.
    uint32_t method_start
    uint32_t method_size
    uint32_t target_start           # the target as sent
    uint32_t target_size
    uint32_t path_start             # of an absolute-form target: behind the authority
    uint32_t path_size              # 0 for "http://host" without a path: means "/"
    uint32_t query_start
    uint32_t query_size             # without the "?"
    uint32_t fields_start           # first field line; the fields end 2 bytes before the head
    int64_t content_length          # -1: no Content-Length
    uint8_t method                  # Method
    uint8_t minor_version           # 0 or 1
    bint path_escaped               # the path holds a "%"
    bint chunked                    # Transfer-Encoding: chunked
    bint keep_alive                 # by version and Connection, RFC 9112 section 9.3
    bint expect_continue            # Expect: 100-continue, in HTTP/1.1
    bint upgrade                    # HTTP/1.1, no body, Upgrade present, Connection lists it
    bint has_query                  # there was a "?"
    bint recalled                   # the fields are those of the memo, byte for byte
    # To resume. All zero before the first byte of a head.
    uint8_t phase
    uint16_t header_count
    uint32_t seen                   # bit set of what the fields have said so far
    uint32_t line_start             # the first line not judged yet
    uint32_t scanned                # no LF between line_start and here

cdef struct Field:
    # One field of a head that parse_head accepted; the value is trimmed.
    const char* name
    uint32_t name_size
    const char* value
    uint32_t value_size

cdef struct FieldMemo:
    # The fields of the last accepted head of a connection, and what they meant: most clients
    # send the same with every request, and the same bytes need not be judged twice. Behind
    # the struct lie `capacity` bytes for them. Whoever has one allocates and frees it.
    uint32_t capacity
    uint32_t size                   # of the fields and the blank line; 0: nothing is kept
    Head head                       # as they left it

cdef enum:
    MAX_MEMO_BYTES = 2048           # fields that are longer are judged each time

# Step over one field line of an accepted head; false at the blank line.
cdef bint next_field(const char** cursor, const char* end, Field* field) noexcept nogil

# The rules, one line at a time; shared by both backends. `lf` is the LF that ends the line.
# 0, or minus the status to answer.
cdef int judge_request_line(
    const Limits* limits, const char* data, const char* line, const char* lf,
    Head* head) noexcept nogil
cdef int judge_field(
    Head* head, const char* name, Py_ssize_t name_size,
    const char* value, Py_ssize_t value_size) noexcept nogil
# At the blank line, in this order; the first only where a name holds a "_".
cdef int judge_underscores(const Head* head, const char* data) noexcept nogil
cdef int finish_head(Head* head) noexcept nogil

# A line of `size` bytes that has its LF, or a begun one that has not: is it too long?
cdef int judge_size_of_line(
    const Limits* limits, const Head* head, Py_ssize_t size, bint blank) noexcept nogil
cdef int judge_size_of_rest(
    const Limits* limits, const Head* head, Py_ssize_t size) noexcept nogil

# memo: NULL, or what the connection's heads before this one left; kept up.
cdef Py_ssize_t read_head(
    const Limits* limits, const char* data, Py_ssize_t size, Head* head,
    FieldMemo* memo) noexcept nogil
