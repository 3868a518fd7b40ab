# The head of a request, judged: see head.pxd for the contract.
#
# Strict on purpose (RFC 9112): CRLF only, one space between parts, no line folding, no
# whitespace before a colon. A lenient server behind a strict proxy is how requests get
# smuggled, so there are no switches.
#
# The first line that breaks a rule decides the status. A line's limits come before its
# content; what concerns the whole head comes last, in finish_head().
#
# Field lines are scanned once, hoping: a line that turns out bad, or unfinished, is looked
# at again by refuse_field_line(), which alone tells the two apart.

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastserve._speedups.authority cimport is_authority
from fastserve._speedups.chunks cimport skip_parameter
from fastserve._speedups.scan cimport (
    DIGIT, TOKEN,
    find, is_in, same, skip, skip_letters, skip_target, skip_value)

cdef enum:
    SP = 0x20
    HTAB = 0x09
    CR = 0x0D
    LF = 0x0A

cdef enum:
    # Around the target: a method of at most 32 bytes, two spaces, the version, CRLF.
    REQUEST_LINE_EXTRA = 64
    MAX_METHOD_BYTES = 32
    VERSION_BYTES = 8           # "HTTP/1.1"
    MAX_UNDERSCORED = 32        # names with a "_": each is compared with all others

cdef enum Seen:                 # of Head.seen
    SEEN_HOST = 1
    SEEN_CONTENT_LENGTH = 2
    SEEN_TRANSFER_ENCODING = 4
    SEEN_OTHER_CODING = 8       # Transfer-Encoding names a coding we do not speak
    SEEN_OTHER_EXPECTATION = 16
    SEEN_UNDERSCORE = 32        # in the name of a field
    SEEN_UPGRADE = 64
    CONNECTION_CLOSE = 128
    CONNECTION_KEEP_ALIVE = 256
    CONNECTION_UPGRADE = 512
    TARGET_HAS_AUTHORITY = 1024  # absolute-form
    # Other fields of which there is one (RFC 9110 section 5.3; RFC 6454 section 7).
    SEEN_AUTHORIZATION = 1 << 11
    SEEN_CONTENT_LOCATION = 1 << 12
    SEEN_CONTENT_RANGE = 1 << 13
    SEEN_CONTENT_TYPE = 1 << 14
    SEEN_DATE = 1 << 15
    SEEN_FROM = 1 << 16
    SEEN_IF_MODIFIED_SINCE = 1 << 17
    SEEN_IF_RANGE = 1 << 18
    SEEN_IF_UNMODIFIED_SINCE = 1 << 19
    SEEN_MAX_FORWARDS = 1 << 20
    SEEN_ORIGIN = 1 << 21
    SEEN_PROXY_AUTHORIZATION = 1 << 22
    SEEN_RANGE = 1 << 23
    SEEN_REFERER = 1 << 24
    SEEN_USER_AGENT = 1 << 25


# -- The request line ---------------------------------------------------------------------


cdef inline uint8_t method_of(const char* name, Py_ssize_t size) noexcept nogil:
    # Methods are case-sensitive, RFC 9110 section 9.1.
    if size == 3:
        if name[0] == c"G" and name[1] == c"E" and name[2] == c"T":
            return METHOD_GET
        if name[0] == c"P" and name[1] == c"U" and name[2] == c"T":
            return METHOD_PUT
    elif size == 4:
        if name[0] == c"P" and name[1] == c"O" and name[2] == c"S" and name[3] == c"T":
            return METHOD_POST
        if name[0] == c"H" and name[1] == c"E" and name[2] == c"A" and name[3] == c"D":
            return METHOD_HEAD
    elif size == 5:
        if memcmp(name, b"PATCH", 5) == 0:
            return METHOD_PATCH
        if memcmp(name, b"TRACE", 5) == 0:
            return METHOD_TRACE
    elif size == 6:
        if memcmp(name, b"DELETE", 6) == 0:
            return METHOD_DELETE
    elif size == 7:
        if memcmp(name, b"OPTIONS", 7) == 0:
            return METHOD_OPTIONS
        if memcmp(name, b"CONNECT", 7) == 0:
            return METHOD_CONNECT
    return METHOD_OTHER


cdef inline int judge_path(
        const char* data, const char* path, const char* end, Head* head) noexcept nogil:
    # path [ "?" query ], printable ASCII without "#": a fragment is never sent (RFC 9112
    # section 3.2) and bytes from 0x80 are to be percent-encoded (RFC 3986 section 2).
    # The scan runs on to the version, for a vector's width: the space at `end` stops it.
    cdef const char* p = path
    head.path_start = <uint32_t>(path - data)
    head.path_size = <uint32_t>(end - path)
    while True:
        p = skip_target(p, end + 1 + VERSION_BYTES)
        if p == end:
            return 0
        if p[0] == c"%":
            if not head.has_query:
                head.path_escaped = True
        elif p[0] == c"?":
            if not head.has_query:
                head.has_query = True
                head.path_size = <uint32_t>(p - path)
                head.query_start = <uint32_t>(p + 1 - data)
                head.query_size = <uint32_t>(end - p - 1)
        else:
            return -400
        p += 1


cdef int judge_absolute_form(
        const char* data, const char* target, const char* end, Head* head) noexcept nogil:
    # http(s)://authority[/path][?query]; a server MUST accept it, RFC 9112 section 3.2.2.
    # The scheme is case-insensitive (RFC 3986 section 3.1), the authority is not empty
    # (RFC 9110 section 4.2.1).
    cdef const char* authority
    cdef const char* path
    if end - target < 8 or not same(target, b"http", 4):
        return -400
    authority = target + 4
    if authority[0] == c"s" or authority[0] == c"S":
        authority += 1
    if authority[0] != c":" or authority[1] != c"/" or authority[2] != c"/":
        return -400
    authority += 3
    path = authority
    while path < end and path[0] != c"/" and path[0] != c"?":
        path += 1
    if not is_authority(authority, path, False):
        return -400
    head.seen |= TARGET_HAS_AUTHORITY
    return judge_path(data, path, end, head)


cdef int judge_request_line(
        const Limits* limits, const char* data, const char* line, const char* lf,
        Head* head) noexcept nogil:
    # method SP request-target SP HTTP-version CRLF, RFC 9112 section 3. In this order:
    # the shape of the line (400), the version (505), the method (501), the target's
    # length (414), CONNECT (501 when well-formed), the target (400).
    cdef const char* end = lf - 1
    cdef const char* method_end
    cdef const char* target
    cdef const char* target_end
    cdef const char* version
    if lf == line or end[0] != CR:
        return -400
    method_end = skip(line, end, TOKEN)
    target = method_end + 1
    target_end = end - VERSION_BYTES - 1
    version = target_end + 1
    # One byte of target at least: then all reads below are inside the line.
    if method_end == line or target_end - target < 1 or method_end[0] != SP:
        return -400
    if target_end[0] != SP or memcmp(version, b"HTTP/", 5) != 0 or version[6] != c".":
        return -400
    if not is_in(version[5], DIGIT) or not is_in(version[7], DIGIT):
        return -400
    if version[5] != c"1" or version[7] > c"1":
        return -505 if find(target, target_end, SP) == target_end else -400
    head.minor_version = <uint8_t>(version[7] - c"0")
    head.method_start = <uint32_t>(line - data)
    head.method_size = <uint32_t>(method_end - line)
    head.target_start = <uint32_t>(target - data)
    head.target_size = <uint32_t>(target_end - target)
    if target[0] == c"/" and head.method_size <= MAX_METHOD_BYTES \
            and head.target_size <= limits.max_target_bytes:
        head.method = method_of(line, method_end - line)
        if head.method != METHOD_CONNECT:
            return judge_path(data, target, target_end, head)
    return judge_other_target(limits, data, target, target_end, head)


cdef int judge_other_target(
        const Limits* limits, const char* data, const char* target, const char* end,
        Head* head) noexcept nogil:
    # The rest of judge_request_line: refusals, and the targets that do not start with "/".
    if find(target, end, SP) != end:
        return -400
    if head.method_size > MAX_METHOD_BYTES:
        return -501
    if head.target_size > limits.max_target_bytes:
        return -414
    head.method = method_of(data + head.method_start, head.method_size)
    if head.method == METHOD_CONNECT:
        # authority-form is host ":" port, RFC 9112 section 3.2.3. We are no proxy.
        return -501 if is_authority(target, end, True) else -400
    if target[0] == c"*":
        # asterisk-form, RFC 9112 section 3.2.4
        if head.method != METHOD_OPTIONS or head.target_size != 1:
            return -400
        head.path_start = head.target_start
        head.path_size = 1
        return 0
    return judge_absolute_form(data, target, end, head)


# -- Fields -------------------------------------------------------------------------------


cdef inline bint is_space(char byte) noexcept nogil:
    # OWS, RFC 9110 section 5.6.3: not VT, FF, 0x85 or 0xA0, whatever a language calls space.
    return byte == SP or byte == HTAB


cdef inline const char* skip_spaces(const char* p, const char* end) noexcept nogil:
    while p < end and is_space(p[0]):
        p += 1
    return p


cdef inline const char* trim(const char* start, const char* end) noexcept nogil:
    while end > start and is_space((end - 1)[0]):
        end -= 1
    return end


cdef inline bint first_of(Head* head, uint32_t bit) noexcept nogil:
    if head.seen & bit:
        return False
    head.seen |= bit
    return True


cdef inline int judge_single(Head* head, uint32_t bit) noexcept nogil:
    return 0 if first_of(head, bit) else -400


cdef int judge_host(Head* head, const char* value, Py_ssize_t size) noexcept nogil:
    # Exactly one, valid, RFC 9112 section 3.2; a second one even if equal. An empty one is
    # for targets without an authority, which http URIs never are (RFC 9110 section 4.2.1);
    # only HTTP/1.0, which knew no Host, may leave it open.
    if not first_of(head, SEEN_HOST):
        return -400
    if size == 0:
        return -400 if head.minor_version or head.seen & TARGET_HAS_AUTHORITY else 0
    return 0 if is_authority(value, value + size, False) else -400


cdef int judge_content_length(Head* head, const char* value, Py_ssize_t size) noexcept nogil:
    # 1*DIGIT (RFC 9110 section 8.6). Lists and repetitions MAY be refused even if equal, and
    # are: RFC 9112 section 6.3. With Transfer-Encoding it is how requests get smuggled.
    cdef uint64_t length = 0
    cdef uint64_t digit
    cdef Py_ssize_t index
    if not first_of(head, SEEN_CONTENT_LENGTH) or size == 0 or head.seen & SEEN_TRANSFER_ENCODING:
        return -400
    for index in range(size):
        if not is_in(value[index], DIGIT):
            return -400
        digit = <uint64_t>(value[index] - c"0")
        if length > (<uint64_t>INT64_MAX - digit) // 10:
            return -400
        length = length * 10 + digit
    head.content_length = <int64_t>length
    return 0


cdef int judge_transfer_encoding(Head* head, const char* value, Py_ssize_t size) noexcept nogil:
    # Exactly "chunked". A well-formed list of codings (RFC 9112 section 7) that has chunked
    # nowhere but at its end names a coding we do not speak: 501 (section 6.1) once the head
    # is known to be sound. All else is 400, since then nobody knows where the body ends
    # (section 6.3): malformed, empty elements, chunked twice, not last or with parameters,
    # a second field, HTTP/1.0, Content-Length beside it.
    cdef const char* p = value
    cdef const char* end = value + size
    cdef const char* coding
    cdef bint chunked = False
    if not first_of(head, SEEN_TRANSFER_ENCODING) or head.minor_version == 0 \
            or head.seen & SEEN_CONTENT_LENGTH:
        return -400
    if size == 7 and same(value, b"chunked", 7):
        head.chunked = True
        return 0
    while True:
        coding = p
        p = skip(p, end, TOKEN)
        if p == coding or chunked:
            return -400
        chunked = p - coding == 7 and same(coding, b"chunked", 7)
        p = skip_spaces(p, end)
        while p < end and p[0] == c";":
            p = skip_parameter(skip_spaces(p + 1, end), end)
            if p == NULL or chunked:
                return -400
            p = skip_spaces(p, end)
        if p == end:
            break
        if p[0] != c",":
            return -400
        p = skip_spaces(p + 1, end)
    head.seen |= SEEN_OTHER_CODING
    return 0


cdef int judge_connection(Head* head, const char* value, Py_ssize_t size) noexcept nogil:
    # A list of tokens, empty elements allowed (RFC 9110 sections 7.6.1, 5.6.1.2). What it
    # lists adds up over several fields.
    cdef const char* p = value
    cdef const char* end = value + size
    cdef const char* option
    if size == 10 and same(value, b"keep-alive", 10):
        head.seen |= CONNECTION_KEEP_ALIVE
        return 0
    while True:
        p = skip_spaces(p, end)
        option = p
        p = skip(p, end, TOKEN)
        if p - option == 5 and same(option, b"close", 5):
            head.seen |= CONNECTION_CLOSE
        elif p - option == 10 and same(option, b"keep-alive", 10):
            head.seen |= CONNECTION_KEEP_ALIVE
        elif p - option == 7 and same(option, b"upgrade", 7):
            head.seen |= CONNECTION_UPGRADE
        p = skip_spaces(p, end)
        if p == end:
            return 0
        if p[0] != c",":
            return -400
        p += 1


cdef int judge_expect(Head* head, const char* value, Py_ssize_t size) noexcept nogil:
    # RFC 9110 section 10.1.1: ignored in HTTP/1.0, case-insensitive, others MAY get a 417.
    if head.minor_version == 1:
        if size == 12 and same(value, b"100-continue", 12):
            head.expect_continue = True
        else:
            head.seen |= SEEN_OTHER_EXPECTATION
    return 0


cdef int judge_field(
        Head* head, const char* name, Py_ssize_t name_size,
        const char* value, Py_ssize_t value_size) noexcept nogil:
    # The fields that say something about framing or the connection, and the singletons that
    # two readers must not resolve differently (RFC 9110 section 5.3). The name is a token
    # and the value is trimmed field content.
    if name_size == 4:
        if same(name, b"host", 4):
            return judge_host(head, value, value_size)
        if same(name, b"date", 4):
            return judge_single(head, SEEN_DATE)
        if same(name, b"from", 4):
            return judge_single(head, SEEN_FROM)
    elif name_size == 5:
        if same(name, b"range", 5):
            return judge_single(head, SEEN_RANGE)
    elif name_size == 6:
        if same(name, b"expect", 6):
            return judge_expect(head, value, value_size)
        if same(name, b"origin", 6):
            return judge_single(head, SEEN_ORIGIN)
    elif name_size == 7:
        if same(name, b"upgrade", 7):
            head.seen |= SEEN_UPGRADE
        elif same(name, b"referer", 7):
            return judge_single(head, SEEN_REFERER)
    elif name_size == 8:
        if same(name, b"if-range", 8):
            return judge_single(head, SEEN_IF_RANGE)
    elif name_size == 10:
        if same(name, b"connection", 10):
            return judge_connection(head, value, value_size)
        if same(name, b"user-agent", 10):
            return judge_single(head, SEEN_USER_AGENT)
    elif name_size == 12:
        if same(name, b"content-type", 12):
            return judge_single(head, SEEN_CONTENT_TYPE)
        if same(name, b"max-forwards", 12):
            return judge_single(head, SEEN_MAX_FORWARDS)
    elif name_size == 13:
        if same(name, b"authorization", 13):
            return judge_single(head, SEEN_AUTHORIZATION)
        if same(name, b"content-range", 13):
            return judge_single(head, SEEN_CONTENT_RANGE)
    elif name_size == 14:
        if same(name, b"content-length", 14):
            return judge_content_length(head, value, value_size)
    elif name_size == 16:
        if same(name, b"content-location", 16):
            return judge_single(head, SEEN_CONTENT_LOCATION)
    elif name_size == 17:
        if same(name, b"transfer-encoding", 17):
            return judge_transfer_encoding(head, value, value_size)
        if same(name, b"if-modified-since", 17):
            return judge_single(head, SEEN_IF_MODIFIED_SINCE)
    elif name_size == 19:
        if same(name, b"if-unmodified-since", 19):
            return judge_single(head, SEEN_IF_UNMODIFIED_SINCE)
        if same(name, b"proxy-authorization", 19):
            return judge_single(head, SEEN_PROXY_AUTHORIZATION)
    return 0


cdef inline char folded(char byte) noexcept nogil:
    # As gateways fold the names of fields: CGI (RFC 3875 section 4.1.18), and WSGI after it.
    if c"A" <= byte <= c"Z":
        return byte | 0x20
    return c"-" if byte == c"_" else byte


cdef bint same_folded(const char* left, const char* right, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t index
    for index in range(size):
        if folded(left[index]) != folded(right[index]):
            return False
    return True


cdef bint is_shadowed(const Field* field, const char* fields, const char* end) noexcept nogil:
    # Whether another name is this one but for a "_" that is a "-".
    cdef Field other
    cdef Py_ssize_t index
    while next_field(&fields, end, &other):
        if other.name_size == field.name_size \
                and same_folded(other.name, field.name, other.name_size):
            for index in range(other.name_size):
                if (other.name[index] == c"_") != (field.name[index] == c"_"):
                    return True
    return False


cdef int judge_underscores(const Head* head, const char* data) noexcept nogil:
    # To us "X_A" and "X-A" are two names. To a gateway that folds them they are one, and what
    # a client sent overrides what a proxy said: so both at once are refused, and framing with
    # a "_" always.
    cdef const char* fields = data + head.fields_start
    cdef const char* end = data + head.line_start
    cdef const char* cursor = fields
    cdef Field field
    cdef int count = 0
    while next_field(&cursor, end, &field):
        if find(field.name, field.name + field.name_size, c"_") == field.name + field.name_size:
            continue
        count += 1
        if count > MAX_UNDERSCORED:
            return -431
        if field.name_size == 14 and same_folded(field.name, b"content-length", 14):
            return -400
        if field.name_size == 17 and same_folded(field.name, b"transfer-encoding", 17):
            return -400
        if is_shadowed(&field, fields, end):
            return -400
    return 0


cdef int finish_head(Head* head) noexcept nogil:
    # What only the whole head tells.
    cdef uint32_t upgrade = SEEN_UPGRADE | CONNECTION_UPGRADE
    if head.minor_version == 1 and not head.seen & SEEN_HOST:
        return -400     # RFC 9112 section 3.2
    if head.seen & SEEN_OTHER_CODING:
        return -501
    if head.seen & SEEN_OTHER_EXPECTATION:
        return -417
    if not head.seen & SEEN_CONTENT_LENGTH:
        head.content_length = -1
    # RFC 9112 section 9.3
    head.keep_alive = not head.seen & CONNECTION_CLOSE and (
        head.minor_version == 1 or head.seen & CONNECTION_KEEP_ALIVE != 0)
    # RFC 9110 section 7.8: ignored in HTTP/1.0, and without the connection option. With a
    # body, the new protocol would begin where nobody can be sure: ignored, as it may be.
    head.upgrade = head.minor_version == 1 and head.seen & upgrade == upgrade \
        and not head.chunked and head.content_length <= 0
    return 0


# -- The head -----------------------------------------------------------------------------


cdef int judge_size_of_line(
        const Limits* limits, const Head* head, Py_ssize_t size, bint blank) noexcept nogil:
    # A line whose LF is inside max_head_bytes.
    if head.phase != FIELDS:
        return -414 if size > <Py_ssize_t>limits.max_target_bytes + REQUEST_LINE_EXTRA else 0
    if size > limits.max_field_bytes or (not blank and head.header_count >= limits.max_headers):
        return -431
    return 0


cdef int judge_size_of_rest(
        const Limits* limits, const Head* head, Py_ssize_t size) noexcept nogil:
    # All bytes from line_start on, `size` of them inside max_head_bytes, hold no LF: the
    # line will be longer than that. The limit that is nearer has been crossed first, so
    # splitting does not change the status.
    if head.phase != FIELDS:
        if size >= <Py_ssize_t>limits.max_target_bytes + REQUEST_LINE_EXTRA:
            return -414
    elif size >= limits.max_field_bytes:
        return -431
    return -431 if head.line_start + size >= limits.max_head_bytes else 0


cdef Py_ssize_t wait(
        const Limits* limits, const char* data, const char* stop, Head* head) noexcept nogil:
    # No LF from line_start to stop.
    head.scanned = <uint32_t>(stop - data)
    return judge_size_of_rest(limits, head, stop - data - head.line_start)


cdef Py_ssize_t refuse_field_line(
        const Limits* limits, const char* data, const char* bad, const char* stop,
        Head* head) noexcept nogil:
    # The line at line_start is unfinished, or wrong at `bad`; no LF is before that.
    cdef const char* line = data + head.line_start
    cdef const char* lf = find(bad, stop, LF)
    cdef int status
    if lf == stop:
        return wait(limits, data, stop, head)
    status = judge_size_of_line(limits, head, lf + 1 - line, False)
    return status if status else -400


cdef Py_ssize_t read_fields(
        const Limits* limits, const char* data, const char* stop, Head* head) noexcept nogil:
    # field-name ":" OWS field-value OWS CRLF, RFC 9112 section 5. Empty names, space before
    # the colon (5.1) and folded lines (5.2) all begin with something that is no token.
    cdef const char* line = data + head.line_start
    cdef const char* p
    cdef const char* value
    cdef const char* value_end
    cdef Py_ssize_t name_size
    cdef int status
    while line < stop:
        head.line_start = <uint32_t>(line - data)
        p = skip_letters(line, stop)
        if p < stop and p[0] != c":":
            p = skip(p, stop, TOKEN)
            if find(line, p, c"_") != p:
                head.seen |= SEEN_UNDERSCORE
        if p == stop:
            break
        name_size = p - line
        if name_size == 0 or p[0] != c":":
            if p[0] != CR or name_size:
                return refuse_field_line(limits, data, p, stop, head)
            if p + 1 == stop:
                break
            if p[1] != LF:
                return refuse_field_line(limits, data, p, stop, head)
            status = judge_size_of_line(limits, head, 2, True)
            if status == 0 and head.seen & SEEN_UNDERSCORE:
                status = judge_underscores(head, data)
            if status == 0:
                status = finish_head(head)
            return status if status else p + 2 - data
        value = skip_spaces(p + 1, stop)
        p = skip_value(value, stop)     # the request line is more than 16 bytes before `stop`
        if stop - p < 2 or p[0] != CR or p[1] != LF:
            return refuse_field_line(limits, data, p, stop, head)
        value_end = trim(value, p)
        p += 2
        status = judge_size_of_line(limits, head, p - line, False)
        if status == 0:
            status = judge_field(head, line, name_size, value, value_end - value)
        if status:
            return status
        head.header_count += 1
        line = p
    head.line_start = <uint32_t>(line - data)
    return wait(limits, data, stop, head)


cdef inline bint recall(
        const FieldMemo* memo, const char* fields, const char* stop, Head* head) noexcept nogil:
    # Do the fields that were accepted before come again? What they mean depends on nothing but
    # their bytes, the version, what the target said of the authority, and the limits; and these
    # bytes are all below `stop`.
    cdef const Head* kept = &memo.head
    if memo.size == 0 or stop - fields < memo.size or head.minor_version != kept.minor_version:
        return False
    if head.seen != kept.seen & TARGET_HAS_AUTHORITY:
        return False
    if memcmp(fields, memo + 1, memo.size) != 0:
        return False
    head.content_length = kept.content_length
    head.chunked = kept.chunked
    head.keep_alive = kept.keep_alive
    head.expect_continue = kept.expect_continue
    head.upgrade = kept.upgrade
    head.header_count = kept.header_count
    head.seen = kept.seen
    head.recalled = True
    return True


cdef inline void remember(
        FieldMemo* memo, const char* fields, Py_ssize_t size, const Head* head) noexcept nogil:
    memo.size = 0
    if size <= memo.capacity:
        memo.size = <uint32_t>size
        memo.head = head[0]
        memcpy(memo + 1, fields, <size_t>size)


cdef Py_ssize_t read_head(
        const Limits* limits, const char* data, Py_ssize_t size, Head* head,
        FieldMemo* memo) noexcept nogil:
    # All reads are below `stop`: a head that is not complete there is too large.
    cdef const char* stop = data + (size if size < limits.max_head_bytes else limits.max_head_bytes)
    cdef const char* line
    cdef const char* lf
    cdef Py_ssize_t consumed
    cdef int status
    if head.scanned and find(data + head.scanned, stop, LF) == stop:
        return wait(limits, data, stop, head)
    while head.phase != FIELDS:
        line = data + head.line_start
        lf = find(line, stop, LF)
        if lf == stop:
            return wait(limits, data, stop, head)
        head.line_start = <uint32_t>(lf + 1 - data)
        if head.phase == FIRST_LINE:
            head.phase = REQUEST_LINE
            # RFC 9112 section 2.2: at least one empty line before the request line SHOULD
            # be ignored; one is what old clients sent behind a POST.
            if lf - line == 1 and line[0] == CR:
                continue
        status = judge_size_of_line(limits, head, lf + 1 - line, False)
        if status == 0:
            status = judge_request_line(limits, data, line, lf, head)
        if status:
            return status
        head.fields_start = head.line_start
        head.phase = FIELDS
        if memo != NULL and recall(memo, data + head.fields_start, stop, head):
            return head.fields_start + memo.size
    consumed = read_fields(limits, data, stop, head)
    if memo != NULL and consumed > 0:
        remember(memo, data + head.fields_start, consumed - head.fields_start, head)
    return consumed


cdef bint next_field(const char** cursor, const char* end, Field* field) noexcept nogil:
    cdef const char* p = cursor[0]
    if p >= end or p[0] == CR:
        return False
    field.name = p
    p = find(p, end, c":")
    field.name_size = <uint32_t>(p - field.name)
    p = skip_spaces(p + 1, end)
    field.value = p
    p = find(p, end, CR)
    field.value_size = <uint32_t>(trim(field.value, p) - field.value)
    cursor[0] = p + 2
    return True
